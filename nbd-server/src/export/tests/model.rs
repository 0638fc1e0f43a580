//! Random requests to a store, with a plain vector beside it that says what
//! the store must read.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::memory::PAGE_SIZE;
use super::super::{Export, ExtentKind, FileExport, MemoryExport, Overlay, Slice, Zeroing};
use super::{extents, read};

/// Three pages and a bit: no multiple of a page, a block or a sector.
const SIZE: usize = 3 * PAGE_SIZE + 777;

#[derive(Clone, Debug)]
enum Request {
    Read(usize, usize),
    Write(usize, usize, u8),
    Trim(usize, usize),
    WriteZeroes(usize, usize, Zeroing),
    Extents(usize, usize),
    Flush,
    Cache(usize, usize),
}

/// A point in the store, often at or beside a boundary of a page or a block.
fn point() -> impl Strategy<Value = usize> {
    let near = |unit: usize| {
        (0..=SIZE / unit, 0..3_usize)
            .prop_map(move |(n, nudge)| (n * unit + nudge).saturating_sub(1).min(SIZE))
    };
    prop_oneof![0..=SIZE, near(PAGE_SIZE), near(4096), Just(SIZE), Just(0)]
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    (point(), point()).prop_map(|(a, b)| (a.min(b), a.abs_diff(b)))
}

fn request() -> impl Strategy<Value = Request> {
    let zeroing = (any::<bool>(), any::<bool>())
        .prop_map(|(may_punch, fast_only)| Zeroing { may_punch, fast_only });
    prop_oneof![
        2 => range().prop_map(|(at, len)| Request::Read(at, len)),
        // The byte is zero now and then.
        4 => (range(), 0..4_u8).prop_map(|((at, len), byte)| Request::Write(at, len, byte)),
        2 => range().prop_map(|(at, len)| Request::Trim(at, len)),
        4 => (range(), zeroing).prop_map(|((at, len), how)| Request::WriteZeroes(at, len, how)),
        3 => range().prop_map(|(at, len)| Request::Extents(at, len)),
        1 => Just(Request::Flush),
        1 => range().prop_map(|(at, len)| Request::Cache(at, len)),
    ]
}

/// The extents of a range cover it, differ from their neighbours, and read as
/// zero where they say so.
fn check_extents(store: &dyn Export, model: &[u8], at: usize, len: usize) {
    let all = extents(store, at as u64, len as u64);
    let mut position = at;
    for pair in all.windows(2) {
        assert_ne!(pair[0].1, pair[1].1, "neighbours of one kind");
    }
    for (length, kind) in all {
        assert_ne!(length, 0, "an empty extent");
        let next = position + length as usize;
        if kind != ExtentKind::Data {
            assert!(
                model[position..next].iter().all(|&byte| byte == 0),
                "{kind:?} at {position} holds data"
            );
        }
        position = next;
    }
    assert_eq!(position, at + len, "the extents do not cover the range");
}

fn apply(store: &dyn Export, model: &mut [u8], request: Request) {
    match request {
        Request::Read(at, len) => {
            assert!(read(store, at as u64, len) == model[at..at + len], "read at {at}");
        }
        Request::Write(at, len, byte) => {
            // Not one byte repeated, so that data in the wrong place is seen.
            let bytes: Vec<u8> =
                (0..len).map(|i| if byte == 0 { 0 } else { byte ^ (i / 64) as u8 }).collect();
            store.write_all_at(&bytes, at as u64).expect("a write within the store");
            model[at..at + len].copy_from_slice(&bytes);
        }
        Request::Trim(at, len) => {
            store.trim(at as u64, len as u64).expect("a trim within the store");
            let now = read(store, at as u64, len);
            for (known, read) in model[at..at + len].iter_mut().zip(now) {
                assert!(read == 0 || read == *known, "trim made up a byte");
                *known = read;
            }
        }
        Request::WriteZeroes(at, len, how) => {
            match store.write_zeroes(at as u64, len as u64, how) {
                Ok(()) => model[at..at + len].fill(0),
                Err(error) => {
                    let unsupported = rustix::io::Errno::OPNOTSUPP.raw_os_error();
                    assert!(how.fast_only, "zeroes that may be slow: {error}");
                    assert_eq!(error.raw_os_error(), Some(unsupported), "{error}");
                }
            }
        }
        Request::Extents(at, len) => check_extents(store, model, at, len),
        Request::Flush => store.flush().expect("a flush"),
        Request::Cache(at, len) => {
            store.cache(at as u64, len as u64).expect("a cache within the store");
        }
    }
}

fn check(store: &dyn Export, requests: Vec<Request>) {
    check_from(store, vec![0; SIZE], requests);
}

fn check_from(store: &dyn Export, mut model: Vec<u8>, requests: Vec<Request>) {
    assert_eq!(store.size(), SIZE as u64);
    for request in requests {
        apply(store, &mut model, request);
    }
    assert!(read(store, 0, SIZE) == model, "the whole store at the end");
    check_extents(store, &model, 0, SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_store_matches_a_vector(requests in vec(request(), 1..40)) {
        check(&MemoryExport::new(SIZE as u64), requests);
    }

    #[test]
    fn file_store_matches_a_vector(requests in vec(request(), 1..40)) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(SIZE as u64).expect("a file of the size");
        let store = FileExport::open(file.path()).expect("the file just made");
        check(&store, requests);
        assert_eq!(file.as_file().metadata().expect("its metadata").len(), SIZE as u64);
    }

    #[test]
    fn slice_matches_a_vector(requests in vec(request(), 1..40)) {
        let whole = MemoryExport::new(4 * SIZE as u64);
        whole.write_all_at(&vec![9; 4 * SIZE], 0).expect("all of it");
        let range = 777..777 + SIZE as u64;
        check_from(&Slice::new(&whole, range).expect("a range within"), vec![9; SIZE], requests);
        assert_eq!(read(&whole, 0, 777), [9; 777]);
        assert_eq!(read(&whole, 777 + SIZE as u64, SIZE), [9; SIZE]);
    }

    #[test]
    fn overlay_matches_a_vector(requests in vec(request(), 1..40)) {
        let base = MemoryExport::new(SIZE as u64);
        let bytes: Vec<u8> = (0..SIZE).map(|i| if i % 100_000 < 9000 { 3 } else { 0 }).collect();
        base.write_all_at(&bytes, 0).expect("all of it");
        let overlay = Overlay::new(&base, MemoryExport::new(SIZE as u64)).expect("room above");
        check_from(&overlay, bytes.clone(), requests);
        assert!(read(&base, 0, SIZE) == bytes, "the base was changed");
    }
}
