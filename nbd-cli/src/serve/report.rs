//! What happens, in lines of text or JSON.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nbd_server::{Event, ServerHandle};
use serde_json::json;

use super::log::Log;
use crate::failure::without_numbers;

/// What standard error gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// A line for people
    Text,
    /// An object on a line
    Json,
}

/// Writes what happens into the log.
#[derive(Debug)]
pub(super) struct Report {
    log: Log,
    format: LogFormat,
    verbose: bool,
    failures: Mutex<Failures>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Info,
    Warning,
}

impl Report {
    pub(super) fn new(log: Log, format: LogFormat, verbose: bool) -> Self {
        Self { log, format, verbose, failures: Mutex::default() }
    }

    /// Something may be a mistake.
    pub(super) fn warn(&self, text: &str) {
        self.line(Level::Warning, "warning", None, text);
    }

    /// Something is worth to know for who wants to know.
    pub(super) fn note(&self, text: &str) {
        self.line(Level::Info, "note", None, text);
    }

    /// Something has happened in the server.
    pub(super) fn tell(&self, event: &Event<'_>) {
        let (level, name, peer, text) = match event {
            Event::Connected { peer } => {
                (Level::Info, "connected", Some(peer), "connected".to_owned())
            }
            Event::Opened { peer, export, read_only } => {
                let how = if *read_only { ", read-only" } else { "" };
                (Level::Info, "opened", Some(peer), format!("uses export {export:?}{how}"))
            }
            Event::Closed { peer, error: None } => {
                (Level::Info, "closed", Some(peer), "left".to_owned())
            }
            Event::Closed { peer, error: Some(error) } => {
                (Level::Warning, "closed", Some(peer), error.to_string())
            }
            Event::TurnedAway { peer, connections } => {
                let text = format!("turned away, there are {connections} connections already");
                (Level::Warning, "turned-away", Some(peer), text)
            }
            Event::Refused { peer, export, error } => {
                let what = export.map_or_else(
                    || "the list of exports".to_owned(),
                    |name| format!("export {name:?}"),
                );
                (Level::Info, "refused", Some(peer), format!("was refused {what}: {error}"))
            }
            Event::RequestFailed { peer, export, command, reason, .. } => {
                let Some(untold) = self.failures().count(Instant::now()) else { return };
                self.tell_of_untold(untold);
                let text = format!("{command} of export {export:?} has failed: {reason}");
                (Level::Warning, "request-failed", Some(peer), text)
            }
            Event::AcceptFailed { error } => {
                let text = format!("cannot take a client in: {error}");
                (Level::Warning, "accept-failed", None, text)
            }
            _ => return,
        };
        self.line(level, name, peer.map(ToString::to_string).as_deref(), &text);
    }

    fn tell_of_untold(&self, failures: u64) {
        if failures > 0 {
            self.warn(&format!("{failures} more requests have failed"));
        }
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, level: Level, event: &str, peer: Option<&str>, text: &str) {
        if level == Level::Info && !self.verbose {
            return;
        }
        let text = without_numbers(text);
        self.log.line(match (self.format, peer) {
            (LogFormat::Text, Some(peer)) => format!("nbd: {peer}: {text}\n"),
            (LogFormat::Text, None) => format!("nbd: {text}\n"),
            (LogFormat::Json, peer) => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let level = if level == Level::Info { "info" } else { "warning" };
                let object = json!({
                    "time": time.as_secs_f64(),
                    "level": level,
                    "event": event,
                    "peer": peer,
                    "message": text,
                });
                format!("{object}\n")
            }
        });
    }

    /// Writes what waits to be written, unless that takes too long.
    pub(super) fn finish(&self) {
        self.tell_of_untold(self.failures().untold);
        self.log.finish();
    }
}

/// Requests that have failed. A disk that is full or broken fails every one: the first few of each
/// second are told of, the others counted.
#[derive(Debug, Default)]
struct Failures {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

/// So many in a second.
const TOLD: u32 = 10;

impl Failures {
    /// One more. If it is to be told of, how many before it were not.
    fn count(&mut self, now: Instant) -> Option<u64> {
        let second = Duration::from_secs(1);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= second) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told == TOLD {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(mem::take(&mut self.untold))
    }
}

/// Ends the server with its last client, if that is wanted.
#[derive(Debug)]
pub(super) struct LastClient {
    wanted: bool,
    present: AtomicUsize,
    server: OnceLock<Weak<ServerHandle>>,
}

impl LastClient {
    pub(super) const fn new(wanted: bool) -> Self {
        Self { wanted, present: AtomicUsize::new(0), server: OnceLock::new() }
    }

    /// Which server it is that ends.
    pub(super) fn ends(&self, server: &Arc<ServerHandle>) {
        let _ = self.server.set(Arc::downgrade(server));
    }

    /// Counts who is there. Who has only connected and left again counts as well.
    pub(super) fn count(&self, event: &Event<'_>) {
        match event {
            Event::Connected { .. } => {
                self.present.fetch_add(1, Ordering::AcqRel);
            }
            Event::Closed { .. } => {
                let last = self.present.fetch_sub(1, Ordering::AcqRel) == 1;
                if last
                    && self.wanted
                    && let Some(server) = self.server.get().and_then(Weak::upgrade)
                {
                    server.shut_down();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_of_each_second_are_told() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let told = (0..100).filter(|_| failures.count(start).is_some()).count();
        assert_eq!(told, TOLD as usize);
        assert_eq!(failures.count(start + Duration::from_millis(999)), None);
        assert_eq!(failures.count(start + Duration::from_secs(1)), Some(91));
        assert_eq!(failures.count(start + Duration::from_secs(1)), Some(0));
    }
}
