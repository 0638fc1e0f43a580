//! What goes beyond commands: there are several connections, or one is seen as a file.

mod asynchronous;
mod blocking;
mod mio;

use nbd_session::replay::Reconnect;

use super::asynchronous::Asynchronous;
use super::blocking::Blocking;
use super::host::{CurrentThread, MultiThread, OnAsyncStd, OnCompio, OnSmol};
use super::mio::Mio;
use super::{Adapter, How};
use crate::outcome::Outcome;

/// An adapter, beyond one connection.
pub(crate) trait Beyond {
    /// Opens a pool of up to so many connections.
    fn pool(&self, how: &How, policy: Option<Reconnect>, size: usize) -> Outcome<Box<dyn Pool>>;

    /// Connects, to see the export as a file.
    fn file(&self, how: &How) -> Outcome<Box<dyn File>>;

    /// Connects and walks over the extents of a range: where each is, how long, and its status.
    fn extents(
        &self,
        how: &How,
        context: &str,
        range: std::ops::Range<u64>,
    ) -> Outcome<Vec<(u64, u64, u64)>>;

    /// Connects and begins such a walk, leaves it after so many extents, and reads what is at
    /// the start of the export over the same connection.
    fn leave_extents(&self, how: &How, context: &str, after: usize) -> Outcome<Vec<u8>>;
}

/// Several connections to one export.
pub(crate) trait Pool {
    fn alive(&self) -> usize;

    fn read(&self, offset: u64, length: usize) -> Outcome<Vec<u8>>;

    fn write(&self, offset: u64, data: &[u8]) -> Outcome;

    fn flush(&self) -> Outcome;

    fn disconnect(self: Box<Self>) -> Outcome;
}

/// A view of an export as a file, and the connection behind it.
pub(crate) trait File {
    fn seek(&mut self, position: u64) -> Outcome;

    /// As many bytes as there are, up to so many.
    fn read(&mut self, length: usize) -> Outcome<Vec<u8>>;

    /// All of them, or an error.
    fn write(&mut self, data: &[u8]) -> Outcome;

    fn flush(&mut self) -> Outcome;

    /// Writes lines, through a buffer where the adapter's users would have one, and ends that.
    fn write_lines(&mut self, lines: &[&str]) -> Outcome {
        for line in lines {
            self.write(format!("{line}\n").as_bytes())?;
        }
        self.flush()
    }

    /// Reads so many lines.
    fn read_lines(&mut self, count: usize) -> Outcome<Vec<String>> {
        let text = String::from_utf8(self.read(1 << 16)?).expect("text");
        Ok(text.lines().take(count).map(str::to_owned).collect())
    }

    /// Reads that many bytes and writes as many, side by side where the adapter has halves that
    /// can be told apart; else in turn.
    fn read_beside_write(&mut self, data: &[u8]) -> Outcome {
        for piece in data.chunks(1024) {
            assert_eq!(self.read(piece.len())?.len(), piece.len());
            self.write(piece)?;
        }
        Ok(())
    }

    /// Drops this view in favour of another one, at offset 0.
    fn again(&mut self);
}

impl Adapter {
    pub(crate) fn beyond(self) -> Box<dyn Beyond> {
        match self {
            Self::Blocking => Box::new(Blocking),
            Self::Mio => Box::new(Mio),
            Self::TokioCurrentThread => Box::new(Asynchronous(CurrentThread::new())),
            Self::TokioMultiThread => Box::new(Asynchronous(MultiThread::new())),
            Self::AsyncStd => Box::new(Asynchronous(OnAsyncStd)),
            Self::Smol => Box::new(Asynchronous(OnSmol)),
            Self::Compio => Box::new(Asynchronous(OnCompio::new())),
            Self::CompioPolling => Box::new(Asynchronous(OnCompio::polling())),
        }
    }
}
