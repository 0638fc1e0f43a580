//! Delivers a script to a client and notes what comes of it.

use nbd_proto::{
    Client, Command, Discard, Disconnect, Error, ErrorReport, Event, Machine, Negotiated,
    Negotiation, NegotiationEvent, PayloadSink, PayloadSource, Phase, Refusal, RequestId, part_mut,
};

use super::{Answer, Ask, Case, Guarded, Outcome};
use crate::delivery::Delivery;

/// What came of a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What was agreed on, if the connection came to stand.
    pub negotiated: Option<Negotiated>,
    /// What ended the negotiation or the connection.
    pub error: Option<Error>,
    /// Names of exports or contexts that were listed.
    pub names: Vec<String>,
    /// How listing them ended.
    pub listed: Option<Result<(), Refusal>>,
    /// How each command ended.
    pub answers: Vec<Answer>,
    /// The first things the server explained.
    pub reports: Vec<(Option<u64>, Vec<u8>)>,
    /// All that the client sent.
    pub sent: Vec<u8>,
    /// How many bytes of that came before each burst it was given.
    pub marks: Vec<usize>,
    /// Something came, or nothing more will, where the handshake of TLS was due.
    pub upgrading: bool,
    /// A broken promise about memory.
    pub broken: Option<String>,
    /// Bytes of the data phase came before anything was asked for there.
    pub hasty: bool,
    /// The connection was left in good order, or is about to be.
    pub leaving: bool,
    /// Another command can be asked and answered.
    pub usable: bool,
}

/// Buffers of the commands, found by slot.
#[derive(Debug, Default)]
struct Memory {
    buffers: Vec<(RequestId, Guarded)>,
    reports: Vec<(Option<u64>, Vec<u8>)>,
}

impl PayloadSink for Memory {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.buffers.iter_mut().find(|(owner, _)| *owner == id) {
            Some((_, buffer)) => part_mut(buffer.as_mut(), at, len),
            None => &mut [],
        }
    }

    fn error(&mut self, _id: RequestId, report: ErrorReport<'_>) {
        if self.reports.len() < 16 {
            self.reports.push((report.offset, report.message.to_vec()));
        }
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        match self.buffers.iter().find(|(owner, _)| *owner == id) {
            Some((_, buffer)) => &buffer.as_ref()[at..at + len],
            None => &[],
        }
    }
}

impl Case {
    /// Plays the script; everything ends after `cut` bytes.
    pub fn play(&self, delivery: Delivery, cut: Option<usize>) -> Observed {
        let mut seen = Observed::default();
        let mut cut = cut.unwrap_or(usize::MAX);
        let mut early = Vec::new();
        if let Some(client) = self.connect(delivery, &mut cut, &mut early, &mut seen) {
            self.talk(client, delivery, &mut cut, &early, &mut seen);
        }
        seen
    }

    /// Bytes of the whole script.
    pub fn len(&self) -> usize {
        self.bursts.iter().chain(&self.replies).map(Vec::len).sum()
    }

    /// Whether the script is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `early` is what the server said after the last word of the negotiation.
    fn connect(
        &self,
        delivery: Delivery,
        cut: &mut usize,
        early: &mut Vec<u8>,
        seen: &mut Observed,
    ) -> Option<Client> {
        let mut negotiation = Negotiation::new(self.config.clone()).expect("sound names");
        let mut asked = false;
        let mut result = Ok(());
        for burst in &self.bursts {
            let burst = until_cut(burst, cut);
            seen.marks.push(seen.sent.len());
            seen.upgrading |= negotiation.phase() == Phase::StartTls;
            let taken = delivery.deliver(&mut negotiation, &mut Discard, burst);
            result = taken.map(|taken| early.extend(&burst[taken..]));
            negotiation.drain(&mut seen.sent, &Discard).expect("no payload");
            if result.is_err() {
                break;
            }
            if !asked && negotiation.phase() == Phase::Idle {
                asked = true;
                match self.asks {
                    Ask::Export => {}
                    Ask::Exports => negotiation.list().expect("idle"),
                    Ask::Contexts => negotiation.list_meta_contexts(&[]).expect("idle"),
                }
            }
            negotiation.drain(&mut seen.sent, &Discard).expect("no payload");
        }
        let last = self.replies.is_empty() && self.closes || *cut == 0;
        if last && result.is_ok() && negotiation.phase() != Phase::Established {
            seen.upgrading |= negotiation.phase() == Phase::StartTls;
            result = negotiation.eof();
        }
        while let Some(event) = negotiation.poll_event() {
            match event {
                NegotiationEvent::Export(entry) => seen.names.push(entry.name),
                NegotiationEvent::MetaContext(context) if asked => seen.names.push(context.name),
                NegotiationEvent::Finished { result, .. } if asked => seen.listed = Some(result),
                _ => {}
            }
        }
        seen.error = result.err();
        if negotiation.phase() != Phase::Established {
            return None;
        }
        seen.negotiated = Some(negotiation.negotiated().clone());
        negotiation.finish().ok()
    }

