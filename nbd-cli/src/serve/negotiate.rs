//! From the greeting to the data phase.

use std::io;
use std::time::{Duration, Instant};

use nbd_proto::io::Progress;
use nbd_proto::wire::option::MetaContextRequest;
use nbd_proto::{
    ApiMisuse, Direction, Discard, Error, Machine, PeerMisbehaved, Question, RefusalCode, Server,
    ServerNegotiation, ServerPhase,
};
use nbd_session::LinkError;
use nbd_transport::tls::TlsError;

use super::connection::Fault;
use super::export::{ALLOCATION, Export};
use super::running::Shared;
use super::transport::Transport;

/// A negotiation as a whole may take so many times as long as one message.
const LONGEST: u32 = 10;

/// Negotiates. Returns nothing when the client leaves without an export, or the
/// server stops. A client may take as long as `patience` over each message, and
/// [`LONGEST`] times as long over all of them.
pub(super) fn negotiate(
    transport: &mut Transport,
    shared: &Shared,
    patience: Duration,
) -> Result<Option<Server>, Fault> {
    let mut negotiation = ServerNegotiation::new(shared.config.clone());
    let mut messages = 0;
    let begun = Instant::now();
    let longest = patience * LONGEST;
    let mut deadline = begun + patience;
    loop {
        // What is due goes out before more is read or answered, so a client
        // that only ever asks cannot make replies pile up.
        let mut interest = transport.direction(&negotiation);
        if interest.contains(Direction::WRITE) {
            interest = Direction::WRITE;
        } else {
            match negotiation.phase() {
                ServerPhase::Busy => {}
                ServerPhase::Question => {
                    answer(&mut negotiation, &shared.export)?;
                    negotiation.received(0, &mut Discard)?;
                    continue;
                }
                ServerPhase::Established => return Ok(negotiation.finish().ok()),
                ServerPhase::StartTls if transport.is_handshaking() => {}
                ServerPhase::StartTls => {
                    upgrade(transport, &mut negotiation, shared)?;
                    continue;
                }
                ServerPhase::Closed => {
                    transport.close(&mut negotiation);
                    return Ok(None);
                }
            }
        }
        let woken = transport.wait(interest, Some(&shared.stop), Some(deadline))?;
        if woken.stop {
            transport.close(&mut negotiation);
            return Ok(None);
        }
        if begun.elapsed() >= longest {
            return Err(Fault::Undecided(longest));
        }
        if woken.ready.is_empty() {
            return Err(Fault::Stalled(patience));
        }
        let progress = if interest == Direction::WRITE {
            transport.write(&mut negotiation, &Discard)
        } else {
            transport.read(&mut negotiation, &mut Discard)
        };
        match progress {
            Ok(Progress::Closed) => return Ok(None),
            // The client has gone between two messages: it only looked, as port
            // scanners and probes for readiness do.
            Err(LinkError::Protocol(Error::Misbehaved(PeerMisbehaved::Closed))) => {
                return Ok(None);
            }
            // Nor did it read the greeting.
            Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            Ok(Progress::Blocked | Progress::More) => {}
            Err(error) => return Err(error.into()),
        }
        let received = negotiation.stats().messages_received;
        if received > messages {
            messages = received;
            deadline = (Instant::now() + patience).min(begun + longest);
        }
    }
}

/// Starts TLS once the client has been told to go on, and goes back to
/// negotiating, from the start, once its handshake is done.
fn upgrade(
    transport: &mut Transport,
    negotiation: &mut ServerNegotiation,
    shared: &Shared,
) -> Result<(), Fault> {
    if transport.is_tls() {
        return Ok(negotiation.tls_ready()?);
    }
    let tls = shared.tls.as_ref().ok_or(TlsError::NotConfigured)?;
    transport.start_tls(tls.acceptor.start()?);
    Ok(())
}

/// Answers what only the owner of the export knows.
fn answer(negotiation: &mut ServerNegotiation, export: &Export) -> Result<(), ApiMisuse> {
    let Some(question) = negotiation.question().cloned() else {
        return Err(ApiMisuse::WrongState);
    };
    let name = match &question {
        Question::List => "",
        Question::Info(request) | Question::Go(request) => &request.export,
        Question::ExportName(name) => name,
        Question::ListMetaContext(request) | Question::SetMetaContext(request) => &request.export,
    };
    if !export.is_called(name) {
        return negotiation.refuse(RefusalCode::UnknownExport, "there is no export of that name");
    }
    match question {
        Question::List => {
            negotiation.send_export(&export.entry())?;
            negotiation.acknowledge()
        }
        Question::Info(_) | Question::Go(_) | Question::ExportName(_) => {
            negotiation.describe(export.info())
        }
        Question::ListMetaContext(request) => {
            if lists_allocation(&request) {
                negotiation.send_context(ALLOCATION)?;
            }
            negotiation.acknowledge()
        }
        Question::SetMetaContext(request) => {
            if request.queries.iter().any(|query| query == ALLOCATION) {
                negotiation.send_context(ALLOCATION)?;
            }
            negotiation.acknowledge()
        }
    }
}

