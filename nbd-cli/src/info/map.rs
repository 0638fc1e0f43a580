//! The extents of a meta context.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use nbd_client_blocking::PlacedExtent;
use nbd_client_blocking::proto::ClientConfig;
use serde_json::{Value, json};
use tempfile::SpooledTempFile;

use crate::extents;
use crate::failure::{Context, Result};
use crate::map::describe;
use crate::output::print_file;
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
        // There are servers that serve one connection at a time.
        drop(client);
        return Err(extents::no_context(server, context, limit));
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
        print_file("", &mut self.spool)
    }
}