    fn talk(
        &self,
        mut client: Client,
        delivery: Delivery,
        cut: &mut usize,
        early: &[u8],
        seen: &mut Observed,
    ) {
        let mut memory = Memory::default();
        seen.hasty = !early.is_empty() || client.has_buffered();
        for command in &self.commands {
            let id = client.submit(*command).expect("a sound command");
            memory.buffers.push((id, Guarded::of(command)));
        }
        if self.farewell {
            client.disconnect(Disconnect::AfterRequests);
        }
        client.drain(&mut seen.sent, &memory).expect("payload");
        let mut result = client.feed(early, &mut memory);
        for burst in &self.replies {
            let burst = until_cut(burst, cut);
            seen.marks.push(seen.sent.len());
            result = result.and_then(|_| delivery.deliver(&mut client, &mut memory, burst));
        }
        let mut result = result.map(|_| ());
        if (self.closes || *cut == 0) && result.is_ok() {
            result = client.eof();
        }
        seen.error = result.err();
        seen.answers = vec![None; self.commands.len()];
        while let Some(event) = client.poll_event() {
            match event {
                Event::Completed { id, result, .. } => {
                    let index = memory.buffers.iter().position(|(owner, _)| *owner == id);
                    let index = index.expect("a command of ours");
                    let before = seen.answers[index].replace(result);
                    assert_eq!(before, None, "{id:?} completed twice");
                }
                Event::Anomaly(_) => {}
                Event::Disconnected { error } => {
                    assert_eq!(error, seen.error);
                    seen.leaving = error.is_none();
                }
            }
        }
        seen.reports = std::mem::take(&mut memory.reports);
        seen.broken = self.broken_promise(&memory, seen);
        seen.usable = seen.error.is_none() && is_usable(&mut client, seen);
    }

    fn broken_promise(&self, memory: &Memory, seen: &Observed) -> Option<String> {
        let of = self.commands.iter().zip(&seen.answers);
        of.zip(&memory.buffers).find_map(|((command, answer), (_, buffer))| {
            buffer.broken_promise(command, *answer == Some(Ok(()))).map(str::to_owned)
        })
    }
}

/// Whether a flush can be asked and answered.
fn is_usable(client: &mut Client, seen: &mut Observed) -> bool {
    let Ok(id) = client.submit(Command::flush()) else {
        seen.leaving = true;
        return false;
    };
    let cookie = id.to_cookie();
    client.drain(&mut seen.sent, &Discard).expect("no payload");
    let reply = if client.negotiated().headers == nbd_proto::HeaderStyle::Extended {
        super::bytes::xchunk(super::bytes::DONE, super::bytes::kind::NONE, cookie, &[])
    } else {
        super::bytes::simple(0, cookie, &[])
    };
    client.feed(&reply, &mut Discard).is_ok() && client.take(id) == Some((Command::flush(), Ok(())))
}

fn until_cut<'a>(burst: &'a [u8], cut: &mut usize) -> &'a [u8] {
    let burst = &burst[..burst.len().min(*cut)];
    *cut -= burst.len();
    burst
}

impl Outcome {
    /// Whether what came of a script is what the client owes its user.
    pub fn is(&self, seen: &Observed) -> bool {
        let connected = seen.negotiated.is_some();
        match self {
            Self::Refuse(error) => !connected && seen.error.as_ref() == Some(error),
            Self::RefusedWith(code) => {
                !connected
                    && matches!(&seen.error, Some(Error::Refused(refusal)) if refusal.code == *code)
            }
            Self::Waits => !connected && seen.error.is_none(),
            Self::Connects(holds) => seen.negotiated.as_ref().is_some_and(holds),
            Self::Lists(count, result) => {
                let listed = seen.listed.clone().map(|ended| ended.map_err(|no| no.code));
                seen.names.len() == *count && listed == Some(*result) && seen.error.is_none()
            }
            Self::Lives(answers) => seen.usable && seen.answers == *answers,
            Self::Leaves(answers) => {
                seen.leaving && seen.error.is_none() && seen.answers == *answers
            }
            Self::Dies(error, answers) => {
                connected && seen.error.as_ref() == Some(error) && seen.answers == *answers
            }
        }
    }
}
