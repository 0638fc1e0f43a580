//! What is known of one export, and of the connection it was asked over.

use nbd_client_blocking::proto::{
    ExportInfo, HeaderStyle, Negotiated, Refusal, RefusalCode, TransmissionFlags,
};
use nbd_client_blocking::{Error, Options};

/// How the two sides talk.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: &'static str,
    pub(super) tls: bool,
    pub(super) headers: HeaderStyle,
}

impl Session {
    pub(super) fn of(facts: &Negotiated) -> Self {
        Self {
            protocol: facts.protocol.name(),
            tls: facts.tls,
            headers: facts.headers,
        }
    }
}

/// An export and its meta contexts.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: String,
    /// From the list, where the details have none.
    pub(super) description: Option<String>,
    pub(super) info: ExportInfo,
    pub(super) contexts: Vec<String>,
}

/// Each ability as nbdinfo names it, in its order.
pub(super) const ABILITIES: [(&str, TransmissionFlags); 11] = [
    ("is_rotational", TransmissionFlags::ROTATIONAL),
    ("is_read_only", TransmissionFlags::READ_ONLY),
    (
        "can_block_status_payload",
        TransmissionFlags::BLOCK_STATUS_PAYLOAD,
    ),
    ("can_cache", TransmissionFlags::SEND_CACHE),
    ("can_df", TransmissionFlags::SEND_DF),
    ("can_fast_zero", TransmissionFlags::SEND_FAST_ZERO),
    ("can_flush", TransmissionFlags::SEND_FLUSH),
    ("can_fua", TransmissionFlags::SEND_FUA),
    ("can_multi_conn", TransmissionFlags::CAN_MULTI_CONN),
    ("can_trim", TransmissionFlags::SEND_TRIM),
    ("can_zero", TransmissionFlags::SEND_WRITE_ZEROES),
];

impl Described {
    pub(super) fn of(name: &str, facts: &Negotiated, contexts: Vec<String>) -> Self {
        let info = facts.export.clone();
        let info = info.unwrap_or_else(|| ExportInfo::new(0, TransmissionFlags::empty()));
        let description = info.description.clone();
        Self {
            name: info
                .canonical_name
                .clone()
                .unwrap_or_else(|| name.to_owned()),
            description,
            info,
            contexts,
        }
    }
}

/// The export the URI names.
pub(super) fn chosen(options: &mut Options) -> Result<Described, Error> {
    let facts = options.info()?;
    let contexts = contexts(options)?;
    let name = options.export_name().to_owned();
    Ok(Described::of(&name, &facts, contexts))
}

/// Every export the server lists.
pub(super) fn all(options: &mut Options) -> Result<Vec<Described>, Error> {
    let mut exports = Vec::new();
    for entry in options.list()? {
        options.set_export_name(&entry.name)?;
        let mut described = chosen(options)?;
        described.name = entry.name;
        if described.description.is_none() && !entry.description.is_empty() {
            described.description = Some(entry.description);
        }
        exports.push(described);
    }
    Ok(exports)
}

/// The names of all meta contexts; none from a server that has no such thing.
fn contexts(options: &mut Options) -> Result<Vec<String>, Error> {
    if options.negotiated().headers == HeaderStyle::Simple {
        return Ok(Vec::new());
    }
    match options.list_meta_contexts(&[]) {
        Ok(contexts) => Ok(contexts.into_iter().map(|context| context.name).collect()),
        Err(Error::Protocol(nbd_client_blocking::proto::Error::Refused(Refusal {
            code: RefusalCode::Unsupported | RefusalCode::Invalid | RefusalCode::Policy,
            ..
        }))) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
