//! What was measured, and how it is told.

use std::time::Duration;

use hdrhistogram::Histogram;
use nbd_client_blocking::proto::Stats;
use serde_json::json;

use super::{Args, Direction};
use crate::size;

/// What one connection, or all of them, measured.
pub(super) struct Tally {
    latency: Histogram<u64>,
    /// A latency that was seen so many times in a row: what travels together takes
    /// equally long.
    run: (u64, u64),
    pub(super) operations: u64,
    pub(super) system_calls: u64,
    pub(super) stats: Stats,
}

impl Tally {
    pub(super) fn new() -> Self {
        // Nanoseconds up to an hour, three digits.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3);
        Self {
            latency: latency.expect("bounds in order and at most five digits"),
            run: (0, 0),
            operations: 0,
            system_calls: 0,
            stats: Stats::default(),
        }
    }

    pub(super) fn record(&mut self, nanos: u64) {
        if nanos == self.run.0 {
            self.run.1 += 1;
        } else {
            self.end_run();
            self.run = (nanos, 1);
        }
    }

    pub(super) fn end_run(&mut self) {
        let (nanos, count) = std::mem::take(&mut self.run);
        self.latency.saturating_record_n(nanos, count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        // Both histograms have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.operations += other.operations;
        self.system_calls += other.system_calls;
        self.stats.bytes_copied += other.stats.bytes_copied;
        self.stats.bytes_placed += other.stats.bytes_placed;
    }
}

pub(super) fn report(args: &Args, total: &Tally, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let operations = total.operations.max(1) as f64;
    let per_second = total.operations as f64 / seconds;
    let mib = per_second * args.size as f64 / f64::from(1 << 20);
    let micros = |quantile| total.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let calls = total.system_calls as f64 / operations;
    let placed = total.stats.bytes_placed as f64;
    let share = placed / (placed + total.stats.bytes_copied as f64).max(1.0);
    if args.json {
        let value = json!({
            "operations": total.operations,
            "seconds": seconds,
            "ops_per_s": per_second,
            "mib_per_s": mib,
            "latency_us": { "p50": micros(0.5), "p99": micros(0.99), "p99_9": micros(0.999) },
            "syscalls_per_op": calls,
            "placed_share": share,
        });
        return format!("{value:#}\n");
    }
    let direction = if args.rw == Direction::Read { "read" } else { "write" };
    format!(
        "{} {direction}s of {} in {seconds:.2} s: {per_second:.0} per second, {mib:.1} MiB/s\n\
         latency: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us\n\
         system calls per request: {calls:.3}\n",
        total.operations,
        size::format(args.size),
        micros(0.5),
        micros(0.99),
        micros(0.999),
    )
}
