//! What was measured, and how it is told.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use nbd_client_blocking::proto::Stats;
use serde_json::{Value, json};

use crate::output::document;

use super::verify::{Counts, STALL};
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

/// What a load without checks came to.
pub(super) fn report(args: &Args, total: &Tally, elapsed: Duration) -> String {
    let speed = Speed::of(args, total, elapsed);
    if args.json {
        return document(speed.json());
    }
    let direction = if args.rw == Direction::Read { "read" } else { "write" };
    format!("{} {direction}s of {speed}", total.operations)
}

/// What a load whose every read was compared came to.
pub(super) fn report_verified(args: &Args, total: &Tally, counts: &Counts) -> String {
    let speed = Speed::of(args, total, counts.elapsed);
    let longest = counts.longest.as_secs_f64();
    if args.json {
        let mut value = speed.json();
        value["verify"] = json!({
            "reads": counts.reads,
            "writes": counts.writes,
            "flushes": counts.flushes,
            "failed": counts.failed,
            "looked_at": counts.looked_at,
            "unread": counts.unread,
            "mismatches": counts.mismatches,
            "reconnects": counts.reconnects,
            "sent_again": counts.sent_again,
            "stalls": counts.stalls,
            "longest_stall": longest,
        });
        return document(value);
    }
    format!(
        "{} commands of {speed}\
         done: {} reads, {} writes, {} flushes; failed: {}\n\
         compared: every read, and {} blocks at the end; mismatches: {}\n\
         connected again: {} times; sent again: {} commands\n\
         times without an answer for {} ms: {}; the longest: {longest:.3} s\n",
        total.operations,
        counts.reads,
        counts.writes,
        counts.flushes,
        counts.failed,
        counts.looked_at,
        counts.mismatches,
        counts.reconnects,
        counts.sent_again,
        STALL.as_millis(),
        counts.stalls,
    )
}

/// How fast it went, from one request's size on.
struct Speed {
    operations: u64,
    size: u64,
    seconds: f64,
    per_second: f64,
    mib: f64,
    p50: f64,
    p99: f64,
    p99_9: f64,
    system_calls: f64,
    placed_share: f64,
}

impl Speed {
    fn of(args: &Args, total: &Tally, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let per_second = total.operations as f64 / seconds;
        let micros = |quantile| total.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let placed = total.stats.bytes_placed as f64;
        Self {
            operations: total.operations,
            size: args.size,
            seconds,
            per_second,
            mib: per_second * args.size as f64 / f64::from(1 << 20),
            p50: micros(0.5),
            p99: micros(0.99),
            p99_9: micros(0.999),
            system_calls: total.system_calls as f64 / total.operations.max(1) as f64,
            placed_share: placed / (placed + total.stats.bytes_copied as f64).max(1.0),
        }
    }

    fn json(&self) -> Value {
        json!({
            "operations": self.operations,
            "seconds": self.seconds,
            "ops_per_s": self.per_second,
            "mib_per_s": self.mib,
            "latency_us": { "p50": self.p50, "p99": self.p99, "p99_9": self.p99_9 },
            "syscalls_per_op": self.system_calls,
            "placed_share": self.placed_share,
        })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, per_second, mib, p50, p99, p99_9, system_calls, .. } = self;
        let size = size::format(self.size);
        writeln!(f, "{size} in {seconds:.2} s: {per_second:.0} per second, {mib:.1} MiB/s")?;
        writeln!(f, "latency: p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {p99_9:.1} us")?;
        writeln!(f, "system calls per request: {system_calls:.3}")
    }
}
