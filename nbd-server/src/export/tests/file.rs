//! What only the store in a file promises.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::io::Errno;
use tempfile::TempDir;

use super::super::{Abilities, Export, ExtentKind, FileExport, Zeroing};
use super::{PROVISION, PUNCH, assert_errno, check_bounds, extents, read};

const MIB: u64 = 1 << 20;

/// A temporary directory with a file of `size` bytes in it, all a hole.
fn sparse_file(size: u64) -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("disk");
    File::create(&path).and_then(|file| file.set_len(size)).expect("a file of the size");
    (directory, path)
}

#[test]
fn refuses_ranges_outside() {
    for size in [777, 4096, MIB + 1] {
        let (_directory, path) = sparse_file(size);
        let store = FileExport::open(&path).expect("the file");
        check_bounds(&store);
        assert_eq!(path.metadata().expect("its metadata").len(), size, "the file grew");
    }
}

#[test]
fn a_read_only_store_refuses_every_change() {
    let (_directory, path) = sparse_file(4096);
    fs::write(&path, [7; 4096]).expect("some content");
    let store = FileExport::open_read_only(&path).expect("the file");
    let quick = Abilities::CACHE | Abilities::RARELY_WAITS;
    assert_eq!(store.abilities(), quick | Abilities::MULTI_CONN);
    assert_errno(store.write_all_at(&[1], 0), Errno::PERM);
    assert_errno(store.write_all_at(&[1], 4096), Errno::PERM);
    assert_errno(store.trim(0, 4096), Errno::PERM);
    for may_punch in [false, true] {
        for fast_only in [false, true] {
            let zeroing = Zeroing { may_punch, fast_only };
            assert_errno(store.write_zeroes(0, 4096, zeroing), Errno::PERM);
        }
    }
    store.flush().expect("a flush with nothing to do");
    assert_eq!(read(&store, 0, 4096), [7; 4096]);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let directory = TempDir::new().expect("a temporary directory");
    let missing = directory.path().join("no such disk");
    let error = FileExport::open(&missing).expect_err("there is no such file");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("no such disk"), "{error}");

    let error = FileExport::open_read_only(directory.path()).expect_err("a directory is no disk");
    assert!(error.to_string().contains(&*directory.path().to_string_lossy()), "{error}");
    assert!(error.to_string().contains("neither a regular file nor"), "{error}");
}

#[test]
fn a_pipe_is_refused_without_waiting() {
    let directory = TempDir::new().expect("a temporary directory");
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
    FileExport::open_read_only(&pipe).expect_err("a pipe is no disk");
}

#[test]
fn holes_come_and_go_in_the_file() {
    let (_directory, path) = sparse_file(4 * MIB + 5);
    let store = FileExport::open(&path).expect("the file");
    assert_eq!(extents(&store, 0, 4 * MIB + 5), [(4 * MIB + 5, ExtentKind::Hole)]);

    store.write_all_at(&vec![1; 2 << 20], MIB).expect("a write");
    store.write_all_at(&[1], 4 * MIB + 4).expect("a write of the last byte");
    store.flush().expect("a flush");
    let expected = [
        (MIB, ExtentKind::Hole),
        (2 * MIB, ExtentKind::Data),
        (MIB, ExtentKind::Hole),
        (5, ExtentKind::Data),
    ];
    assert_eq!(extents(&store, 0, 4 * MIB + 5), expected);
    assert_eq!(extents(&store, 2 * MIB - 1, 3), [(3, ExtentKind::Data)]);
    assert_eq!(extents(&store, 3 * MIB, 2), [(2, ExtentKind::Hole)]);

    store.trim(MIB, MIB).expect("a trim");
    store.write_zeroes(2 * MIB, 2 * MIB + 5, PUNCH).expect("zeroes");
    // A file system may keep the block that the file ends in.
    assert_eq!(extents(&store, 0, 4 * MIB), [(4 * MIB, ExtentKind::Hole)]);
    assert_eq!(fs::read(&path).expect("the file"), vec![0; (4 << 20) + 5]);
}

#[test]
fn provisioned_zeroes_take_up_storage() {
    use std::os::unix::fs::MetadataExt;
    let (_directory, path) = sparse_file(MIB + 777);
    let store = FileExport::open(&path).expect("the file");
    store.write_all_at(&[1; 4096], 1000).expect("a write");
    store.write_zeroes(0, MIB + 777, PROVISION).expect("zeroes");
    store.flush().expect("a flush");
    let metadata = path.metadata().expect("its metadata");
    assert_eq!(metadata.len(), MIB + 777);
    assert!(metadata.blocks() * 512 >= MIB + 777, "{} blocks", metadata.blocks());
    assert_eq!(fs::read(&path).expect("the file"), vec![0; (1 << 20) + 777]);
}

#[test]
fn zeroes_are_written_where_nothing_quicker_works() {
    let (_directory, path) = sparse_file(MIB);
    fs::write(&path, vec![1; 1 << 20]).expect("some content");
    let store = FileExport::open(&path).expect("the file");
    store.write_zeroes_slowly(1, MIB - 2).expect("zeroes");
    let mut expected = vec![0; 1 << 20];
    expected[0] = 1;
    expected[(1 << 20) - 1] = 1;
    assert_eq!(fs::read(&path).expect("the file"), expected);
}

#[test]
fn a_file_cut_short_fails_with_an_error_number() {
    let (_directory, path) = sparse_file(MIB);
    let store = FileExport::open(&path).expect("the file");
    File::options().write(true).open(&path).and_then(|file| file.set_len(10)).expect("a cut");
    assert_errno(store.read_exact_at(&mut [0; 11], 0), Errno::IO);
    // The part that is gone is no hole: its reader must get to see the error.
    let (last, kind) = *extents(&store, 0, MIB).last().expect("an extent");
    assert_eq!((last > MIB / 2, kind), (true, ExtentKind::Data));
}

#[test]
fn threads_share_one_file() {
    let (_directory, path) = sparse_file(4 * MIB);
    let file = File::options().write(true).open(&path).expect("the file");
    for offset in [MIB, 3 * MIB] {
        file.write_all_at(&vec![1; 1 << 20], offset).expect("a write");
    }
    let store = FileExport::open_read_only(&path).expect("the file");
    let expected = extents(&store, 0, 4 * MIB);
    assert_eq!(expected.len(), 4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(extents(&store, 0, 4 * MIB), expected);
                }
            });
        }
    });
}
