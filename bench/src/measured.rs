//! What a run came to.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};

use crate::Outcome;
use crate::load::Load;

/// A run under way.
pub(crate) struct Stopwatch {
    begin: Instant,
    before: Usage,
    /// Nanoseconds of each request, in the order in which they were completed.
    latencies: Vec<u64>,
}

impl Stopwatch {
    pub(crate) fn start(load: &Load) -> Outcome<Self> {
        let latencies = Vec::with_capacity(load.count as usize);
        Ok(Self { before: getrusage(UsageWho::RUSAGE_SELF)?, begin: Instant::now(), latencies })
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        nanos(self.begin.elapsed())
    }

    /// Takes note of what one request took, in nanoseconds.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.latencies.push(nanos);
    }

    pub(crate) fn stop(self, load: &Load) -> Outcome<Measured> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let after = getrusage(UsageWho::RUSAGE_SELF)?;
        let took = |of: fn(&Usage) -> nix::sys::time::TimeVal| {
            let micros = |usage| {
                let time = of(usage);
                time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64
            };
            (micros(&after) - micros(&self.before)) / 1e6
        };
        let mut latencies = self.latencies;
        if load.latencies {
            latencies.sort_unstable();
        }
        Ok(Measured {
            operations: latencies.len(),
            bytes: latencies.len() * load.length,
            seconds,
            user: took(Usage::user_time),
            system: took(Usage::system_time),
            peak: peak()?,
            latencies,
        })
    }
}

pub(crate) struct Measured {
    operations: usize,
    bytes: usize,
    seconds: f64,
    /// Seconds of processors.
    user: f64,
    system: f64,
    /// The most memory that this program has ever had, in KiB.
    peak: u64,
    latencies: Vec<u64>,
}

impl Measured {
    /// What so many of a thousand requests took at most, in microseconds.
    fn quantile(&self, of_thousand: usize) -> f64 {
        let rank = (self.latencies.len() * of_thousand).div_ceil(1000);
        self.latencies.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    }
}

/// One JSON object.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, bytes, seconds, user, system, peak, .. } = self;
        let [p50, p99, p99_9] = [500, 990, 999].map(|rank| self.quantile(rank));
        write!(f, r#"{{"operations": {operations}, "bytes": {bytes}, "seconds": {seconds:.6}, "#)?;
        write!(f, r#""user_s": {user:.6}, "system_s": {system:.6}, "peak_kib": {peak}, "#)?;
        write!(f, r#""p50_us": {p50:.1}, "p99_us": {p99:.1}, "p99_9_us": {p99_9:.1}}}"#)
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The most memory that this program has ever had, in KiB.
fn peak() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.ok_or_else(|| "/proc/self/status does not tell the most memory".into())
}

#[cfg(test)]
mod tests {
    use super::Measured;

    #[test]
    fn quantiles_are_of_requests() {
        let of = |latencies: Vec<u64>, rank| {
            let (operations, bytes, seconds) = (latencies.len(), 0, 1.0);
            let (user, system, peak) = (0.0, 0.0, 0);
            let measured = Measured { operations, bytes, seconds, user, system, peak, latencies };
            measured.quantile(rank)
        };
        let thousand: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
        assert_eq!([500, 990, 999].map(|rank| of(thousand.clone(), rank)), [500.0, 990.0, 999.0]);
        assert_eq!(of(vec![7000], 999), 7.0);
        assert_eq!(of(vec![], 500), 0.0);
    }
}
