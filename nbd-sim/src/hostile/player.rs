//! Delivers a script to a client and notes what comes of it.

use nbd_proto::{
    Client, Command, Discard, Error, ErrorReport, Event, Machine, Negotiated, Negotiation,
    NegotiationEvent, PayloadSink, PayloadSource, Phase, RefusalCode, RequestId, part_mut,
};

use super::{Answer, Case, DATA, Outcome};
use crate::delivery::Delivery;

/// What came of a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What was agreed on, if the connection came to stand.
    pub negotiated: Option<Negotiated>,
    /// What ended the negotiation or the connection.
    pub error: Option<Error>,
    /// Names of exports that were listed.
    pub exports: Vec<String>,
    /// How listing them ended.
    pub listed: Option<Result<(), RefusalCode>>,
    /// How each command ended.
    pub answers: Vec<Answer>,
    /// What the server explained.
    pub reports: Vec<(Option<u64>, Vec<u8>)>,
    /// All that the client sent.
    pub sent: Vec<u8>,
    /// A broken promise about memory.
    pub broken: Option<String>,
    /// The connection was left in good order, or is about to be.
    pub leaving: bool,
    /// Another command can be asked and answered.
    pub usable: bool,
}

const BEFORE: u8 = 0xee;
const MARGIN: usize = 64;

/// Buffers of the commands, found by slot, with a margin on both sides.
#[derive(Debug, Default)]
struct Memory {
    buffers: Vec<(RequestId, Vec<u8>)>,
    reports: Vec<(Option<u64>, Vec<u8>)>,
}

impl PayloadSink for Memory {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.buffers.iter_mut().find(|(owner, _)| *owner == id) {
            Some((_, buffer)) => part_mut(buffer, MARGIN + at, len),
            None => &mut [],
        }
    }

    fn error(&mut self, _id: RequestId, report: ErrorReport<'_>) {
        self.reports.push((report.offset, report.message.to_vec()));
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        match self.buffers.iter().find(|(owner, _)| *owner == id) {
            Some((_, buffer)) => &buffer[MARGIN + at..MARGIN + at + len],
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
            let taken = delivery.deliver(&mut negotiation, &mut Discard, burst);
            result = taken.map(|taken| early.extend(&burst[taken..]));
            negotiation.drain(&mut seen.sent, &Discard).expect("no payload");
            if result.is_err() {
                break;
            }
            if self.lists && !asked && negotiation.phase() == Phase::Idle {
                asked = true;
                negotiation.list().expect("idle");
            }
            negotiation.drain(&mut seen.sent, &Discard).expect("no payload");
        }
        let last = self.replies.is_empty() && self.closes || *cut == 0;
        if last && result.is_ok() && negotiation.phase() != Phase::Established {
            result = negotiation.eof();
        }
        while let Some(event) = negotiation.poll_event() {
            match event {
                NegotiationEvent::Export(entry) => seen.exports.push(entry.name),
                NegotiationEvent::Finished { option, result } if self.lists => {
                    assert_eq!(option, nbd_proto::OptionCode::List);
                    seen.listed = Some(result.map_err(|refusal| refusal.code));
                }
                NegotiationEvent::MetaContext(_) | NegotiationEvent::Finished { .. } => {}
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
        for command in &self.commands {
            let id = client.submit(*command).expect("a sound command");
            let payload = command.length.min(1 << 25) as usize;
            memory.buffers.push((id, vec![BEFORE; payload + 2 * MARGIN]));
        }
        client.drain(&mut seen.sent, &memory).expect("payload");
        let mut result = client.feed(early, &mut memory);
        for burst in &self.replies {
            let burst = until_cut(burst, cut);
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

    /// Bytes outside a buffer stay; a read that succeeds is made of the server's
    /// bytes and zeroes alone.
    fn broken_promise(&self, memory: &Memory, seen: &Observed) -> Option<String> {
        let of = self.commands.iter().zip(&seen.answers);
        for ((command, answer), (id, buffer)) in of.zip(&memory.buffers) {
            let (front, rest) = buffer.split_at(MARGIN);
            let (payload, back) = rest.split_at(rest.len() - MARGIN);
            if front.iter().chain(back).any(|byte| *byte != BEFORE) {
                return Some(format!("{id:?}: bytes outside the buffer were touched"));
            }
            let read = command.kind == nbd_proto::CommandType::Read;
            let strange = payload.iter().any(|byte| ![DATA, 0].contains(byte));
            if read && *answer == Some(Ok(())) && strange {
                return Some(format!("{id:?}: success without the server's bytes"));
            }
        }
        None
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
                seen.exports.len() == *count && seen.listed == Some(*result) && seen.error.is_none()
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
