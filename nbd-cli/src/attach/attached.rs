//! `nbd attached`: which devices there are, and how they are.

use serde_json::json;

use super::record::{self, Record};
use super::status::Health;
use crate::failure::Result;
use crate::output::Form;
use crate::size;

/// Show block devices that `nbd attach` has made.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --json: devices, a list of what is known of each, and its state.")]
pub(crate) struct AttachedArgs {
    #[command(flatten)]
    form: Form,
}

/// Shows all devices.
///
/// # Errors
///
/// When standard output takes nothing.
pub(crate) fn run(args: &AttachedArgs) -> Result<()> {
    let records = record::all();
    let device = |record| {
        let mut value = serde_json::to_value(record).unwrap_or_default();
        value["state"] = json!(state(record));
        value
    };
    let devices = || json!({"devices": records.iter().map(device).collect::<Vec<_>>()});
    args.form.print(|| table(&records, record::now()), devices)
}

/// In a word.
fn state(record: &Record) -> &'static str {
    match record.state {
        Health::Failed => "failed",
        _ if !record.is_served() => "dead",
        Health::Connected => "connected",
        Health::Reconnecting => "reconnecting",
    }
}

fn table(records: &[Record], now: u64) -> String {
    let heading = ["DEVICE", "SIZE", "STATE", "RECONNECTS", "FOR", "URI"].map(str::to_owned);
    let rows = records.iter().map(|record| {
        [
            record.device.clone(),
            size::format(record.size),
            state(record).to_owned(),
            record.reconnects.to_string(),
            age(now.saturating_sub(record.since)),
            match &record.in_use[..] {
                [] => record.uri.clone(),
                servers => servers.join(" "),
            },
        ]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            match width(column) {
                Some(width) if column + 1 < row.len() => text.push_str(&format!("{cell:width$}  ")),
                _ => text.push_str(cell),
            }
        }
        text.push('\n');
    }
    text
}

/// The two largest units of a time in seconds.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_stand_in_columns() {
        let record = |device: &str, uri: &str| Record {
            device: device.to_owned(),
            uri: uri.to_owned(),
            also: Vec::new(),
            in_use: Vec::new(),
            pid: u32::MAX,
            process_start: 1,
            state: Health::Connected,
            size: 1 << 30,
            block_size: 512,
            connections: 1,
            reconnects: 12,
            since: 1000,
            last_error: None,
            loss: None,
        };
        let mut records = [record("/dev/nbd0", "nbd://a"), record("/dev/nbd10", "nbd://b")];
        records[1].also = vec!["nbd://c".to_owned()];
        records[1].in_use = records[1].also.clone();
        let told = table(&records, 1000 + 3 * 3600 + 61);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "DEVICE      SIZE  STATE  RECONNECTS  FOR   URI");
        assert_eq!(lines[1], "/dev/nbd0   1G    dead   12          3h1m  nbd://a");
        assert_eq!(lines[2], "/dev/nbd10  1G    dead   12          3h1m  nbd://c");
    }

    #[test]
    fn a_time_is_told_in_two_units() {
        let told = [0, 59, 61, 3661, 90_000].map(age);
        assert_eq!(told, ["0s", "59s", "1m1s", "1h1m", "1d1h"]);
    }
}
