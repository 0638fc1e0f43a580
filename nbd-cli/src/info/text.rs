//! For people.

use std::fmt::Write;

use nbd_client_blocking::proto::escape;

use super::describe::{ABILITIES, Described, Session};

pub(super) fn render(session: &Session, exports: &[Described]) -> String {
    let mut out = String::new();
    let packets = session.headers;
    let with = if session.tls.is_some() { "with" } else { "without" };
    // Writing to a string does not fail.
    let _ = writeln!(out, "protocol: {} {with} TLS, using {packets} packets", session.protocol);
    if let Some(info) = &session.tls {
        super::tls::text(&mut out, info);
    }
    for export in exports {
        describe(&mut out, export);
    }
    out
}

fn describe(out: &mut String, export: &Described) {
    let _ = writeln!(out, "export=\"{}\":", escape(export.name.as_bytes()));
    if let Some(text) = &export.description {
        let _ = writeln!(out, "\tdescription: {}", escape(text.as_bytes()));
    }
    let info = match &export.info {
        Ok(info) => info,
        Err(reason) => {
            let _ = writeln!(out, "\tunknown: {}", escape(reason.as_bytes()));
            return;
        }
    };
    let _ = writeln!(out, "\texport-size: {}", size(info.size));
    if let Some(content) = &export.content {
        let _ = writeln!(out, "\tcontent: {}", escape(content.as_bytes()));
    }
    if let Some(uri) = &export.uri {
        let _ = writeln!(out, "\turi: {uri}");
    }
    match &export.contexts {
        Ok(contexts) if contexts.is_empty() => {}
        Ok(contexts) => {
            let _ = writeln!(out, "\tcontexts:");
            for context in contexts {
                let _ = writeln!(out, "\t\t{}", escape(context.as_bytes()));
            }
        }
        Err(reason) => {
            let _ = writeln!(out, "\tcontexts: unknown: {}", escape(reason.as_bytes()));
        }
    }
    for (name, flag) in ABILITIES {
        let _ = writeln!(out, "\t{name}: {}", info.flags.contains(flag));
    }
    if let Some(sizes) = info.block_sizes {
        let _ = writeln!(out, "\tblock_size_minimum: {}", size(sizes.minimum.into()));
        let _ = writeln!(out, "\tblock_size_preferred: {}", size(sizes.preferred.into()));
        let _ = writeln!(out, "\tblock_size_maximum: {}", size(sizes.maximum.into()));
    }
}

/// In bytes, and with a unit where that is shorter.
fn size(bytes: u64) -> String {
    let (exact, human) = (bytes.to_string(), crate::size::format(bytes));
    if exact == human { exact } else { format!("{exact} ({human})") }
}
