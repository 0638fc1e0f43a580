//! The extents of a meta context.

use std::fmt::Write;
use std::time::Duration;

use nbd_client_blocking::proto::{ClientConfig, HeaderStyle};
use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::target::Server;

pub(super) fn run(
    server: &Server,
    context: &str,
    as_json: bool,
    timeout: Option<Duration>,
) -> Result<String> {
    let config = ClientConfig::new().meta_context(context);
    let mut client = server.connect(config, timeout)?;
    if client.context(context).is_none() {
        let name = &server.name;
        return Err(Failure::new(format!(
            "{name}: the server has no meta context `{context}`; {}",
            there_are(server, timeout)
        )));
    }
    let size = client.size();
    let mut rows = Vec::new();
    let mut text = String::new();
    for placed in client.extents(context, 0..size).context(&server.name)? {
        let placed = placed.context(&server.name)?;
        let (offset, length) = (placed.offset, placed.extent.length);
        let status = placed.extent.status;
        let words = describe(context, status);
        if as_json {
            let mut row = json!({ "offset": offset, "length": length, "type": status });
            if let (Some(words), Value::Object(map)) = (words, &mut row) {
                map.insert("description".to_owned(), json!(words));
            }
            rows.push(row);
        } else {
            let words = words.unwrap_or_default();
            let line = format!("{offset:10}  {length:10}  {status:3}  {words}");
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    Ok(if as_json { format!("{:#}\n", Value::Array(rows)) } else { text })
}

/// Which meta contexts there are, in words.
fn there_are(server: &Server, timeout: Option<Duration>) -> String {
    let options = server.negotiate(ClientConfig::new(), timeout);
    let contexts = options.and_then(|mut options| {
        let contexts = match options.negotiated().headers {
            HeaderStyle::Simple => Ok(Vec::new()),
            _ => options.list_meta_contexts(&[]).context("it does not tell which it has"),
        };
        let _ = options.abort();
        contexts
    });
    match contexts {
        Ok(contexts) if contexts.is_empty() => "it has none".to_owned(),
        Ok(contexts) => {
            let names: Vec<_> = contexts.iter().map(|context| context.name.as_str()).collect();
            format!("it has {}", names.join(", "))
        }
        Err(failure) => failure.to_string(),
    }
}

/// What a status means, where the context is a known one.
fn describe(context: &str, status: u64) -> Option<String> {
    let words = match (context, status) {
        ("base:allocation", 0) => "data",
        ("base:allocation", 1) => "hole",
        ("base:allocation", 2) => "zero",
        ("base:allocation", 3) => "hole,zero",
        ("qemu:allocation-depth", 0) => "absent",
        ("qemu:allocation-depth", 1) => "local",
        ("qemu:allocation-depth", depth) => return Some(format!("backing depth {depth}")),
        (bitmap, 0) if bitmap.starts_with("qemu:dirty-bitmap:") => "clean",
        (bitmap, 1) if bitmap.starts_with("qemu:dirty-bitmap:") => "dirty",
        _ => return None,
    };
    Some(words.to_owned())
}
