//! From the greeting to the data phase.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::wire::option::MetaContextRequest;
use nbd_proto::{
    ApiMisuse, Direction, Discard, Error, ExportEntry, Machine, PeerMisbehaved, Question,
    RefusalCode, Server, ServerNegotiation, ServerPhase, TransmissionFlags,
};
use nbd_session::{Link, LinkError};
use nbd_transport::tls::TlsError;

use super::ConnectionError;
use super::describe::ALLOCATION;
use super::placement::queue_of;
use crate::clients::Place;
use crate::config::{ListInFlight, Shared};
use crate::event::Event;
use crate::exports::{Exports, Listed, Opened, check_size, travelling};
use crate::peer::Peer;

/// A negotiation as a whole may take so many times as long as one message.
const LONGEST: u32 = 10;

/// A connection whose client has not chosen an export.
#[derive(Debug)]
pub(crate) struct Handshake {
    negotiation: Box<ServerNegotiation>,
    link: Link,
    shared: Arc<Shared>,
    peer: Peer,
    place: Place,
    /// What was opened last, by the name that was asked for: a client that describes an export,
    /// selects its contexts and uses it opens it once.
    opened: Option<(String, Opened)>,
    /// The list that its client has not taken.
    list: Option<ListInFlight>,
    messages: u64,
    begun: Instant,
    message_begun: Instant,
}

/// Moves in a row before others have their turn.
const MOVES: usize = 16;

/// What a handshake comes to next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Wait for the stream, until the time given at most.
    Wait(Direction, Instant),
    /// Nothing, there is more to do, once others have had their turn.
    Again,
    /// Have the exports asked, which may take its time: [`Handshake::answer`].
    Ask,
    /// The client has chosen: [`Handshake::finish`].
    Established,
    /// It is over, and nobody is to blame.
    Closed,
}

impl Handshake {
    pub(crate) fn new(shared: Arc<Shared>, peer: Peer, place: Place, now: Instant) -> Self {
        Self {
            negotiation: Box::new(ServerNegotiation::new(shared.protocol())),
            link: Link::plain(),
            shared,
            peer,
            place,
            opened: None,
            list: None,
            messages: 0,
            begun: now,
            message_begun: now,
        }
    }

    /// The number of the client's place.
    pub(crate) const fn number(&self) -> u64 {
        self.place.number()
    }

