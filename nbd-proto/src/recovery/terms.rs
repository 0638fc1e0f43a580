//! Whether a server that was connected to again serves the same thing.

use alloc::string::String;
use alloc::vec::Vec;

use crate::negotiate::facts::{ExportInfo, Negotiated};
use crate::types::{ContextId, HeaderStyle};
use crate::wire::flags::TransmissionFlags;

/// The longest payload a server takes that tells no maximum, in bytes
/// (proto.md, "Size constraints").
const DEFAULT_MAXIMUM: u32 = 32 << 20;

/// What is not as it was before the connection was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Changed {
    /// The size.
    #[error("its size was {was} bytes and is {is}")]
    Size {
        /// In bytes, before.
        was: u64,
        /// In bytes, now.
        is: u64,
    },
    /// Writes were taken and are refused now.
    #[error("it has become read-only")]
    ReadOnly,
    /// Abilities are missing.
    #[error("it no longer offers {0:?}")]
    Flags(TransmissionFlags),
    /// The minimum block size is no divisor of the former one, or the maximum is smaller.
    #[error("its block sizes no longer fit: a minimum of {minimum} and a maximum of {maximum}")]
    BlockSizes {
        /// In bytes, now.
        minimum: u32,
        /// In bytes, now.
        maximum: u32,
    },
    /// A meta context is not granted any more.
    #[error("the meta context {0:?} is no longer there")]
    Context(String),
    /// Structured replies or extended headers are not granted any more.
    #[error("the server spoke {was:?} headers and now speaks {is:?} ones only")]
    Headers {
        /// Before.
        was: HeaderStyle,
        /// Now.
        is: HeaderStyle,
    },
    /// TLS was in use and is not now.
    #[error("the server spoke TLS and does not now")]
    Tls,
}

/// Compares everything that callers were told, and rely on, with what is true now.
pub(crate) fn check(was: &Negotiated, is: &Negotiated) -> Result<(), Changed> {
    // Under `TlsPolicy::Allow` a second server could go without.
    if was.tls && !is.tls {
        return Err(Changed::Tls);
    }
    if is.headers < was.headers {
        return Err(Changed::Headers { was: was.headers, is: is.headers });
    }
    if let Some(before) = &was.export {
        // One that is not described has nothing of what was there.
        let nothing = ExportInfo::new(0, TransmissionFlags::empty());
        check_export(before, is.export.as_ref().unwrap_or(&nothing))?;
    }
    for context in &was.contexts {
        if !is.contexts.iter().any(|now| now.name == context.name) {
            return Err(Changed::Context(context.name.clone()));
        }
    }
    Ok(())
}

fn check_export(was: &ExportInfo, is: &ExportInfo) -> Result<(), Changed> {
    if was.size != is.size {
        return Err(Changed::Size { was: was.size, is: is.size });
    }
    let read_only = TransmissionFlags::READ_ONLY;
    if is.flags.contains(read_only) && !was.flags.contains(read_only) {
        return Err(Changed::ReadOnly);
    }
    // How the disk turns is advice; that writes were refused is no ability.
    let advice = TransmissionFlags::ROTATIONAL | TransmissionFlags::HAS_FLAGS | read_only;
    let missing = was.flags.difference(is.flags).difference(advice);
    if !missing.is_empty() {
        return Err(Changed::Flags(missing));
    }
    let (minimum, maximum) = (is.minimum_block(), maximum(is));
    if !was.minimum_block().is_multiple_of(minimum) || maximum < self::maximum(was) {
        return Err(Changed::BlockSizes { minimum, maximum });
    }
    Ok(())
}

fn maximum(export: &ExportInfo) -> u32 {
    export.block_sizes.map_or(DEFAULT_MAXIMUM, |sizes| sizes.maximum)
}

/// The numbers that meta contexts have now, each with the one callers know it by; empty when
/// all are the same. To be used after [`check`].
pub(crate) fn renumbered(was: &Negotiated, is: &Negotiated) -> Vec<(ContextId, ContextId)> {
    let pairs = is.contexts.iter().filter_map(|now| {
        let before = was.contexts.iter().find(|before| before.name == now.name)?;
        Some((ContextId(now.id), ContextId(before.id)))
    });
    let pairs: Vec<_> = pairs.collect();
    if pairs.iter().all(|(now, before)| now == before) { Vec::new() } else { pairs }
}
