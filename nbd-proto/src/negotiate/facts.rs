//! What both ends agreed on.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Error, PeerMisbehaved};
use crate::types::HeaderStyle;
use crate::wire::flags::{HandshakeFlags, TransmissionFlags};
use crate::wire::option::{BlockSizes, Info, MetaContext};

/// Which negotiation was spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// No negotiation.
    Oldstyle,
    /// Newstyle without the fix: an export can be chosen and nothing else.
    Newstyle,
    /// Fixed newstyle.
    #[default]
    FixedNewstyle,
}

impl Protocol {
    /// As libnbd names it: `"oldstyle"`, `"newstyle"`, `"newstyle-fixed"`.
    #[must_use]
    #[doc(alias = "nbd_get_protocol")]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oldstyle => "oldstyle",
            Self::Newstyle => "newstyle",
            Self::FixedNewstyle => "newstyle-fixed",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An export, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportInfo {
    /// Size in bytes.
    #[doc(alias = "nbd_get_size")]
    pub size: u64,
    /// What it can do, after [`Negotiated`] took out what cannot be used.
    pub flags: TransmissionFlags,
    /// Block sizes, if the server told sane ones.
    #[doc(alias = "nbd_get_block_size")]
    pub block_sizes: Option<BlockSizes>,
    /// The server's own name for it, if it was asked and told.
    #[doc(alias = "nbd_get_canonical_export_name")]
    pub canonical_name: Option<String>,
    /// Text for people, if it was asked and told.
    #[doc(alias = "nbd_get_export_description")]
    pub description: Option<String>,
}

impl ExportInfo {
    /// An export of `size` bytes with the given abilities.
    #[must_use]
    pub const fn new(size: u64, flags: TransmissionFlags) -> Self {
        Self { size, flags, block_sizes: None, canonical_name: None, description: None }
    }

    /// Offsets and lengths must be multiples of this many bytes.
    #[must_use]
    #[doc(alias = "nbd_get_block_size")]
    pub fn minimum_block(&self) -> u32 {
        self.block_sizes.map_or(1, |sizes| sizes.minimum)
    }
}

/// Everything that was agreed on, from the first byte to the present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Negotiated {
    /// Which negotiation was spoken.
    #[doc(alias = "nbd_get_protocol")]
    pub protocol: Protocol,
    /// Handshake flags both sides have.
    #[doc(alias("nbd_set_handshake_flags", "nbd_get_handshake_flags"))]
    pub handshake_flags: HandshakeFlags,
    /// How the data phase talks.
    #[doc(alias("nbd_get_structured_replies_negotiated", "nbd_get_extended_headers_negotiated"))]
    pub headers: HeaderStyle,
    /// TLS is in use.
    #[doc(alias = "nbd_get_tls_negotiated")]
    pub tls: bool,
    /// The export, once one was described.
    pub export: Option<ExportInfo>,
    /// The meta contexts that were granted.
    #[doc(alias = "nbd_can_meta_context")]
    pub contexts: Vec<MetaContext>,
}

impl Negotiated {
    /// An export on a connection in clear, where nothing else was agreed on: simple replies, no
    /// meta contexts.
    #[must_use]
    pub fn new(export: ExportInfo) -> Self {
        Self { export: Some(export), ..Self::default() }
    }

    /// Whether commands may be spread over a connection with these facts and one with
    /// those of `other`: the server describes the same export with the same numbers for
    /// its meta contexts, and says that several connections to it are safe.
    ///
    /// proto.md, "Transmission flags": without `NBD_FLAG_CAN_MULTI_CONN`, clients should
    /// not multiplex their commands over more than one connection.
    #[must_use]
    pub fn is_safe_beside(&self, other: &Self) -> bool {
        let flags = self.export.as_ref().map(|export| export.flags);
        flags.is_some_and(|flags| flags.contains(TransmissionFlags::CAN_MULTI_CONN))
            && self.export == other.export
            && self.contexts == other.contexts
    }

    /// Forgets everything learned in clear (proto.md, "NBD_OPT_STARTTLS").
    pub(crate) fn start_tls(&mut self) {
        self.headers = HeaderStyle::Simple;
        self.tls = true;
        self.forget_export();
        self.contexts.clear();
    }

    pub(crate) fn forget_export(&mut self) {
        self.export = None;
    }

    /// Takes in size and flags, from whichever message brings them.
    pub(crate) fn describe(
        &mut self,
        size: u64,
        flags: TransmissionFlags,
        strict: bool,
    ) -> Result<(), Error> {
        // proto.md, "Transmission flags": bit 0 must be 1. A server that sets
        // others but not that one is understood all the same.
        if flags.is_empty() || strict && !flags.contains(TransmissionFlags::HAS_FLAGS) {
            return Err(PeerMisbehaved::NoFlags.into());
        }
        self.export = Some(ExportInfo::new(size, flags));
        Ok(())
    }

    /// Clears flags that cannot be used with what was negotiated.
    pub(crate) fn normalise(&mut self) {
        let Some(export) = &mut self.export else {
            return;
        };
        if self.headers < HeaderStyle::Structured {
            export.flags.remove(TransmissionFlags::SEND_DF);
        }
        if self.headers < HeaderStyle::Extended {
            export.flags.remove(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        }
        if !export.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
            export.flags.remove(TransmissionFlags::SEND_FAST_ZERO);
        }
    }
}

/// Facts about an export that may come before its size does.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    size_and_flags: Option<(u64, TransmissionFlags)>,
    block_sizes: Option<BlockSizes>,
    name: Option<String>,
    description: Option<String>,
}

impl Gathered {
    pub(crate) fn add(&mut self, info: Info) {
        match info {
            Info::Export(size, flags) => self.size_and_flags = Some((size, flags)),
            Info::BlockSize(sizes) => self.block_sizes = Some(sizes),
            Info::Name(name) => self.name = Some(name),
            Info::Description(text) => self.description = Some(text),
            Info::Unknown(_) => {}
        }
    }

    /// The server confirmed: all of it becomes the export.
    ///
    /// proto.md, "NBD_OPT_GO": the server must have sent `NBD_INFO_EXPORT`.
    pub(crate) fn commit(self, facts: &mut Negotiated, strict: bool) -> Result<(), Error> {
        let (size, flags) = self.size_and_flags.ok_or(PeerMisbehaved::NoExportInfo)?;
        facts.forget_export();
        facts.describe(size, flags, strict)?;
        // proto.md, "Size constraints". Sizes that make no sense are as good as none;
        // dividing by them would not be.
        let sane = self.block_sizes.filter(|sizes| sizes.are_sane());
        if strict && sane != self.block_sizes {
            return Err(PeerMisbehaved::BlockSizes.into());
        }
        if let Some(export) = &mut facts.export {
            export.block_sizes = sane;
            export.canonical_name = self.name;
            export.description = self.description;
        }
        facts.normalise();
        Ok(())
    }
}

/// Whether a context may be the answer to a query. The `base` namespace knows only
/// exact names; others have wildcards of their own (proto.md, "Metadata querying").
pub(super) fn answers(name: &str, query: &str) -> bool {
    let namespace = |text: &str| text.split_once(':').map(|(space, _)| space.len());
    name == query
        || query == "base:" && name.starts_with(query)
        || (!name.starts_with("base:")
            && namespace(name).is_some_and(|len| {
                namespace(query) == Some(len) && name.get(..len) == query.get(..len)
            }))
}
