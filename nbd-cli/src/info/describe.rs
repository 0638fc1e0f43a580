//! What is known of one export, and of the connection it was asked over.

use std::time::Duration;

use nbd_client_blocking::proto::{
    ClientConfig, ExportInfo, HeaderStyle, Negotiated, Protocol, RefusalCode, TransmissionFlags,
};
use nbd_client_blocking::transport::tls::TlsInfo;
use nbd_client_blocking::{Error, Options};

use crate::failure::{Context, Failure, Result};
use crate::target::Server;

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

/// What the server was asked, or why it did not tell.
pub(crate) type Told<T> = std::result::Result<T, String>;

/// An export and its meta contexts.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    /// From the list, where the details have none.
    pub(crate) description: Option<String>,
    pub(super) info: Told<ExportInfo>,
    pub(super) contexts: Told<Vec<String>>,
    /// What file(1) says, if it was asked.
    pub(super) content: Option<String>,
    /// What leads to it, unless it is a command.
    pub(super) uri: Option<String>,
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
    fn of(name: &str, facts: &Negotiated, contexts: Told<Vec<String>>) -> Self {
        let info = facts.export.clone();
        let info = info.unwrap_or_else(|| ExportInfo::new(0, TransmissionFlags::empty()));
        let description = info.description.clone();
        Self {
            name: info.canonical_name.clone().unwrap_or_else(|| name.to_owned()),
            description,
            info: Ok(info),
            contexts,
            content: None,
            uri: None,
        }
    }

    /// Its size in bytes, and whether it is read-only, if that is known.
    pub(crate) fn size_and_access(&self) -> Option<(u64, bool)> {
        let info = self.info.as_ref().ok()?;
        Some((info.size, info.flags.contains(TransmissionFlags::READ_ONLY)))
    }

    /// What could not be found out.
    pub(crate) fn unknown(&self) -> Option<&str> {
        match (&self.info, &self.contexts) {
            (Err(reason), _) | (Ok(_), Err(reason)) => Some(reason),
            (Ok(_), Ok(_)) => None,
        }
    }
}

/// The export the URI names, as it is to whoever connects to it. What a server answers to
/// `NBD_OPT_INFO` need not be the same: nbd-server 3.24 says that all have 0 bytes.
pub(super) fn chosen(
    server: &Server,
    content: bool,
    limit: Option<Duration>,
) -> Result<(Session, Described)> {
    let mut options = negotiate(server, limit)?;
    let mut contexts = Ok(Vec::new());
    if can_be_asked(&options) {
        contexts = self::contexts(&mut options);
        let first = contexts.iter().flatten().next();
        if let Some(first) = first
            && options.negotiated().headers == HeaderStyle::Extended
        {
            // Flags may depend on it: without a context, qemu-nbd does not say that block status
            // takes a payload. A refusal changes nothing.
            let _ = options.set_meta_contexts(&[first]);
        }
        if !options.is_negotiating() {
            // It would rather hang up than say no.
            options = negotiate(server, limit)?;
        }
    }
    let name = options.export_name().to_owned();
    let mut client = options.go().map_err(|failed| failed.error).context(&server.name)?;
    let facts = client.negotiated().clone();
    let session = Session::of(&facts, client.session().tls_info());
    let mut described = Described::of(&name, &facts, contexts);
    // As it was given, with the credentials that it names; what a command listens on is known
    // to the client only.
    let given = server.uri().map(ToString::to_string);
    described.uri = given.or_else(|| client.to_uri().ok().map(|uri| uri.to_string()));
    if content {
        described.content = super::content::of(&mut client);
    }
    // Everything is known, however the goodbye goes.
    let _ = client.disconnect();
    Ok((session, described))
}

/// Every export the server lists.
pub(super) fn all(
    server: &Server,
    content: bool,
    limit: Option<Duration>,
) -> Result<(Session, Vec<Described>)> {
    let mut options = negotiate(server, limit)?;
    if !can_be_asked(&options) {
        return Err(Failure::new(format!(
            "{}: the server speaks an older protocol that cannot list exports",
            server.name
        )));
    }
    let entries = options.list().context(&server.name)?;
    let tls = options.session().tls_info().cloned();
    let session = Session::of(&options.negotiated(), tls.as_ref());
    let mut exports = Vec::new();
    for entry in entries {
        let told = if content { None } else { asked(&mut options, &entry.name) };
        exports.push((entry, told));
    }
    // There are servers that serve one connection at a time.
    let _ = options.abort();
    let exports = exports.into_iter().map(|(entry, told)| {
        let export = server.with_export(&entry.name);
        // It does not know how to, does not tell the truth, or more is wanted.
        let mut described = told.unwrap_or_else(|| opened(&export, &entry.name, content, limit));
        described.uri = export.uri().map(ToString::to_string);
        // The list is what was asked for.
        if !entry.description.is_empty() {
            described.description = Some(entry.description);
        }
        described
    });
    Ok((session, exports.collect()))
}

/// An export as it is to whoever connects to it, or why nobody can.
fn opened(export: &Server, name: &str, content: bool, limit: Option<Duration>) -> Described {
    match chosen(export, content, limit) {
        Ok((_, described)) => described,
        Err(failure) => Described {
            name: name.to_owned(),
            description: None,
            info: Err(failure.to_string()),
            contexts: Ok(Vec::new()),
            content: None,
            uri: None,
        },
    }
}

fn negotiate(server: &Server, limit: Option<Duration>) -> Result<Options> {
    // What is chosen in steps is not to be chosen anew.
    let config = ClientConfig::new().full_info(true).request_meta_contexts(false);
    server.negotiate(config, limit)
}

/// Whether the server knows options: those of fixed newstyle do.
fn can_be_asked(options: &Options) -> bool {
    options.negotiated().protocol == Protocol::FixedNewstyle
}

/// An export, as far as the answer can be believed.
fn asked(options: &mut Options, name: &str) -> Option<Described> {
    options.set_export_name(name).ok()?;
    let facts = options.info().ok()?;
    let size = facts.export.as_ref().map_or(0, |export| export.size);
    if size == 0 {
        return None;
    }
    let contexts = contexts(options);
    Some(Described::of(name, &facts, contexts))
}

/// The names of all meta contexts; none from a server that has no such thing.
fn contexts(options: &mut Options) -> Told<Vec<String>> {
    if options.negotiated().headers == HeaderStyle::Simple {
        return Ok(Vec::new());
    }
    match options.list_meta_contexts(&[]) {
        Ok(contexts) => Ok(contexts.into_iter().map(|context| context.name).collect()),
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        result => {
            let told = result.context("its meta contexts");
            Err(told.err().map_or_else(String::new, |failure| failure.to_string()))
        }
    }
}

/// Whether the server does not know an option.
fn is_unknown(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == RefusalCode::Unsupported)
}
