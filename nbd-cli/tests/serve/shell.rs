//! Single commands, through libnbd's shell.

use std::fs;

use nbd_sim::peer::{Scratch, run, tool};

use super::support::{TestResult, nbdsh, serve};

/// Each command once, and what it leaves behind.
const COMMANDS: &str = r#"
size = h.get_size()
assert h.pread(size, 0) == bytearray(size)
h.pwrite(b"\x01" * 70000, 65000)
h.pwrite(b"\x02" * 512, size - 512, nbd.CMD_FLAG_FUA)
assert h.pread(70002, 64999) == b"\0" + b"\x01" * 70000 + b"\0"
assert h.pread(512, size - 512) == b"\x02" * 512
h.zero(1000, 66000)
h.zero(4096, 131072, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(1002, 65999) == b"\x01" + bytearray(1000) + b"\x01"
h.trim(65536, 0)
h.flush()
def refused(errno, command):
    try:
        command()
    except nbd.Error as error:
        assert error.errno == errno, error
    else:
        raise AssertionError("not refused")
h.set_strict_mode(0)
refused("EINVAL", lambda: h.pread(512, size))
refused("ENOSPC", lambda: h.pwrite(b"x" * 512, size - 511))
refused("EINVAL", lambda: h.trim(512, size))
refused("ENOSPC", lambda: h.zero(512, size))
assert h.pread(1, 0) == b"\0"
"#;

#[test]
fn every_command_over_memory() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    nbdsh(&server.uri(), COMMANDS)?;
    Ok(())
}

#[test]
fn every_command_over_a_file() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 1 << 20)?;
    let server = serve(&["--file"]).arg(&image).start()?;
    nbdsh(&server.uri(), COMMANDS)?;
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes[66_000..67_000], [0; 1000]);
    assert_eq!(bytes[(1 << 20) - 512..], [2; 512]);
    Ok(())
}

#[test]
fn every_command_with_simple_replies() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let script = format!(
        "h.set_request_structured_replies(False)\n\
         h.connect_uri('{}')\n\
         assert not h.get_structured_replies_negotiated()\n\
         assert not h.can_df()\n{COMMANDS}",
        server.uri()
    );
    run(tool("nbdsh")?.args(["-c", &script]))?.success()?;
    Ok(())
}

#[test]
fn block_status_and_holes_follow_the_writes() -> TestResult {
    let server = serve(&["--memory", "1T"]).start()?;
    let script = r#"
h.add_meta_context("base:allocation")
h.connect_uri(URI)
def status(count, offset, flags=0):
    found = []
    def extents(context, offset, entries, error):
        assert context == "base:allocation" and error.value == 0
        found.extend(entries)
    h.block_status(count, offset, extents, flags)
    return found
G, page = 1 << 30, 65536
assert status(4 * G - page, 0) == [4 * G - page, 3]
h.pwrite(b"x" * page, 600 * G + page)
h.zero(page, 600 * G + 2 * page, nbd.CMD_FLAG_NO_HOLE)
assert status(4 * page, 600 * G) == [page, 3, page, 0, page, 2, page, 3]
assert status(4 * page, 600 * G, nbd.CMD_FLAG_REQ_ONE) == [page, 3]
assert status(7, 600 * G + page + 5) == [7, 0]
def chunks(flags=0):
    seen = []
    def chunk(bytes, offset, kind, error):
        seen.append((offset - 600 * G, len(bytes), kind))
    data = h.pread_structured(4 * page, 600 * G, chunk, flags)
    assert data == bytearray(page) + b"x" * page + bytearray(2 * page)
    return seen
DATA, HOLE = nbd.READ_DATA, nbd.READ_HOLE
assert chunks() == [(0, page, HOLE), (page, page, DATA), (2 * page, page, HOLE), (3 * page, page, HOLE)]
assert chunks(nbd.CMD_FLAG_DF) == [(0, 4 * page, DATA)]
h.zero(2 * G, 600 * G)
assert status(3 * G, 600 * G) == [3 * G, 3]
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
"#;
    let script = script.replace("URI", &format!("'{}'", server.uri()));
    run(tool("nbdsh")?.args(["-c", &script]))?.success()?;
    Ok(())
}

