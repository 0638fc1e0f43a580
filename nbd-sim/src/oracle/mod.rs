//! An independent parser of whole sessions, to judge the real one by.
//!
//! It was written from the protocol text alone and shares nothing with the code under
//! test. It is naive on purpose: it allocates freely and takes one message at a time.
//!
//! ```text
//!  client's bytes --> client_bytes --+
//!                                    +--> messages: each one, in order
//!  server's bytes --> server_bytes --+--> summary:  negotiation, outcome of each request
//!                                    +--> error:    the first broken rule, and it stops
//! ```
//!
//! Bytes go in in the order in which they were sent: an answer after what it answers.
//! They may be cut anywhere. After an accepted `NBD_OPT_STARTTLS`, the bytes that go in
//! are those inside TLS.

mod chunk;
mod error;
mod handshake;
mod message;
mod numbers;
mod options;
mod reader;
mod reply;
mod request;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use error::{Breach, Fault, OracleError};
pub use message::{
    BlockSizes, ChunkBody, Command, Context, Extent, Info, Message, OptionData, OptionReply,
    Request,
};
pub use summary::{Exchange, Failure, Outcome, Piece, Style, Summary, Tls};

use crate::transcript::{Side, Transcript};
use handshake::Haggling;
use reader::{Reader, Stop};
use reply::Progress;

/// Follows one session.
#[derive(Debug, Default)]
pub struct Oracle {
    client: Inbox,
    server: Inbox,
    phase: Phase,
    haggling: Haggling,
    /// The requests without a final reply, by their cookies.
    in_flight: BTreeMap<u64, Progress>,
    messages: Vec<Message>,
    summary: Summary,
    error: Option<OracleError>,
}

/// The bytes of one side.
#[derive(Debug, Default)]
struct Inbox {
    /// What is not parsed yet.
    bytes: Vec<u8>,
    /// How many bytes were parsed.
    parsed: u64,
}

/// Whose turn it is, and for what.
#[derive(Debug, Default)]
enum Phase {
    /// The server is to greet.
    #[default]
    Greeting,
    /// The client is to answer the greeting.
    ClientFlags,
    /// The client is to send an option.
    Options,
    /// The server is to reply to this option.
    Reply(u32),
    /// Both may speak.
    Transmission,
    /// The client ended the session; the server may finish its replies.
    Ended,
}

impl Oracle {
    /// An oracle for a session that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows a whole recorded session to its end.
    ///
    /// # Errors
    ///
    /// The first broken rule.
    pub fn follow(transcript: &Transcript) -> Result<Self, OracleError> {
        let mut oracle = Self::new();
        for (side, bytes) in &transcript.bursts {
            match side {
                Side::Client => oracle.client_bytes(bytes)?,
                Side::Server => oracle.server_bytes(bytes)?,
            }
        }
        oracle.finish()?;
        Ok(oracle)
    }

    /// Takes what the client sent next.
    ///
    /// # Errors
    ///
    /// The first broken rule, and the same one ever after.
    pub fn client_bytes(&mut self, bytes: &[u8]) -> Result<(), OracleError> {
        self.take(Side::Client, bytes)
    }

    /// Takes what the server sent next.
    ///
    /// # Errors
    ///
    /// The first broken rule, and the same one ever after.
    pub fn server_bytes(&mut self, bytes: &[u8]) -> Result<(), OracleError> {
        self.take(Side::Server, bytes)
    }

    /// Says that neither side sends more. A request without a reply is no fault; its
    /// outcome stays [`Outcome::Pending`].
    ///
    /// # Errors
    ///
    /// The first broken rule; a message that was cut short is one.
    pub fn finish(&mut self) -> Result<&Summary, OracleError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        for side in [Side::Server, Side::Client] {
            let left = self.inbox(side).bytes.len();
            if left > 0 {
                return Err(self.stop(side, Fault::Truncated(left)));
            }
        }
        Ok(&self.summary)
    }

    /// Every message so far, in the order in which they were completed.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// What the session has come to so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    fn inbox(&mut self, side: Side) -> &mut Inbox {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn stop(&mut self, side: Side, fault: Fault) -> OracleError {
        let at = self.inbox(side).parsed;
        let error = OracleError { side, at, fault };
        self.error = Some(error.clone());
        error
    }

    fn take(&mut self, side: Side, bytes: &[u8]) -> Result<(), OracleError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let mut all = std::mem::take(&mut self.inbox(side).bytes);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let mut reader = Reader::new(rest);
            let step = match side {
                Side::Client => self.client_message(&mut reader),
                Side::Server => self.server_message(&mut reader),
            };
            match step {
                Ok(message) => self.messages.push(message),
                Err(Stop::Short) => break,
                Err(Stop::Fault(fault)) => return Err(self.stop(side, fault)),
            }
            let taken = reader.taken();
            rest = &rest[taken..];
            let parsed = &mut self.inbox(side).parsed;
            *parsed = parsed.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        }
        self.inbox(side).bytes = rest.to_vec();
        Ok(())
    }

    fn client_message(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        match self.phase {
            Phase::Ended | Phase::Reply(numbers::opt::ABORT) => Err(Fault::AfterEnd.into()),
            Phase::Greeting | Phase::Reply(_) => Err(Fault::OutOfTurn.into()),
            Phase::ClientFlags => self.client_flags(reader),
            Phase::Options => self.option(reader),
            Phase::Transmission => self.request(reader),
        }
    }

    fn server_message(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        match self.phase {
            Phase::Greeting => self.greeting(reader),
            Phase::ClientFlags | Phase::Options => Err(Fault::OutOfTurn.into()),
            Phase::Reply(numbers::opt::EXPORT_NAME) => self.export_name_reply(reader),
            Phase::Reply(option) => self.option_reply(option, reader),
            Phase::Transmission | Phase::Ended => self.reply(reader),
        }
    }

    /// Notes what the client did against the rules, at the message now being parsed.
    fn note(&mut self, breach: Breach) {
        self.summary.breaches.push((self.messages.len(), breach));
    }
}
