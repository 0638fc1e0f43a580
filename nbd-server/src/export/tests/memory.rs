//! What only the store in memory promises.

use std::ops::ControlFlow;
use std::thread;

use rustix::io::Errno;

use super::super::memory::PAGE_SIZE;
use super::super::{Export, ExtentKind, MemoryExport, Zeroing};
use super::{PROVISION, PUNCH, assert_errno, check_bounds, extents, read};

const PAGE: u64 = PAGE_SIZE as u64;

/// The largest size that the offsets of a file allow.
const HUGE: u64 = i64::MAX as u64;

#[test]
fn refuses_ranges_outside() {
    check_bounds(&MemoryExport::new(777));
    check_bounds(&MemoryExport::new(3 * PAGE));
    check_bounds(&MemoryExport::new(HUGE));
}

#[test]
fn an_empty_disk_is_fine() {
    let store = MemoryExport::new(0);
    store.read_exact_at(&mut [], 0).expect("an empty read");
    store.write_zeroes(0, 0, PROVISION).expect("empty zeroes");
    assert_eq!(extents(&store, 0, 0), []);
    assert_errno(store.read_exact_at(&mut [0], 0), Errno::INVAL);
}

#[test]
fn a_huge_disk_costs_what_is_written() {
    for size in [HUGE, u64::MAX] {
        let store = MemoryExport::new(size);
        assert_eq!(extents(&store, 0, size), [(size, ExtentKind::Hole)]);
        store.write_all_at(b"end", size - 3).expect("a write at the end");
        store.write_all_at(b"middle", 1 << 60).expect("a write in the middle");
        assert_eq!(read(&store, size - 4, 4), b"\0end");
        let last_page = (size - 1) / PAGE * PAGE;
        assert_eq!(
            extents(&store, 5, size - 5),
            [
                ((1 << 60) - 5, ExtentKind::Hole),
                (PAGE, ExtentKind::Data),
                (last_page - (1 << 60) - PAGE, ExtentKind::Hole),
                (size - last_page, ExtentKind::Data),
            ]
        );
        let fast = Zeroing { may_punch: true, fast_only: true };
        store.write_zeroes(1, size - 1, fast).expect("zeroes all over");
        assert_eq!(extents(&store, 0, size), [(size, ExtentKind::Hole)]);
        store.write_all_at(b"end", size - 3).expect("a write at the end");
        store.trim(0, size).expect("a trim of all");
        assert_eq!(extents(&store, 0, size), [(size, ExtentKind::Hole)]);
    }
}

#[test]
fn tells_data_zeroes_and_holes_apart() {
    let store = MemoryExport::new(8 * PAGE);
    store.write_all_at(&vec![1; 2 * PAGE_SIZE], PAGE).expect("a write");
    store.write_zeroes(3 * PAGE, 2 * PAGE, PROVISION).expect("provisioned zeroes");
    store.write_all_at(&vec![0; PAGE_SIZE], 6 * PAGE).expect("zeroes over a hole");
    assert_eq!(
        extents(&store, 0, 8 * PAGE),
        [
            (PAGE, ExtentKind::Hole),
            (2 * PAGE, ExtentKind::Data),
            (2 * PAGE, ExtentKind::Zero),
            (3 * PAGE, ExtentKind::Hole),
        ]
    );
    assert_eq!(extents(&store, 2 * PAGE + 1, 2), [(2, ExtentKind::Data)]);
    store.write_zeroes(PAGE, 7 * PAGE, PROVISION).expect("zeroes over all kinds");
    assert_eq!(
        extents(&store, 0, 8 * PAGE),
        [(PAGE, ExtentKind::Hole), (7 * PAGE, ExtentKind::Zero)]
    );
}

#[test]
fn small_trims_free_a_page_in_the_end() {
    let store = MemoryExport::new(PAGE);
    store.write_all_at(&vec![1; PAGE_SIZE], 0).expect("a write");
    for offset in (0..PAGE).step_by(4096) {
        assert_eq!(extents(&store, 0, PAGE), [(PAGE, ExtentKind::Data)]);
        store.trim(offset, 4096).expect("a trim");
    }
    assert_eq!(extents(&store, 0, PAGE), [(PAGE, ExtentKind::Hole)]);
}

#[test]
fn memory_is_limited() {
    let store = MemoryExport::with_limit(HUGE, 3 * PAGE);
    store.write_all_at(&vec![1; 2 * PAGE_SIZE], 0).expect("two pages");
    // Provisioning fails before it changes anything, however much was asked.
    for len in [3 * PAGE + 1, 4 * PAGE, HUGE] {
        assert_errno(store.write_zeroes(0, len, PROVISION), Errno::NOSPC);
    }
    assert_eq!(read(&store, 0, 2 * PAGE_SIZE), vec![1; 2 * PAGE_SIZE]);
    store.write_zeroes(PAGE, 2 * PAGE, PROVISION).expect("the third page");
    assert_errno(store.write_all_at(&[1], 3 * PAGE), Errno::NOSPC);
    // What was provisioned can be written, what is there overwritten, and what
    // was freed used again.
    store.write_all_at(&vec![2; 3 * PAGE_SIZE], 0).expect("three pages");
    store.write_zeroes(0, PAGE, PUNCH).expect("a hole");
    store.write_all_at(&[1], 3 * PAGE).expect("another page");
    assert_errno(store.write_all_at(&[1], 0), Errno::NOSPC);
}

#[test]
fn a_huge_provision_fails_at_once() {
    let store = MemoryExport::new(HUGE);
    assert_errno(store.write_zeroes(0, HUGE, PROVISION), Errno::NOSPC);
    assert_eq!(extents(&store, 0, HUGE), [(HUGE, ExtentKind::Hole)]);
}

#[test]
fn a_visit_may_stop_and_may_use_the_store() {
    let store = MemoryExport::new(9 * PAGE);
    for page in [1, 3, 5] {
        store.write_all_at(&[1], page * PAGE).expect("a write");
    }
    let mut visits = 0;
    store
        .extents(0, 9 * PAGE, &mut |_| {
            visits += 1;
            store.write_all_at(&[1], 8 * PAGE).expect("a write during the visit");
            if visits == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("extents");
    assert_eq!(visits, 3);
}

#[test]
fn a_page_is_written_as_a_whole_among_threads() {
    const ROUNDS: usize = 200;
    let store = MemoryExport::new(2 * PAGE);
    thread::scope(|scope| {
        for byte in 1..=2_u8 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    store.write_all_at(&[byte; 4096], PAGE + 512).expect("a write");
                    store.write_zeroes(PAGE, PAGE, PUNCH).expect("zeroes");
                }
            });
        }
        for _ in 0..ROUNDS {
            let bytes = read(&store, PAGE + 512, 4096);
            assert!(bytes.iter().all(|&byte| byte == bytes[0]), "a torn page");
        }
    });
    assert_eq!(extents(&store, 0, 2 * PAGE), [(2 * PAGE, ExtentKind::Hole)]);
}
