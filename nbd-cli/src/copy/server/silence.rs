//! How long a server that owes an answer may bring nothing.
//!
//! What counts is a completion or payload. Replies that lead nowhere, however many, are
//! silence. While the server works on a flush, a trim, zeroes or a cache, it may take its
//! time, and need not answer anything else.

use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{Command, CommandType};
use nbd_client_blocking::{Completion, Pipeline, Woken};

use crate::copy::stop::Stop;
use crate::failure::{Context, Failure, Result};

/// Waits for the completions of one connection.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    /// The server's.
    name: &'a str,
    limit: Option<Duration>,
    stop: &'a Stop,
    /// Commands under way that may take long.
    slow: usize,
}

impl<'a> Silence<'a> {
    pub(super) const fn new(name: &'a str, limit: Option<Duration>, stop: &'a Stop) -> Self {
        Self { name, limit, stop, slow: 0 }
    }

    /// Submits a command without payload.
    pub(super) fn submit<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        pipeline: &mut Pipeline<'_, B>,
        command: Command,
    ) -> Result<()> {
        pipeline.submit(command, None).context(self.name)?;
        self.slow += usize::from(is_slow(command.kind));
        Ok(())
    }

    /// The next command that is finished, or `None` when nothing is in flight.
    pub(super) fn wait<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        pipeline: &mut Pipeline<'_, B>,
    ) -> Result<Option<Completion<B>>> {
        // Time in which nobody looked is not the server's.
        let (mut since, mut seen) = (None, 0);
        loop {
            if let Some(done) = pipeline.next_completed() {
                self.slow -= usize::from(is_slow(done.command.kind));
                return Ok(Some(done));
            }
            if pipeline.in_flight() == 0 {
                return Ok(None);
            }
            let (now, payload) = (Instant::now(), payload(pipeline));
            if since.is_none() || payload != seen {
                (since, seen) = (Some(now), payload);
            }
            let quiet = since.map_or(Duration::ZERO, |since| now - since);
            let limit = self.limit.filter(|_| self.slow == 0);
            let left = limit.map(|limit| limit.saturating_sub(quiet));
            if let Some(limit) = limit.filter(|_| left == Some(Duration::ZERO)) {
                return Err(Failure::new(format!(
                    "{}: no answer from the server for {limit:?}; --timeout waits longer",
                    self.name
                )));
            }
            let woken = pipeline.poll_with(self.stop, left).context(self.name)?;
            if woken == Woken::Other {
                return Err(Failure::new(format!("{}: the copy was stopped", self.name)));
            }
        }
    }
}

/// Bytes of payload that have come so far.
fn payload<B: AsRef<[u8]> + AsMut<[u8]>>(pipeline: &Pipeline<'_, B>) -> u64 {
    let stats = pipeline.client().stats();
    stats.bytes_copied + stats.bytes_placed
}

/// Whether a server may work on it for long, and on nothing else meanwhile.
const fn is_slow(kind: CommandType) -> bool {
    match kind {
        CommandType::Flush | CommandType::Trim | CommandType::WriteZeroes | CommandType::Cache => {
            true
        }
        CommandType::Read | CommandType::Write | CommandType::BlockStatus => false,
    }
}
