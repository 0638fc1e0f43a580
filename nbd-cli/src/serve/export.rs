//! What is served, and how clients are told about it.

use std::sync::Arc;

use nbd_proto::{BlockSizes, ExportEntry, ExportInfo, TransmissionFlags};

use crate::store::Store;

/// The longest payload of one request, in bytes. Clients that ask for block
/// sizes are told; others are expected to stay below it (proto.md, "Size
/// constraints").
pub(super) const MAX_PAYLOAD: u32 = 32 << 20;

/// The one meta context that is offered (proto.md, "`base:` meta context").
pub(super) const ALLOCATION: &str = "base:allocation";

/// A store under a name.
pub(crate) struct Export {
    /// What clients ask for; the empty name leads here too.
    pub(crate) name: String,
    /// Text for people.
    pub(crate) description: Option<String>,
    /// Where the bytes are.
    pub(crate) store: Arc<dyn Store>,
    /// Refuse changes, whatever the store allows.
    pub(crate) read_only: bool,
}

impl Export {
    /// Whether a client that asks for `name` means this export.
    pub(super) fn is_called(&self, name: &str) -> bool {
        name.is_empty() || name == self.name
    }

    /// The export as it appears in a list.
    pub(super) fn entry(&self) -> ExportEntry {
        ExportEntry {
            name: self.name.clone(),
            description: self.description.clone().unwrap_or_default(),
        }
    }

    /// The export as it is described to a client.
    pub(super) fn info(&self) -> ExportInfo {
        ExportInfo {
            block_sizes: Some(BlockSizes {
                minimum: 1,
                preferred: self.store.preferred_block(),
                maximum: MAX_PAYLOAD,
            }),
            canonical_name: Some(self.name.clone()),
            description: self.description.clone(),
            ..ExportInfo::new(self.store.size(), self.flags())
        }
    }

    /// What clients may ask for. The negotiation takes out what needs
    /// structured replies or extended headers when those are not agreed on.
    fn flags(&self) -> TransmissionFlags {
        let can = self.store.capabilities();
        // Stores show the same bytes to every connection, and a flush covers
        // the writes of all of them.
        let mut flags = TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_DF
            | TransmissionFlags::CAN_MULTI_CONN
            | TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        flags.set(TransmissionFlags::SEND_CACHE, can.cache);
        if self.read_only || self.store.read_only() {
            return flags | TransmissionFlags::READ_ONLY;
        }
        flags |= TransmissionFlags::SEND_WRITE_ZEROES;
        flags.set(TransmissionFlags::SEND_TRIM, can.trim);
        flags.set(TransmissionFlags::SEND_FAST_ZERO, can.fast_zero);
        flags
    }
}
