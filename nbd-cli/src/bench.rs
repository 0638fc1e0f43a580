//! `nbd bench`: measures a server, with many requests in flight.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use nbd_client_blocking::proto::{ClientConfig, Stats};
use nbd_client_blocking::{Client, Error, Pipeline};
use serde_json::json;

use crate::Patience;
use crate::failure::{Context, Failure, Result};
use crate::output::print;
use crate::size;
use crate::target::{Server, Target};

/// The most that all buffers together may take, in bytes.
const MAX_MEMORY: u128 = 4 << 30;

/// Measure a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read, or write data that does not compress (this destroys what the export holds)
    #[arg(long, value_enum, default_value_t = Direction::Read)]
    rw: Direction,
    /// Random or sequential offsets
    #[arg(long, value_enum, default_value_t = Pattern::Rand)]
    pattern: Pattern,
    /// Bytes per request
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    size: u64,
    /// Requests in flight per connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    depth: u32,
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    count: u64,
    /// Connections, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "URI")]
    server: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    Read,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pattern {
    Rand,
    Seq,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?;
    if args.connections > 1 && server.is_command() {
        return Err(Failure::new(format!("{}: takes one connection only", server.name)));
    }
    let memory = u128::from(args.size) * u128::from(args.depth) * u128::from(args.connections);
    if memory > MAX_MEMORY {
        return Err(Failure::new(format!(
            "--size, --depth and --connections together take {memory} bytes of memory; the \
             most is {MAX_MEMORY}"
        )));
    }
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(connect(args, &server)?);
    }
    let started = Instant::now();
    let workers = clients.len() as u64;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(0..)
            .map(|(client, index)| {
                let share = args.count / workers + u64::from(index < args.count % workers);
                scope.spawn(move || Worker::new(args, index, workers).run(client, share))
            })
            .collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = started.elapsed();
    let mut total = Tally::new();
    for result in results {
        let tally = result.map_err(|_| Failure::new("a measuring thread failed"))?;
        total.add(&tally.context(&server.name)?);
    }
    print(&report(args, &total, elapsed))
}

fn connect(args: &Args, server: &Server) -> Result<Client> {
    let limits = nbd_client_blocking::proto::Limits::default().max_in_flight(args.depth.max(64));
    let config = ClientConfig::new().limits(limits);
    let client = server.connect(config, args.patience.duration())?;
    let refuse = |why: String| Err(Failure::new(format!("{}: {why}", server.name)));
    if args.size == 0 || args.size > client.max_request() as u64 {
        return refuse(format!("--size must be from 1 to {} bytes", client.max_request()));
    }
    if client.size() < args.size {
        return refuse(format!("the export has {} bytes, less than one request", client.size()));
    }
    if args.rw == Direction::Write && client.is_read_only() {
        return refuse("the export is read-only".to_owned());
    }
    Ok(client)
}

/// What one connection, or all of them, measured.
struct Tally {
    latency: Histogram<u64>,
    /// A latency that was seen so many times in a row: what travels together takes
    /// equally long.
    run: (u64, u64),
    operations: u64,
    system_calls: u64,
    stats: Stats,
}

impl Tally {
    fn new() -> Self {
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

    fn record(&mut self, nanos: u64) {
        if nanos == self.run.0 {
            self.run.1 += 1;
        } else {
            self.end_run();
            self.run = (nanos, 1);
        }
    }

    fn end_run(&mut self) {
        let (nanos, count) = std::mem::take(&mut self.run);
        self.latency.saturating_record_n(nanos, count);
    }

    fn add(&mut self, other: &Self) {
        // Both histograms have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.operations += other.operations;
        self.system_calls += other.system_calls;
        self.stats.bytes_copied += other.stats.bytes_copied;
        self.stats.bytes_placed += other.stats.bytes_placed;
    }
}

/// One connection's part of the work.
struct Worker<'a> {
    args: &'a Args,
    /// Which of the offsets this worker takes, when they are sequential.
    index: u64,
    workers: u64,
    random: Random,
    next: u64,
}

impl<'a> Worker<'a> {
    fn new(args: &'a Args, index: u64, workers: u64) -> Self {
        Self { args, index, workers, random: Random(0x9e37_79b9_7f4a_7c15 ^ (index + 1)), next: 0 }
    }

    fn run(mut self, mut client: Client, count: u64) -> std::result::Result<Tally, Error> {
        let size = self.args.size as usize;
        let blocks = client.size() / self.args.size;
        let depth = u64::from(self.args.depth).min(count) as usize;
        let mut tally = Tally::new();
        let mut buffers: Vec<Vec<u8>> = (0..depth)
            .map(|_| {
                let mut buffer = vec![0; size];
                self.random.fill(&mut buffer);
                buffer
            })
            .collect();
        // Nanoseconds since the start, by slot.
        let mut started = vec![0_u64; depth.max(1)];
        let calls_before = client.system_calls();
        let mut pipeline = client.pipeline();
        let mut submitted = 0;
        // What comes out of one read of the socket came at one moment, and what is
        // submitted before the next write leaves at one: one look at the clock for each.
        let begin = Instant::now();
        let mut now = 0;
        loop {
            while submitted < count {
                let Some(buffer) = buffers.pop() else { break };
                let offset = self.offset(blocks);
                let id = self.submit(&mut pipeline, offset, buffer)?;
                if started.len() <= id.slot() {
                    started.resize(id.slot() + 1, now);
                }
                started[id.slot()] = now;
                submitted += 1;
            }
            let waits = pipeline.completed() == 0;
            let Some(done) = pipeline.wait()? else { break };
            done.result?;
            if waits {
                now = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            }
            tally.record(now - started[done.id.slot()]);
            tally.operations += 1;
            buffers.extend(done.buffer);
        }
        tally.end_run();
        drop(pipeline);
        tally.system_calls = client.system_calls() - calls_before;
        tally.stats = *client.stats();
        client.disconnect()?;
        Ok(tally)
    }

    fn submit(
        &self,
        pipeline: &mut Pipeline<'_, Vec<u8>>,
        offset: u64,
        buffer: Vec<u8>,
    ) -> std::result::Result<nbd_client_blocking::proto::RequestId, Error> {
        match self.args.rw {
            Direction::Read => pipeline.read(offset, buffer),
            Direction::Write => pipeline.write(offset, buffer),
        }
    }

    fn offset(&mut self, blocks: u64) -> u64 {
        let block = match self.args.pattern {
            Pattern::Rand => self.random.below(blocks),
            Pattern::Seq => {
                let block = (self.next * self.workers + self.index) % blocks;
                self.next += 1;
                block
            }
        };
        block * self.args.size
    }
}

/// A xorshift generator: what it makes does not compress, and it costs next to nothing.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }
}

fn report(args: &Args, total: &Tally, elapsed: Duration) -> String {
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
