//! What of a source has changed, by a dirty bitmap.

use std::ops::Range;

use nbd_client_blocking::proto::ClientConfig;

use super::blocks;
use super::plan::Plan;
use crate::extents;
use crate::failure::{Failure, Result};
use crate::target::Target;

/// The contexts of QEMU's bitmaps begin like this, and have one bit: dirty.
const BITMAPS: &str = "qemu:dirty-bitmap:";
const DIRTY: u64 = 1;

/// The parts of a range that have changed, in whole blocks of both ends.
pub(super) fn of(
    from: &Target,
    bitmap: &str,
    plan: &Plan,
    block: usize,
    range: &Range<u64>,
) -> Result<Vec<Range<u64>>> {
    let Target::Nbd(server) = from else {
        return Err(Failure::new("--context needs a server as the source"));
    };
    if !bitmap.starts_with(BITMAPS) {
        return Err(Failure::new(format!(
            "`{bitmap}` is no dirty bitmap; the name of one begins with {BITMAPS}"
        )));
    }
    let mut client = server.connect(ClientConfig::new().meta_context(bitmap), plan.limit)?;
    if client.context(bitmap).is_none() {
        return Err(extents::no_context(server, bitmap, plan.limit));
    }
    let mut dirty = Vec::new();
    extents::walk(&mut client, server, &[bitmap], range.clone(), plan.limit, |segment| {
        if segment.placed().extent.status & DIRTY != 0 {
            dirty.push(segment.offset..segment.offset + segment.length);
        }
        Ok(())
    })?;
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    Ok(blocks(dirty, plan.block.max(block) as u64, range))
}
