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
    let (size, human) = (info.size.to_string(), crate::size::format(info.size));
    let _ = match size == human {
        true => writeln!(out, "\texport-size: {size}"),
        false => writeln!(out, "\texport-size: {size} ({human})"),
    };
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
        let _ = writeln!(out, "\tblock_size_minimum: {}", sizes.minimum);
        let _ = writeln!(out, "\tblock_size_preferred: {}", sizes.preferred);
        let _ = writeln!(out, "\tblock_size_maximum: {}", sizes.maximum);
    }
}