#[test]
fn option_mode_lists_and_chooses() -> TestResult {
    let server = serve(&["--memory", "1M", "--export", "disk"]).start()?;
    let script = r#"
h.set_opt_mode(True)
h.connect_uri(URI)
exports = []
h.opt_list(lambda name, description: exports.append((name, description)))
assert exports == [("disk", "1M of memory")], exports
def contexts(*queries):
    found = []
    for query in queries:
        h.add_meta_context(query)
    h.opt_list_meta_context(found.append)
    h.clear_meta_contexts()
    return found
assert contexts() == ["base:allocation"]
assert contexts("base:") == ["base:allocation"]
assert contexts("base:allocation", "base:") == ["base:allocation"]
assert contexts("x-other:thing", "base:nothing") == []
h.set_export_name("nothing")
try:
    h.opt_info()
    raise AssertionError("an unknown export")
except nbd.Error as error:
    assert error.errno == "ENOENT", error
h.set_export_name("")
h.set_full_info(True)
h.opt_info()
assert h.get_size() == 1 << 20
assert h.get_canonical_export_name() == "disk"
assert h.get_export_description() == "1M of memory"
h.set_export_name("disk")
h.add_meta_context("base:")
h.opt_go()
assert not h.can_meta_context("base:allocation")
h.pwrite(b"x", 5)
"#;
    let script = script.replace("URI", &format!("'{}'", server.uri()));
    run(tool("nbdsh")?.args(["-c", &script]))?.success()?;
    Ok(())
}

#[test]
fn sizes_need_not_be_round() -> TestResult {
    for (size, memory) in [(1, "1"), (12_345, "12345"), (65_537, "65537")] {
        let scratch = Scratch::new()?;
        let image = scratch.raw_image("disk", size)?;
        let servers =
            [serve(&["--memory", memory]).start()?, serve(&["--file"]).arg(&image).start()?];
        for server in &servers {
            let script = format!(
                "assert h.get_size() == {size}\n\
                 h.pwrite(b'z', {size} - 1)\n\
                 assert h.pread({size}, 0) == bytearray({size} - 1) + b'z'\n\
                 h.zero({size}, 0)\n\
                 h.trim({size}, 0)\n\
                 h.flush()\n\
                 assert h.pread({size}, 0) == bytearray({size})\n"
            );
            nbdsh(&server.uri(), &script)?;
        }
    }
    Ok(())
}

#[test]
fn a_read_only_export_refuses_changes() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 4096)?;
    let servers = [
        serve(&["--memory", "4096", "--read-only"]).start()?,
        serve(&["--file", &image.to_string_lossy(), "--read-only"]).start()?,
    ];
    for server in &servers {
        let script = r#"
assert h.is_read_only() and not h.can_trim() and not h.can_zero()
assert h.pread(4096, 0) == bytearray(4096)
h.set_strict_mode(0)
try:
    h.pwrite(b"x", 0)
    raise AssertionError("a write")
except nbd.Error as error:
    assert error.errno == "EPERM", error
h.flush()
assert h.pread(1, 0) == b"\0"
"#;
        nbdsh(&server.uri(), script)?;
    }
    Ok(())
}

#[test]
fn what_one_connection_wrote_the_others_read() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let script = format!(
        "others = [nbd.NBD() for _ in range(8)]\n\
         for i, other in enumerate(others):\n\
         \x20   other.connect_uri('{}')\n\
         \x20   other.pwrite(bytes([i + 1]), i)\n\
         assert h.pread(8, 0) == bytes(range(1, 9))\n",
        server.uri()
    );
    nbdsh(&server.uri(), &script)?;
    Ok(())
}