    /// Who negotiates.
    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Moves what can be moved, unless the server stops.
    ///
    /// # Errors
    /// When the client breaks the protocol, takes too long or has to give way, or the stream
    /// fails.
    pub(crate) fn drive<T>(&mut self, io: &mut T, now: Instant) -> Result<Step, ConnectionError>
    where
        T: Read + Write + ?Sized,
    {
        if self.place.stop_by().is_some() {
            self.close(io);
            return Ok(Step::Closed);
        }
        if self.place.is_displaced() {
            return Err(ConnectionError::Displaced);
        }
        self.check_time(now)?;
        for _ in 0..MOVES {
            // What is due goes out before more is read or answered, so a client
            // that only ever asks cannot make replies pile up.
            let mut direction = self.link.direction(&*self.negotiation);
            if direction.contains(Direction::WRITE) {
                direction = Direction::WRITE;
            } else {
                self.list = None;
                match self.negotiation.phase() {
                    ServerPhase::Busy => {}
                    ServerPhase::Question => return Ok(Step::Ask),
                    ServerPhase::Established => return Ok(Step::Established),
                    ServerPhase::StartTls if self.link.is_handshaking() => {}
                    ServerPhase::StartTls => {
                        self.upgrade()?;
                        continue;
                    }
                    ServerPhase::Closed => {
                        self.close(io);
                        return Ok(Step::Closed);
                    }
                }
            }
            match self.advance(io, direction) {
                Ok(Moved::Some) => self.note_progress(now),
                Ok(Moved::Nothing) => return Ok(Step::Wait(direction, self.deadline())),
                Ok(Moved::Closed) => return Ok(Step::Closed),
                // The client has gone between two messages: it only looked, as port
                // scanners and probes for readiness do.
                Err(LinkError::Protocol(Error::Misbehaved(PeerMisbehaved::Closed))) => {
                    return Ok(Step::Closed);
                }
                // Nor did it read the greeting.
                Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Step::Closed);
                }
                Err(error) => {
                    if let LinkError::Tls(_) = error {
                        // The alert that tells the client why.
                        self.close(io);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(Step::Again)
    }

    fn advance<T>(&mut self, io: &mut T, direction: Direction) -> Result<Moved, LinkError>
    where
        T: Read + Write + ?Sized,
    {
        let before = self.moved();
        let machine = &mut *self.negotiation;
        let progress = if direction == Direction::WRITE {
            self.link.write(machine, io, &Discard, IoMode::Vectored)?
        } else {
            self.link.read(machine, io, &mut Discard, IoMode::Vectored)?
        };
        Ok(match progress {
            Progress::Closed => Moved::Closed,
            Progress::More => Moved::Some,
            Progress::Blocked if self.moved() != before => Moved::Some,
            Progress::Blocked => Moved::Nothing,
        })
    }

    /// What changes when bytes move, those of the TLS handshake too.
    fn moved(&self) -> (u64, u64, bool, Direction) {
        let stats = self.negotiation.stats();
        let direction = self.link.direction(&*self.negotiation);
        (stats.bytes_received, stats.bytes_sent, self.link.is_handshaking(), direction)
    }

    /// What is due and has room goes out; nobody waits for the rest.
    fn close<T: Write + ?Sized>(&mut self, io: &mut T) {
        self.link.close();
        let _ = self.link.write(&mut *self.negotiation, io, &Discard, IoMode::Vectored);
    }

    fn check_time(&self, now: Instant) -> Result<(), ConnectionError> {
        let patience = self.shared.limits.handshake_timeout;
        if now >= self.begun + patience * LONGEST {
            return Err(ConnectionError::Undecided(patience * LONGEST));
        }
        if now >= self.message_begun + patience {
            return Err(ConnectionError::Silent(patience));
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let patience = self.shared.limits.handshake_timeout;
        (self.message_begun + patience).min(self.begun + patience * LONGEST)
    }

    fn note_progress(&mut self, now: Instant) {
        let stats = self.negotiation.stats();
        if stats.bytes_received > 0 {
            self.place.talks();
        }
        let messages = stats.messages_received;
        // A long list that is taken slowly is no silence.
        if messages > self.messages || self.list.is_some() {
            self.messages = messages;
            self.message_begun = now;
        }
    }

    /// Starts TLS once the client has been told to go on, and goes back to
    /// negotiating, from the start, once its handshake is done.
    fn upgrade(&mut self) -> Result<(), ConnectionError> {
        if self.link.is_tls() {
            self.peer.tls = self.link.tls_info().cloned();
            self.opened = None;
            return Ok(self.negotiation.tls_ready()?);
        }
        let acceptor = self.shared.tls.acceptor().ok_or(TlsError::NotConfigured)?;
        self.link.start_tls(acceptor.start()?);
        Ok(())
    }

    /// The queue for what it has to ask: that of the export which it is about.
    pub(crate) fn queue(&self) -> u64 {
        match self.negotiation.question() {
            Some(Question::Info(request) | Question::Go(request)) => queue_of(&request.export),
            Some(Question::ExportName(name)) => queue_of(name),
            Some(Question::ListMetaContext(request) | Question::SetMetaContext(request)) => {
                queue_of(&request.export)
            }
            Some(Question::List) | None => 0,
        }
    }

    /// Answers what only the exports can tell. Takes as long as they take. Where they panic, the
    /// client is refused.
    ///
    /// # Errors
    /// When it is not asked.
    pub(crate) fn answer(&mut self) -> Result<(), ConnectionError> {
        let question = self.negotiation.question().cloned().ok_or(ApiMisuse::WrongState)?;
        let exports = Arc::clone(&self.shared.exports);
        let answer = AssertUnwindSafe(|| self.answer_question(&question, &*exports));
        // The thread has told what it was.
        let failed = |_| Err(io::Error::other("the server cannot tell, its exports have failed"));
        let answered = catch_unwind(answer).unwrap_or_else(failed);
        if let Err(error) = answered {
            if let Some(export) = asks_for(&question) {
                let refused = Event::Refused { peer: &self.peer, export, error: &error };
                // This thread serves others, too, whatever an observer does.
                let _ = catch_unwind(AssertUnwindSafe(|| self.shared.tell(&refused)));
            }
            self.negotiation.refuse(refusal(error.kind()), &error.to_string())?;
        }
        self.negotiation.received(0, &mut Discard)?;
        self.message_begun = Instant::now();
        Ok(())
    }

    fn answer_question(&mut self, question: &Question, exports: &dyn Exports) -> io::Result<()> {
        match question {
            Question::List => {
                let all = exports.list(&self.peer)?;
                // proto.md, `NBD_REP_SERVER`: the header of a reply, a length and two strings.
                let bytes = |one: &Listed| 24 + one.name.len() + one.description.len();
                self.list = Some(self.shared.begin_list(all.iter().map(bytes).sum())?);
                for listed in all {
                    let description = travelling(listed.description).unwrap_or_default();
                    let entry = ExportEntry { name: listed.name, description };
                    // One that cannot travel is not there for clients.
                    let _ = self.negotiation.send_export(&entry);
                }
                self.negotiation.acknowledge().map_err(io::Error::other)
            }
            Question::Info(request) => self.describe(&request.export, exports),
            Question::Go(request) => self.choose(&request.export, exports),
            Question::ExportName(name) => self.choose(name, exports),
            Question::ListMetaContext(request) => self.contexts(request, exports, true),
            Question::SetMetaContext(request) => self.contexts(request, exports, false),
        }
    }

    fn open(&mut self, name: &str, exports: &dyn Exports) -> io::Result<Opened> {
        match &self.opened {
            Some((asked, opened)) if asked == name => Ok(opened.clone()),
            Some(_) | None => {
                let opened = exports.open(name, &self.peer)?;
                check_size(opened.export.size())?;
                self.opened = Some((name.to_owned(), opened.clone()));
                Ok(opened)
            }
        }
    }

    fn describe(&mut self, name: &str, exports: &dyn Exports) -> io::Result<()> {
        let opened = self.open(name, exports)?;
        let info = opened.info(self.shared.limits.max_payload);
        self.negotiation.describe(info).map_err(io::Error::other)
    }

    /// Describes the export for good, if there is a place at it.
    fn choose(&mut self, name: &str, exports: &dyn Exports) -> io::Result<()> {
        self.open(name, exports)?;
        if let Err(connections) = self.place.settle(self.shared.limits.max_connections) {
            let error = self.shared.too_many_connections(&self.peer, connections);
            let refused = self.negotiation.refuse(refusal(error.kind()), &error.to_string());
            return refused.map_err(io::Error::other);
        }
        self.describe(name, exports).inspect_err(|_| self.place.unsettle())
    }

    fn contexts(
        &mut self,
        request: &MetaContextRequest,
        exports: &dyn Exports,
        list: bool,
    ) -> io::Result<()> {
        let opened = self.open(&request.export, exports)?;
        let mut names = vec![ALLOCATION.to_owned()];
        names.extend(opened.export.contexts());
        for name in names.iter().filter(|name| is_wanted(name, request, list)) {
            // One that cannot travel is not there for clients.
            let _ = self.negotiation.send_context(name);
        }
        self.negotiation.acknowledge().map_err(io::Error::other)
    }

    /// The data phase: the machine, what carries its bytes, the export, and the client.
    ///
    /// # Errors
    /// Its place, when it has not chosen an export.
    pub(crate) fn finish(self) -> Result<(Established, Place), Place> {
        let Self { negotiation, link, opened, peer, place, .. } = self;
        match (negotiation.finish(), opened) {
            (Ok(server), Some((_, opened))) => {
                Ok((Established { server, link, opened, peer }, place))
            }
            _ => Err(place),
        }
    }

    /// The place of a client that is to leave.
    pub(crate) fn into_place(self) -> Place {
        self.place
    }
}

/// A client that has chosen an export.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) server: Server,
    pub(crate) link: Link,
    pub(crate) opened: Opened,
    pub(crate) peer: Peer,
}

impl Established {
    /// A client that has negotiated elsewhere, in clear.
    pub(crate) const fn elsewhere(server: Server, opened: Opened, peer: Peer) -> Self {
        Self { server, link: Link::plain(), opened, peer }
    }

    /// Whether the client may not change the export.
    pub(crate) fn is_read_only(&self) -> bool {
        self.server.export().flags.contains(TransmissionFlags::READ_ONLY)
    }
}

/// What became of an attempt to move bytes.
enum Moved {
    Some,
    Nothing,
    Closed,
}

/// proto.md, "NBD_OPT_LIST_META_CONTEXT": no query lists everything, and `NAMESPACE:` all of its
/// namespace. Unknown queries are ignored.
fn is_wanted(name: &str, request: &MetaContextRequest, list: bool) -> bool {
    if list && request.queries.is_empty() {
        return true;
    }
    request.queries.iter().any(|query| {
        query == name || (list && query.ends_with(':') && name.starts_with(query.as_str()))
    })
}

/// What a client is told that does not get what it asked for.
const fn refusal(kind: io::ErrorKind) -> RefusalCode {
    match kind {
        io::ErrorKind::NotFound => RefusalCode::UnknownExport,
        io::ErrorKind::PermissionDenied | io::ErrorKind::QuotaExceeded => RefusalCode::Policy,
        io::ErrorKind::InvalidInput => RefusalCode::Invalid,
        io::ErrorKind::Unsupported => RefusalCode::Platform,
        // Of a platform QEMU says that the server lacks the option, of a policy that it has denied
        // it.
        _ => RefusalCode::Policy,
    }
}

/// The export that a client asks for, none when it asks for the list. None at all for what a
/// client asks on its way to an export: it is refused that next.
fn asks_for(question: &Question) -> Option<Option<&str>> {
    match question {
        Question::List => Some(None),
        Question::Info(request) | Question::Go(request) => Some(Some(&request.export)),
        Question::ExportName(name) => Some(Some(name)),
        Question::ListMetaContext(_) | Question::SetMetaContext(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;
    use crate::config::{Limits, Tls};
    use crate::exports::ExportList;
    use std::task::Waker;

    /// A client that takes every answer, and what it has said that was not read.
    struct Client(Vec<u8>);

    impl Read for Client {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = buf.len().min(self.0.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            Ok(n)
        }
    }

    impl Write for Client {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// When, after `pauses` between what the client says, the handshake ends, and why.
    fn ends(words: &[u8], pause: u32) -> (u32, ConnectionError) {
        let (limits, begun) = (Limits::default(), Instant::now());
        let pause = limits.handshake_timeout / pause;
        let exports = Arc::new(ExportList::new());
        let shared = Arc::new(Shared::new(exports, limits, Tls::default(), None));
        let place = Arc::new(Clients::default()).admit(|_| Waker::noop().clone(), 1);
        let mut handshake = Handshake::new(shared, Peer::unknown(), place, begun);
        let mut client = Client(vec![0, 0, 0, 3]);
        for said in 0.. {
            match handshake.drive(&mut client, begun + pause * said) {
                Ok(Step::Wait(..)) => client.0.extend(words),
                Ok(step) => panic!("{step:?}"),
                Err(error) => return (said, error),
            }
        }
        unreachable!("it takes its time for ever");
    }

    #[test]
    fn a_client_that_asks_for_ever_is_cut_and_one_that_says_nothing_before() {
        let (pauses, error) = ends(b"IHAVEOPT\0\0\0\x7f\0\0\0\0", 2);
        assert!(matches!(error, ConnectionError::Undecided(_)), "{error}");
        assert_eq!(pauses, 2 * LONGEST);
        // A byte now and then is no message.
        for words in [b"" as &[u8], b"I"] {
            let (pauses, error) = ends(words, 4);
            assert!(matches!(error, ConnectionError::Silent(_)), "{error}");
            assert_eq!(pauses, 4);
        }
    }
}
