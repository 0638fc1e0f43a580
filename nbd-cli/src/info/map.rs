//! The extents of a meta context.

use std::fmt::Write;
use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;
use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::target::Server;

pub(super) fn run(
    server: &Server,
    context: &str,
    as_json: bool,
    timeout: Duration,
) -> Result<String> {
    let config = ClientConfig::new().meta_context(context);
    let mut client = server.connect(config, timeout)?;
    if client.context(context).is_none() {
        let name = &server.name;
        return Err(Failure::new(format!("{name}: the server has no meta context `{context}`")));
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
    client.disconnect().context(&server.name)?;
    Ok(if as_json { format!("{:#}\n", Value::Array(rows)) } else { text })
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
