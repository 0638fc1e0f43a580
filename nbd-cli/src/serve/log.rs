//! Standard error, as a server needs it: nobody ever waits for it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// So many lines wait to be written; those that come then are lost, and counted.
const WAITING: usize = 256;

/// How long the end of the server waits for lines that are not written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Writes lines in a thread of its own. When standard error is full, stuck or gone, lines are
/// lost, and nothing else happens.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Mutex<Option<SyncSender<String>>>,
    lost: Arc<AtomicU64>,
    /// Closed when all has been written.
    written: Mutex<Receiver<()>>,
}

impl Log {
    /// Starts to write to standard error.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub(crate) fn start() -> io::Result<Self> {
        Self::to(io::stderr())
    }

    fn to(mut target: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = sync_channel::<String>(WAITING);
        let (done, written) = sync_channel(0);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _done = done;
            for line in queue {
                // Whoever should read it is gone: there is nobody to tell that.
                let _ = target.write_all(line.as_bytes());
                let lost = counted.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(target, "nbd: {lost} messages could not be written in time");
                }
            }
        })?;
        Ok(Self { lines: Mutex::new(Some(lines)), lost, written: Mutex::new(written) })
    }

    /// Writes a line, which ends in a newline, some time.
    pub(crate) fn line(&self, line: String) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what waits, unless it takes too long.
    pub(crate) fn finish(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let _in_time = written.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one line when it is told to, and no other before.
    struct Slow {
        turns: Receiver<()>,
        seen: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.turns.recv();
            self.seen.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_lost_and_counted_when_nobody_takes_them() {
        let (turn, turns) = sync_channel(0);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Log::to(Slow { turns, seen: Arc::clone(&seen) }).unwrap();
        for i in 0..10 * WAITING {
            log.line(format!("line {i}\n"));
        }
        drop(turn);
        log.finish();
        let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert!(seen.starts_with("line 0\n"), "{seen}");
        assert!(seen.contains(" messages could not be written in time\n"), "{seen}");
        assert!(seen.lines().count() <= WAITING + 3, "{seen}");
    }
}
