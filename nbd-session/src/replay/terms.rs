//! Whether a server that was connected to again serves the same thing.

use nbd_proto::TransmissionFlags;
use nbd_proto::{ContextId, HeaderStyle};
use nbd_proto::{ExportInfo, Negotiated};

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
pub(crate) fn check(was: &Negotiated, is: &Negotiated, growth: bool) -> Result<(), Changed> {
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
        check_export(before, is.export.as_ref().unwrap_or(&nothing), growth)?;
    }
    for context in &was.contexts {
        if !is.contexts.iter().any(|now| now.name == context.name) {
            return Err(Changed::Context(context.name.clone()));
        }
    }
    Ok(())
}

fn check_export(was: &ExportInfo, is: &ExportInfo, growth: bool) -> Result<(), Changed> {
    if is.size < was.size || is.size > was.size && !growth {
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
        Some((now.id, before.id))
    });
    let pairs: Vec<_> = pairs.collect();
    if pairs.iter().all(|(now, before)| now == before) { Vec::new() } else { pairs }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::replay::{Reconnect, ReplayLog};
    use nbd_proto::TransmissionFlags as Flags;
    use nbd_proto::{BlockSizes, MetaContext};

    fn facts(flags: Flags) -> Negotiated {
        Negotiated::new(ExportInfo::new(1 << 20, Flags::HAS_FLAGS | flags))
    }

    #[test]
    fn a_changed_export_is_noticed() {
        let context = |id, name: &str| MetaContext { id: ContextId(id), name: name.to_owned() };
        let mut was = facts(Flags::SEND_FLUSH | Flags::SEND_TRIM | Flags::ROTATIONAL);
        was.contexts = vec![context(1, "base:allocation"), context(2, "x:y")];
        was.headers = HeaderStyle::Structured;
        was.tls = true;
        let after = |change: &dyn Fn(&mut Negotiated)| {
            let mut is = was.clone();
            change(&mut is);
            let mut log = ReplayLog::<(), ()>::new(&Reconnect::new(), &was, 1).unwrap();
            log.lost();
            log.resume(&is)
        };
        let export = |change: &dyn Fn(&mut ExportInfo)| {
            after(&|is: &mut Negotiated| change(is.export.as_mut().unwrap()))
        };
        let size = 1 << 20;
        assert_eq!(export(&|is| is.size = 5), Err(Changed::Size { was: size, is: 5 }));
        assert_eq!(after(&|is| is.export = None), Err(Changed::Size { was: size, is: 0 }));
        assert_eq!(export(&|is| is.flags |= Flags::READ_ONLY), Err(Changed::ReadOnly));
        let fewer = export(&|is| is.flags = Flags::HAS_FLAGS | Flags::SEND_FLUSH);
        assert_eq!(fewer, Err(Changed::Flags(Flags::SEND_TRIM)));
        let sizes = |minimum, maximum| {
            export(&|is| is.block_sizes = Some(BlockSizes { minimum, preferred: 4096, maximum }))
        };
        assert_eq!(sizes(1, 32 << 20), Ok(()));
        let (minimum, maximum) = (512, 32 << 20);
        assert_eq!(sizes(minimum, maximum), Err(Changed::BlockSizes { minimum, maximum }));
        let (minimum, maximum) = (1, 1 << 20);
        assert_eq!(sizes(minimum, maximum), Err(Changed::BlockSizes { minimum, maximum }));
        let name = "x:y".to_owned();
        assert_eq!(after(&|is| drop(is.contexts.pop())), Err(Changed::Context(name)));
        let headers = Changed::Headers { was: HeaderStyle::Structured, is: HeaderStyle::Simple };
        assert_eq!(after(&|is| is.headers = HeaderStyle::Simple), Err(headers));
        assert_eq!(after(&|is| is.headers = HeaderStyle::Extended), Ok(()));
        assert_eq!(after(&|is| is.tls = false), Err(Changed::Tls));
        // More than there was is no harm, and advice is no ability.
        assert_eq!(export(&|is| is.flags = is.flags.union(Flags::SEND_CACHE)), Ok(()));
        assert_eq!(export(&|is| is.flags.remove(Flags::ROTATIONAL)), Ok(()));
    }

    #[test]
    fn meta_contexts_keep_the_numbers_callers_know() {
        let context = |id, name: &str| MetaContext { id: ContextId(id), name: name.to_owned() };
        let mut was = facts(Flags::empty());
        was.contexts = vec![context(1, "a:"), context(2, "b:")];
        let mut log = ReplayLog::<(), ()>::new(&Reconnect::new(), &was, 1).unwrap();
        let mut is = was.clone();
        is.contexts = vec![context(2, "a:"), context(7, "b:")];
        log.lost();
        log.resume(&is).unwrap();
        let known = [2, 7, 9].map(|number| log.context(ContextId(number)));
        assert_eq!(known, [1, 2, 9].map(ContextId));
        log.lost();
        log.resume(&was).unwrap();
        assert_eq!(log.context(ContextId(2)), ContextId(2));
    }
}
