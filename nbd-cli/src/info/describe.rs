//! What is known of one export, and of the connection it was asked over.

use nbd_client_blocking::proto::{
    Error as ProtocolError, ExportInfo, HeaderStyle, Negotiated, Protocol, Refusal, RefusalCode,
    TransmissionFlags,
};
use nbd_client_blocking::transport::tls::TlsInfo;
use nbd_client_blocking::{Error, Options};

/// How the two sides talk.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: &'static str,
    pub(super) tls: Option<TlsInfo>,
    pub(super) headers: HeaderStyle,
}

impl Session {
    pub(super) fn of(facts: &Negotiated, tls: Option<&TlsInfo>) -> Self {
        Self { protocol: facts.protocol.name(), tls: tls.cloned(), headers: facts.headers }
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
    ("can_block_status_payload", TransmissionFlags::BLOCK_STATUS_PAYLOAD),
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
            name: info.canonical_name.clone().unwrap_or_else(|| name.to_owned()),
            description,
            info,
            contexts,
        }
    }
}

/// Whether the server knows options: those of fixed newstyle do.
pub(super) fn can_be_asked(options: &mut Options) -> bool {
    options.negotiated().protocol == Protocol::FixedNewstyle
}

/// The export the URI names. A server that does not know `NBD_OPT_INFO` tells about an
/// export only when it is chosen.
pub(super) fn chosen(mut options: Options) -> Result<(Session, Vec<Described>), Error> {
    let mut contexts = Vec::new();
    if can_be_asked(&mut options) {
        match one(&mut options) {
            Err(Error::Protocol(ProtocolError::Refused(Refusal {
                code: RefusalCode::Unsupported,
                ..
            }))) => contexts = self::contexts(&mut options)?,
            result => return Ok((finish(options)?, vec![result?])),
        }
    }
    let name = options.export_name().to_owned();
    let client = options.go().map_err(|failed| failed.error)?;
    let facts = client.negotiated().clone();
    let session = Session::of(&facts, client.tls_info());
    client.disconnect()?;
    let export = Described::of(&name, &facts, contexts);
    Ok((session, vec![export]))
}

/// Every export the server lists.
pub(super) fn all(mut options: Options) -> Result<(Session, Vec<Described>), Error> {
    let mut exports = Vec::new();
    for entry in options.list()? {
        options.set_export_name(&entry.name)?;
        let mut described = one(&mut options)?;
        described.name = entry.name;
        if described.description.is_none() && !entry.description.is_empty() {
            described.description = Some(entry.description);
        }
        exports.push(described);
    }
    Ok((finish(options)?, exports))
}

fn finish(mut options: Options) -> Result<Session, Error> {
    let tls = options.tls_info().cloned();
    let session = Session::of(options.negotiated(), tls.as_ref());
    options.abort()?;
    Ok(session)
}

/// The export that is asked for at the moment.
fn one(options: &mut Options) -> Result<Described, Error> {
    let facts = options.info()?;
    let contexts = contexts(options)?;
    let name = options.export_name().to_owned();
    Ok(Described::of(&name, &facts, contexts))
}

/// The names of all meta contexts; none from a server that has no such thing.
fn contexts(options: &mut Options) -> Result<Vec<String>, Error> {
    if options.negotiated().headers == HeaderStyle::Simple {
        return Ok(Vec::new());
    }
    match options.list_meta_contexts(&[]) {
        Ok(contexts) => Ok(contexts.into_iter().map(|context| context.name).collect()),
        Err(Error::Protocol(ProtocolError::Refused(Refusal {
            code: RefusalCode::Unsupported | RefusalCode::Invalid | RefusalCode::Policy,
            ..
        }))) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
