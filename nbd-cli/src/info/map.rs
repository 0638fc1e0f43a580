//! The extents of a meta context.

use std::collections::BTreeMap;
use std::io::{self, Seek, Write};
use std::time::Duration;

use nbd_client_blocking::PlacedExtent;
use nbd_client_blocking::proto::{ClientConfig, HeaderStyle};
use serde_json::{Value, json};
use tempfile::SpooledTempFile;

use crate::extents;
use crate::failure::{Context, Failure, Result};
use crate::output::wrote;
use crate::target::Server;

/// A map that is longer than this many bytes waits for its end in a file.
const IN_MEMORY: usize = 1 << 20;

pub(super) fn run(
    server: &Server,
    context: &str,
    as_json: bool,
    totals: bool,
    limit: Option<Duration>,
) -> Result<()> {
    let config = ClientConfig::new().meta_context(context);
    let mut client = server.connect(config, limit)?;
    if client.context(context).is_none() {
        let name = &server.name;
        return Err(Failure::new(format!(
            "{name}: the server has no meta context `{context}`; {}",
            there_are(server, limit)
        )));
    }
    let size = client.size();
    let mut rows = Rows::new(as_json);
    let mut sums = BTreeMap::new();
    extents::walk(&mut client, server, &[context], 0..size, limit, |segment| {
        let PlacedExtent { offset, extent, .. } = segment.placed();
        let status = extent.status;
        if totals {
            *sums.entry(status).or_insert(0) += extent.length;
            return Ok(());
        }
        let words = describe(context, status);
        rows.add(
            words,
            &[("offset", json!(offset)), ("length", json!(extent.length))],
            status,
            || format!("{offset:10}  {:10}  {status:3}  ", extent.length),
        )
    })?;
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    for (status, sum) in sums {
        let percent = 100.0 * sum as f64 / size as f64;
        let words = describe(context, status);
        rows.add(words, &[("size", json!(sum)), ("percent", json!(percent))], status, || {
            format!("{sum:10} {percent:5.1}% {status:3} ")
        })?;
    }
    rows.print()
}

/// Rows of a table, which are printed when all are there, or none.
struct Rows {
    as_json: bool,
    count: usize,
    spool: SpooledTempFile,
}

impl Rows {
    fn new(as_json: bool) -> Self {
        Self { as_json, count: 0, spool: SpooledTempFile::new(IN_MEMORY) }
    }

    fn add(
        &mut self,
        words: Option<String>,
        keys: &[(&str, Value)],
        status: u64,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let line = if self.as_json {
            let mut row: serde_json::Map<_, _> =
                keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            row.insert("type".to_owned(), json!(status));
            if let Some(words) = words {
                row.insert("description".to_owned(), json!(words));
            }
            let before = if self.count == 0 { "[\n" } else { ",\n" };
            format!("{before}{}", Value::Object(row))
        } else {
            let line = text() + &words.unwrap_or_default();
            format!("{}\n", line.trim_end())
        };
        self.count += 1;
        self.spool.write_all(line.as_bytes()).context("a temporary file")
    }

    fn print(mut self) -> Result<()> {
        let end = match (self.as_json, self.count) {
            (false, _) => "",
            (true, 0) => "[]\n",
            (true, _) => "\n]\n",
        };
        self.spool.write_all(end.as_bytes()).context("a temporary file")?;
        self.spool.rewind().context("a temporary file")?;
        let mut stdout = io::stdout().lock();
        let copied = io::copy(&mut self.spool, &mut stdout).and_then(|_| stdout.flush());
        wrote(copied)
    }
}

/// Which meta contexts there are, in words.
fn there_are(server: &Server, limit: Option<Duration>) -> String {
    let options = server.negotiate(ClientConfig::new(), limit);
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
