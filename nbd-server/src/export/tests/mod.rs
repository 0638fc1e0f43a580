//! Tests of every store against a plain vector, and of each by itself.

mod file;
mod memory;
mod model;

use std::io;
use std::ops::ControlFlow;

use super::{Export, ExtentKind, Zeroing};

/// Zeroes that may be left as a hole, quickly or not.
const PUNCH: Zeroing = Zeroing { may_punch: true, fast_only: false };

/// Zeroes that must stay provisioned, quickly or not.
const PROVISION: Zeroing = Zeroing { may_punch: false, fast_only: false };

/// All extents of a range, as length and kind.
fn extents(store: &dyn Export, offset: u64, len: u64) -> Vec<(u64, ExtentKind)> {
    let mut all = Vec::new();
    store
        .extents(offset, len, &mut |extent| {
            all.push((extent.length, extent.kind));
            ControlFlow::Continue(())
        })
        .expect("extents of a valid range");
    all
}

fn read(store: &dyn Export, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    store.read_exact_at(&mut bytes, offset).expect("a read within the store");
    bytes
}

#[track_caller]
fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, expected: rustix::io::Errno) {
    let error = result.expect_err("the call should be refused");
    assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()), "{error}");
}

/// Ranges that do not lie within the store are refused by the number that the
/// module promises, also where their end overflows; empty ones are fine.
fn check_bounds(store: &dyn Export) {
    use rustix::io::Errno;
    let size = store.size();
    let mut never = |_| panic!("visited an extent of a refused or empty range");
    for (offset, len) in [(size, 1), (size - 1, 2), (0, size + 1), (u64::MAX, 1), (1, u64::MAX)] {
        assert_errno(store.trim(offset, len), Errno::INVAL);
        assert_errno(store.cache(offset, len), Errno::INVAL);
        assert_errno(store.extents(offset, len, &mut never), Errno::INVAL);
        assert_errno(store.write_zeroes(offset, len, PUNCH), Errno::NOSPC);
        assert_errno(store.write_zeroes(offset, len, PROVISION), Errno::NOSPC);
        if let Ok(len @ 0..=2) = usize::try_from(len) {
            assert_errno(store.read_exact_at(&mut vec![0; len], offset), Errno::INVAL);
            assert_errno(store.write_all_at(&vec![0; len], offset), Errno::NOSPC);
        }
    }
    for offset in [0, size - 1, size] {
        store.read_exact_at(&mut [], offset).expect("an empty read");
        store.write_all_at(&[], offset).expect("an empty write");
        store.trim(offset, 0).expect("an empty trim");
        store.cache(offset, 0).expect("an empty cache");
        store.extents(offset, 0, &mut never).expect("an empty query");
        store.write_zeroes(offset, 0, PUNCH).expect("empty zeroes");
        store.write_zeroes(offset, 0, PROVISION).expect("empty zeroes");
    }
    assert_errno(store.read_exact_at(&mut [], size + 1), Errno::INVAL);
}
