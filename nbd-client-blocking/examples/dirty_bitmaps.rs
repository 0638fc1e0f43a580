//! Prints what QEMU's dirty bitmaps say has changed: what an incremental backup reads.
//!
//! ```text
//! qemu-nbd --bitmap=monday --format=qcow2 disk.qcow2
//! dirty_bitmaps nbd://localhost
//! ```

use std::error::Error;

use nbd_client_blocking::Options;

/// The context's status bit for data that has changed (QEMU's docs/interop/nbd.rst).
const DIRTY: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: dirty_bitmaps URI")?;
    let mut options = Options::connect(&uri)?;
    let bitmaps = options.list_meta_contexts(&["qemu:dirty-bitmap:"])?;
    for bitmap in &bitmaps {
        options.reconfigure(|config| config.meta_context(&bitmap.name))?;
    }
    let mut client = options.go()?;
    let size = client.size();
    for bitmap in &bitmaps {
        println!("{}", bitmap.name);
        for placed in client.extents(&bitmap.name, 0..size)? {
            let placed = placed?;
            if placed.extent.status & DIRTY != 0 {
                println!("  {} bytes at {}", placed.extent.length, placed.offset);
            }
        }
    }
    client.disconnect()?;
    Ok(())
}
