//! Both sides' negotiation: the caller's part in it.

use nbd_proto::{
    Direction, Error, ExportEntry, ExportInfo, Machine, Negotiation, Phase, Question, RefusalCode,
    ServerNegotiation, ServerPhase,
};

use crate::rng::Rng;

/// The server application's one export and its contexts.
pub(super) const CONTEXTS: [&str; 2] = ["base:allocation", "sim:stripes"];

/// What the client's caller does when the negotiation waits for it.
///
/// # Errors
/// When the negotiation ends.
pub(super) fn steer_client(negotiation: &mut Negotiation, rng: &mut Rng) -> Result<(), Error> {
    match negotiation.phase() {
        Phase::StartTls if !is_sending(negotiation) => negotiation.tls_ready(),
        Phase::Idle => match rng.below(8) {
            0 => refused_is_fine(negotiation.list()),
            1 => refused_is_fine(negotiation.info()),
            2 => refused_is_fine(negotiation.list_meta_contexts(&["base:"])),
            3 => refused_is_fine(negotiation.set_meta_contexts(&CONTEXTS)),
            _ => negotiation.go(),
        },
        Phase::Busy | Phase::StartTls | Phase::Established | Phase::Closed => Ok(()),
    }
}

/// An old server takes no options; that is told and changes nothing.
fn refused_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Incompatible(_)) => Ok(()),
        other => other,
    }
}

/// What the server's caller does when the negotiation waits for it.
///
/// # Errors
/// When the negotiation ends.
pub(super) fn steer_server(
    negotiation: &mut ServerNegotiation,
    export: &ExportInfo,
    rng: &mut Rng,
) -> Result<(), Error> {
    if negotiation.phase() == ServerPhase::StartTls && !is_sending(negotiation) {
        negotiation.tls_ready()?;
    }
    let Some(question) = negotiation.question().cloned() else {
        return Ok(());
    };
    match question {
        Question::List => {
            for name in ["", "disk"] {
                negotiation.send_export(&ExportEntry {
                    name: name.to_owned(),
                    description: "made of noise".to_owned(),
                })?;
            }
            negotiation.acknowledge()?;
        }
        Question::Info(_) if rng.one_in(4) => {
            negotiation.refuse(RefusalCode::Policy, "not today")?;
        }
        Question::Info(request) | Question::Go(request) => {
            if ["", "disk"].contains(&request.export.as_str()) {
                negotiation.describe(export.clone())?;
            } else {
                negotiation.refuse(RefusalCode::UnknownExport, "no such disk")?;
            }
        }
        Question::ExportName(_) => negotiation.describe(export.clone())?,
        Question::ListMetaContext(request) | Question::SetMetaContext(request) => {
            let listing = request.queries.is_empty();
            let asked = |name: &str| {
                request
                    .queries
                    .iter()
                    .any(|query| query == name || query == "base:" && name.starts_with(query))
            };
            for name in CONTEXTS {
                if listing || asked(name) {
                    negotiation.send_context(name)?;
                }
            }
            negotiation.acknowledge()?;
        }
    }
    Ok(())
}

pub(super) fn is_sending<M: Machine>(machine: &M) -> bool {
    machine.get_direction().contains(Direction::WRITE)
}
