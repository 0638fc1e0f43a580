//! Whether a client over a socket ends as the machine in memory does.

use std::fmt;
use std::io;
use std::time::Duration;

use nbd_proto::{CommandError, Error, Negotiated};

use super::{Case, Guarded, LOST, Observed, Outcome, WAITING};
use crate::delivery::Delivery;

/// Why something failed, as each of the clients tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection is over.
    Protocol(Error),
    /// The command failed.
    Command(CommandError),
    /// The command was not sent.
    NotSent,
    /// TLS failed.
    Tls,
    /// The socket failed; what the system calls it.
    Io(io::ErrorKind),
    /// The server was silent for too long.
    TimedOut,
    /// Anything else, for a message.
    Other(String),
}

/// How a case went for a client over a socket.
#[derive(Debug, Default)]
pub struct Played {
    /// What was agreed on, or why nothing was; `None` when the export was not asked for.
    pub connected: Option<Result<Negotiated, Failure>>,
    /// The names that were asked for instead.
    pub listed: Option<Result<Vec<String>, Failure>>,
    /// How each command ended.
    pub answers: Vec<Result<(), Failure>>,
    /// The buffer of each command.
    pub buffers: Vec<Guarded>,
    /// Whether a flush succeeds after that, or how a goodbye ends.
    pub usable: Option<Result<(), Failure>>,
}

impl Case {
    /// How long a client may wait for an answer that should come, or for one that
    /// should not.
    #[must_use]
    pub fn patience(&self, answered: bool) -> Duration {
        if answered { Duration::from_secs(60) } else { Duration::from_millis(100) }
    }

    /// Whether connecting ends; if not, only a deadline does it.
    #[must_use]
    pub const fn connects_or_fails(&self) -> bool {
        !matches!(self.outcome, Outcome::Waits)
    }

    /// Whether the command of this number ends; if not, only a deadline does it.
    #[must_use]
    pub fn answers(&self, number: usize) -> bool {
        match &self.outcome {
            Outcome::Lives(answers) => answers.get(number) != Some(&WAITING),
            _ => true,
        }
    }

    /// How many commands end. The rest need not be waited for any longer than for these.
    #[must_use]
    pub fn due(&self) -> usize {
        (0..self.commands.len()).filter(|number| self.answers(*number)).count()
    }

    /// Compares how a case went over a socket, and what the client sent there, with how
    /// it goes in memory.
    ///
    /// # Errors
    /// The difference, in words.
    pub fn judge(&self, played: &Played, sent: &[u8]) -> Result<(), String> {
        let memory = self.play(Delivery::Whole, None);
        if memory.hasty {
            return self.judge_hasty(played, &memory);
        }
        // What comes where the handshake of TLS is due ends the one or the other.
        if !(memory.upgrading && played.connected == Some(Err(Failure::Tls))) {
            same("connecting", &played.connected, &self.connected(&memory))?;
        }
        same("listing", &played.listed, &self.listed(&memory))?;
        let answers: Vec<_> = memory.answers.iter().map(|answer| told(*answer, &memory)).collect();
        same("commands", &played.answers, &answers)?;
        same("a flush afterwards", &played.usable, &self.usable(&memory))?;
        for ((command, buffer), answer) in
            self.commands.iter().zip(&played.buffers).zip(&played.answers)
        {
            if let Some(broken) = buffer.broken_promise(command, answer.is_ok()) {
                return Err(broken.to_owned());
            }
        }
        if !self.connects_or_fails() {
            return Ok(());
        }
        let Some(rest) = sent.strip_prefix(&memory.sent[..]) else {
            return Err(format!("the client sent {sent:x?}, not {:x?}", memory.sent));
        };
        // What is left unsaid in memory: a goodbye, or the first words of TLS.
        let goodbye = rest.is_empty() || [28, 32].contains(&rest.len()) && rest[7] == 2;
        if goodbye || memory.upgrading {
            Ok(())
        } else {
            Err(format!("the client also sent {rest:x?}"))
        }
    }

    /// How far a client comes before it reads what it did not ask for is for it to say.
    fn judge_hasty(&self, played: &Played, memory: &Observed) -> Result<(), String> {
        let failed = |result: &Result<(), Failure>| result.clone().err();
        let connected = played.connected.iter().filter_map(|result| result.clone().err());
        let failures: Vec<_> = connected
            .chain(played.answers.iter().chain(&played.usable).filter_map(failed))
            .collect();
        let due = usize::from(!matches!(played.connected, Some(Err(_)))) * self.commands.len();
        let error = memory.error.clone().ok_or("it must not end well")?;
        same("answers", &played.answers.len(), &due)?;
        same("the end", &failures, &vec![Failure::Protocol(error); due + 1])
    }

    fn connected(&self, memory: &Observed) -> Option<Result<Negotiated, Failure>> {
        match (&memory.negotiated, &memory.error) {
            (Some(facts), _) => Some(Ok(facts.clone())),
            (None, _) if self.asks != super::Ask::Export => None,
            (None, Some(error)) => Some(Err(Failure::Protocol(error.clone()))),
            (None, None) => Some(Err(Failure::TimedOut)),
        }
    }

    fn listed(&self, memory: &Observed) -> Option<Result<Vec<String>, Failure>> {
        if self.asks == super::Ask::Export {
            return None;
        }
        Some(match (&memory.listed, &memory.error) {
            (_, Some(error)) => Err(Failure::Protocol(error.clone())),
            (Some(Ok(())), None) => Ok(memory.names.clone()),
            (Some(Err(no)), None) => Err(Failure::Protocol(no.clone().into())),
            (None, None) => Err(Failure::TimedOut),
        })
    }

    fn usable(&self, memory: &Observed) -> Option<Result<(), Failure>> {
        memory.negotiated.as_ref()?;
        Some(match &memory.error {
            Some(error) => Err(Failure::Protocol(error.clone())),
            None if memory.usable || self.farewell => Ok(()),
            None => Err(Failure::NotSent),
        })
    }
}

/// How an answer of the machine is told by a client: what killed the connection says
/// more than that it is gone.
fn told(answer: super::Answer, memory: &Observed) -> Result<(), Failure> {
    match (answer, &memory.error) {
        (WAITING, _) => Err(Failure::TimedOut),
        (LOST, Some(error)) => Err(Failure::Protocol(error.clone())),
        (Some(result), _) => result.map_err(Failure::Command),
    }
}

fn same<T: fmt::Debug + PartialEq>(what: &str, socket: &T, memory: &T) -> Result<(), String> {
    if socket == memory {
        Ok(())
    } else {
        Err(format!("{what}: {socket:?} over a socket, but {memory:?} in memory"))
    }
}
