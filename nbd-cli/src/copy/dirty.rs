//! What of a source has changed, by a dirty bitmap.

use std::ops::Range;
use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;

use crate::extents;
use crate::failure::{Failure, Result};
use crate::target::Target;

/// The contexts of QEMU's bitmaps begin like this, and have one bit: dirty.
const BITMAPS: &str = "qemu:dirty-bitmap:";
const DIRTY: u64 = 1;

/// The parts of an export that have changed. It is asked before anything else is connected:
/// there are servers that serve one connection at a time.
pub(super) fn of(from: &Target, bitmap: &str, limit: Option<Duration>) -> Result<Vec<Range<u64>>> {
    let Target::Nbd(server) = from else {
        return Err(Failure::new("--context needs a server as the source"));
    };
    if !bitmap.starts_with(BITMAPS) {
        return Err(Failure::new(format!(
            "`{bitmap}` is no dirty bitmap; the name of one begins with {BITMAPS}"
        )));
    }
    let mut client = server.connect(ClientConfig::new().meta_context(bitmap), limit)?;
    if client.context(bitmap).is_none() {
        drop(client);
        return Err(extents::no_context(server, bitmap, limit));
    }
    let (mut dirty, size) = (Vec::new(), client.size());
    extents::walk(&mut client, server, &[bitmap], 0..size, limit, |segment| {
        if segment.placed().extent.status & DIRTY != 0 {
            dirty.push(segment.offset..segment.offset + segment.length);
        }
        Ok(())
    })?;
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    Ok(dirty)
}