/// proto.md, "NBD_OPT_LIST_META_CONTEXT": no query lists everything, and
/// `base:` all of its namespace. Unknown queries are ignored.
fn lists_allocation(request: &MetaContextRequest) -> bool {
    let matches = |query: &String| query == "base:" || query == ALLOCATION;
    request.queries.is_empty() || request.queries.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Log;
    use crate::store::MemoryStore;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn shared() -> (Shared, io::PipeWriter) {
        let export = Export {
            name: String::new(),
            description: None,
            store: Arc::new(MemoryStore::new(1)),
            read_only: false,
        };
        let (stop, alive) = io::pipe().unwrap();
        (Shared::new(export, None, Log::start().unwrap(), stop), alive)
    }

    #[test]
    fn a_client_that_stalls_is_cut() {
        let (shared, _alive) = shared();
        for said in [&[] as &[u8], &[0, 0, 0, 3], b"\0\0\0\x03IHAVEOPT\0\0"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            let ended = negotiate(&mut Transport::plain(ours.into()), &shared, SHORT);
            assert!(matches!(ended, Err(Fault::Stalled(SHORT))), "{ended:?}");
        }
    }

    /// Talks to a server until it hangs up; returns how that ended.
    fn talk(talk: impl FnMut(&mut UnixStream) -> io::Result<()> + Send) -> Fault {
        let (shared, _alive) = shared();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut talk, deadline) = (talk, Instant::now() + LONG);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                theirs.write_all(&[0, 0, 0, 3]).unwrap();
                while Instant::now() < deadline && talk(&mut theirs).is_ok() {}
            });
            let mut transport = Transport::plain(ours.into());
            negotiate(&mut transport, &shared, SHORT).expect_err("nothing was chosen")
        })
    }

    #[test]
    fn a_client_that_takes_its_time_over_one_message_is_cut() {
        let ended = talk(|server| {
            // The data of one option, byte by byte.
            server.write_all(b"IHAVEOPT\0\0\0\x07\0\x10\0\0")?;
            loop {
                server.write_all(&[0])?;
                std::thread::sleep(SHORT / 50);
            }
        });
        assert!(matches!(ended, Fault::Stalled(SHORT)), "{ended:?}");
    }

    #[test]
    fn a_client_that_asks_for_ever_is_cut() {
        let mut answers = [0; 18];
        let ended = talk(|server| {
            server.read_exact(&mut answers)?;
            // An unknown option and its refusal.
            let mut answers = [0; 20];
            loop {
                server.write_all(b"IHAVEOPT\0\0\0\x7f\0\0\0\0")?;
                server.read_exact(&mut answers)?;
            }
        });
        let longest = SHORT * LONGEST;
        assert!(matches!(ended, Fault::Undecided(after) if after == longest), "{ended:?}");
    }

    #[test]
    fn a_client_that_never_reads_is_cut() {
        let (shared, _alive) = shared();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        theirs.write_all(&[0, 0, 0, 3]).unwrap();
        // Far more lists than the answers have room in the socket.
        let list = *b"IHAVEOPT\0\0\0\x03\0\0\0\0";
        let asking = std::thread::spawn(move || {
            let deadline = Instant::now() + LONG;
            let mut sent = 0;
            // Until the server has gone.
            while Instant::now() < deadline {
                match theirs.write(&list[sent..]) {
                    Ok(n) => sent = (sent + n) % list.len(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::yield_now();
                    }
                    Err(_) => break,
                }
            }
        });
        let mut transport = Transport::plain(ours.into());
        let ended = negotiate(&mut transport, &shared, SHORT);
        assert!(matches!(ended, Err(Fault::Stalled(SHORT))), "{ended:?}");
        drop(transport);
        asking.join().unwrap();
    }

    #[test]
    fn a_stop_ends_the_negotiation_at_once() {
        let (shared, alive) = shared();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(LONG)).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let negotiating = scope.spawn(|| {
                negotiate(&mut Transport::plain(ours.into()), &shared, LONG)
                    .map(|server| server.is_none())
            });
            theirs.read_exact(&mut [0; 18]).unwrap();
            drop(alive);
            assert!(negotiating.join().unwrap().unwrap());
        });
        assert!(begun.elapsed() < LONG);
    }
}
