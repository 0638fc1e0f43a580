//! `nbd copy`: holes stay holes, and terabytes of them take no time.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nbd_sim::peer::{PeerError, Scratch, Server, run, tool};

use super::support::{Content, MIB, NBD, TestResult, arg, json, serve, succeed};

/// 300 kB of data in each 900 kB, of which 4 KiB blocks are made.
const SIZE: u64 = 9 * MIB;
const DATA: std::ops::Range<u64> = SIZE / 4..SIZE / 2;

/// Bytes that `nbdinfo --map` calls data.
fn data_of(uri: &str) -> Result<u64, PeerError> {
    let map = json(&run(tool("nbdinfo")?.args(["--map", "--json", uri]))?.success()?);
    let extents = map.as_array().expect("a list of extents");
    let data = extents.iter().filter(|extent| extent["type"] == 0);
    Ok(data.filter_map(|extent| extent["length"].as_u64()).sum())
}

/// Bytes that a file takes up on its disk.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn holes_arrive_as_holes() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", SIZE);
    let source = arg(&image);
    let from_holes = Server::nbdkit(&["file", &source]).start()?;
    // The zeroes are found in the data.
    let from_data = Server::nbdkit(&["--filter=noextents", "file", &source]).start()?;
    for from in [source, from_holes.uri(), from_data.uri()] {
        let qcow2 = scratch.qcow2_image("qcow2", SIZE)?;
        let qemu = Server::qemu_nbd(&["-f", "qcow2", "--discard=unmap"]).arg(&qcow2);
        let servers = [
            Server::nbdkit(&["memory", &SIZE.to_string()]).start()?,
            qemu.start()?,
            serve(&["--memory", &SIZE.to_string()])?,
        ];
        for to in servers {
            succeed(&["copy", &from, &to.uri()])?;
            let data = data_of(&to.uri())?;
            // Clusters and pages are 64 KiB, and each run of data has two ends.
            assert!((SIZE / 4..SIZE * 3 / 4).contains(&data), "{from}: {data}");
        }
        let file = scratch.join("file");
        succeed(&["copy", &from, &arg(&file)])?;
        assert!(DATA.contains(&allocated(&file)), "{}", allocated(&file));
        assert!(fs::read(&file).unwrap() == fs::read(&image).unwrap());
    }
    Ok(())
}

#[test]
fn what_was_there_is_zeroed() -> TestResult {
    let scratch = Scratch::new()?;
    let zeroes = arg(&Content::Zeroes.image(&scratch, "zeroes", MIB));
    let random = arg(&Content::Random.image(&scratch, "random", MIB));
    for filter in ["--filter=nofilter", "--filter=nozero", "--filter=noextents"] {
        let filter = if filter == "--filter=nofilter" { "-v" } else { filter };
        let server = Server::nbdkit(&[filter, "memory", "1M"]).start()?;
        succeed(&["copy", &random, &server.uri()])?;
        assert_eq!(data_of(&server.uri())?, MIB);
        succeed(&["copy", &zeroes, &server.uri()])?;
        let back = scratch.join("back");
        succeed(&["copy", &server.uri(), &arg(&back)])?;
        assert!(fs::read(back).unwrap() == vec![0; MIB as usize], "{filter}");
    }
    Ok(())
}

#[test]
fn zeroes_take_up_space_when_asked_to() -> TestResult {
    let scratch = Scratch::new()?;
    let zeroes = arg(&Content::Zeroes.image(&scratch, "zeroes", MIB));
    let copy = scratch.join("copy");
    succeed(&["copy", "--allocated", &zeroes, &arg(&copy)])?;
    assert!(allocated(&copy) >= MIB);
    let server = serve(&["--memory", "1M"])?;
    succeed(&["copy", "--allocated", &zeroes, &server.uri()])?;
    let map = run(tool("nbdinfo")?.args(["--map", &server.uri()]))?.success()?;
    assert!(!map.contains("hole"), "{map}");
    Ok(())
}

/// What a terabyte holds: little, at its start, in its middle and at its very end.
const MARKS: [(u64, &[u8]); 3] =
    [(0, b"start"), ((1 << 39) + 12345, b"middle"), ((1 << 40) - 3, b"end")];

fn is_marked(uri: &str) -> TestResult {
    for (offset, mark) in MARKS {
        let hex: String = mark.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let script = format!("assert h.pread({}, {offset}) == b'{hex}'", mark.len());
        run(tool("nbdsh")?.args(["-u", uri, "-c", &script]))?.success()?;
    }
    Ok(())
}

#[test]
fn a_terabyte_of_next_to_nothing() -> TestResult {
    let scratch = Scratch::new()?;
    let mut data = String::new();
    for (offset, mark) in MARKS {
        data += &format!("@{offset} {:?} ", String::from_utf8_lossy(mark));
    }
    let source = Server::nbdkit(&["data", &data, "size=1T"]).start()?;
    is_marked(&source.uri())?;
    // Large clusters, or QEMU takes long to note what each of them holds.
    let qcow2 = scratch.join("disk");
    let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M"];
    run(tool("qemu-img")?.args(create).args([&arg(&qcow2), "1T"]))?.success()?;
    let stops = [
        Server::qemu_nbd(&["-f", "qcow2"]).arg(&qcow2).start()?,
        Server::nbdkit(&["memory", "1T"]).start()?,
        serve(&["--memory", "1T"])?,
    ];
    let mut from = source.uri();
    for stop in &stops {
        succeed(&["copy", &from, &stop.uri()])?;
        is_marked(&stop.uri())?;
        assert!(data_of(&stop.uri())? <= 6 * MIB, "{}", stop.uri());
        from = stop.uri();
    }
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    run(tool("qemu-img")?.args(compare).args([&source.uri(), &from]))?.success()?;
    let file = scratch.join("file");
    succeed(&["copy", &from, &arg(&file)])?;
    assert_eq!(fs::metadata(&file).unwrap().len(), 1 << 40);
    assert!(allocated(&file) <= MIB);
    let file = fs::File::open(file).unwrap();
    for (offset, mark) in MARKS {
        let mut bytes = vec![0; mark.len()];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(bytes, mark);
    }
    Ok(())
}

/// Zeroes are written as data there, from buffers that are used again.
#[test]
fn a_server_without_zeroes_takes_no_memory() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Zeroes.image(&scratch, "image", 1 << 30);
    let file = fs::File::options().write(true).open(&image).unwrap();
    for offset in (0..1 << 30).step_by(16 << 20) {
        file.write_all_at(b"between holes", offset).unwrap();
    }
    let server = Server::nbdkit(&["--filter=nozero", "null", "1G"]).start()?;
    // Address space in KiB: a quarter of what all the buffers would take.
    let script = "ulimit -v 393216; exec \"$@\"";
    let copy = [NBD, "copy", "--requests=2", &arg(&image), &server.uri()];
    run(tool("sh")?.args(["-c", script, "sh"]).args(copy))?.success()?;
    Ok(())
}
