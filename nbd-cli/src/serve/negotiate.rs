//! From the greeting to the data phase.

use std::time::{Duration, Instant};

use nbd_proto::io::Progress;
use nbd_proto::wire::option::MetaContextRequest;
use nbd_proto::{
    ApiMisuse, Direction, Discard, Error, Machine, PeerMisbehaved, Question, RefusalCode, Server,
    ServerNegotiation, ServerPhase,
};
use nbd_transport::LinkError;

use super::connection::Fault;
use super::export::{ALLOCATION, Export};
use super::running::Shared;
use super::transport::Transport;

/// How long a client may take over one message. Without a limit, sockets that
/// never say anything would use up the connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// Negotiates. Returns nothing when the client leaves without an export, or the
/// server stops.
pub(super) fn negotiate(
    transport: &mut Transport,
    shared: &Shared,
) -> Result<Option<Server>, Fault> {
    let mut negotiation = ServerNegotiation::new(shared.config.clone());
    let mut messages = 0;
    let mut deadline = Instant::now() + PATIENCE;
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
                // TLS is never begun: the configuration does not offer it.
                ServerPhase::StartTls | ServerPhase::Closed => return Ok(None),
            }
        }
        let woken = transport.wait(interest, Some(&shared.stop), Some(deadline))?;
        if woken.stop {
            return Ok(None);
        }
        if woken.ready.is_empty() {
            return Err(Fault::Stalled(PATIENCE));
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
            Ok(Progress::Blocked | Progress::More) => {}
            Err(error) => return Err(error.into()),
        }
        let received = negotiation.stats().messages_received;
        if received > messages {
            messages = received;
            deadline = Instant::now() + PATIENCE;
        }
    }
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
        return negotiation.refuse(
            RefusalCode::UnknownExport,
            "there is no export of that name",
        );
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
