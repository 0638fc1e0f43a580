//! Whole programs: nbdinfo, nbdcopy, qemu-img, qemu-io, fio.

use std::fs;
use std::process::Command;

use nbd_sim::peer::{Scratch, run, tool};

use super::support::{NBD, TestResult, patchy, serve};

const MEGABYTE: u64 = 1 << 20;

#[test]
fn nbdinfo_sees_what_was_asked_for() -> TestResult {
    let args = ["--memory", "10M", "--export", "a disk", "--description", "for tests"];
    let server = serve(&args).start()?;
    for uri in [server.export_uri("a disk"), server.uri()] {
        let json = run(tool("nbdinfo")?.args(["--json", &uri]))?.success()?;
        for field in [
            r#""protocol": "newstyle-fixed""#,
            r#""structured": true"#,
            r#""description": "for tests""#,
            r#""export-size": 10485760"#,
            r#""base:allocation""#,
            r#""is_read_only": false"#,
            r#""can_cache": false"#,
            r#""can_df": true"#,
            r#""can_fast_zero": true"#,
            r#""can_flush": true"#,
            r#""can_fua": true"#,
            r#""can_multi_conn": true"#,
            r#""can_trim": true"#,
            r#""can_zero": true"#,
            r#""block_size_minimum": 1"#,
            r#""block_size_preferred": 4096"#,
            r#""block_size_maximum": 33554432"#,
        ] {
            assert!(json.contains(field), "{field} is not in {json}");
        }
    }
    let list = run(tool("nbdinfo")?.args(["--json", "--list", &server.uri()]))?.success()?;
    assert!(list.contains(r#""export-name": "a disk""#), "{list}");
    assert_eq!(list.matches("export-name").count(), 1, "{list}");
    let unknown = run(tool("nbdinfo")?.arg(server.export_uri("another")))?;
    assert!(!unknown.status.success());
    let words = String::from_utf8_lossy(&unknown.stderr);
    assert!(words.contains("No such file"), "{words}");
    Ok(())
}

#[test]
fn nbdinfo_maps_a_file() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 4 * MEGABYTE)?;
    let server = serve(&["--read-only"]).arg("--file").arg(&image).start()?;
    let map = run(tool("nbdinfo")?.args(["--map", &server.uri()]))?.success()?;
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "4194304", "3", "hole,zero"]);
    let json = run(tool("nbdinfo")?.args(["--json", &server.uri()]))?.success()?;
    for field in [
        r#""is_read_only": true"#,
        r#""can_cache": true"#,
        r#""can_trim": false"#,
        r#""can_zero": false"#,
        r#""can_fast_zero": false"#,
        r#""can_multi_conn": true"#,
    ] {
        assert!(json.contains(field), "{field} is not in {json}");
    }
    Ok(())
}

/// Copies data to the server and back, through `copy`, and compares.
fn there_and_back(args: &[&str], copy: impl Fn(&str, &str) -> TestResult) -> TestResult {
    let scratch = Scratch::new()?;
    let [from, to] = ["from", "to"].map(|name| scratch.join(name));
    let data = patchy(24 * MEGABYTE as usize);
    fs::write(&from, &data).unwrap();
    let server = serve(args).start()?;
    copy(&from.to_string_lossy(), &server.uri())?;
    copy(&server.uri(), &to.to_string_lossy())?;
    assert!(fs::read(&to).unwrap() == data, "the data came back changed");
    Ok(())
}

fn nbdcopy(from: &str, to: &str) -> TestResult {
    run(tool("nbdcopy")?.args(["--flush", from, to]))?.success()?;
    Ok(())
}

fn nbdcopy_by_four(from: &str, to: &str) -> TestResult {
    let speed = ["--connections=4", "--threads=4", "--requests=64", "--request-size=1048576"];
    run(tool("nbdcopy")?.args(speed).args([from, to]))?.success()?;
    Ok(())
}

fn qemu_img(from: &str, to: &str) -> TestResult {
    let target_exists = to.starts_with("nbd");
    let mut convert = tool("qemu-img")?;
    convert.args(["convert", "-f", "raw", "-O", "raw"]);
    if target_exists {
        convert.arg("-n");
    }
    run(convert.args([from, to]))?.success()?;
    run(tool("qemu-img")?.args(["compare", "-f", "raw", "-F", "raw", from, to]))?.success()?;
    Ok(())
}

#[test]
fn nbdcopy_over_memory() -> TestResult {
    there_and_back(&["--memory", "24M"], nbdcopy)
}

#[test]
fn nbdcopy_over_four_connections() -> TestResult {
    there_and_back(&["--memory", "24M"], nbdcopy_by_four)
}

#[test]
fn nbdcopy_over_a_file() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 24 * MEGABYTE)?;
    there_and_back(&["--file", &image.to_string_lossy()], nbdcopy)?;
    let stored = fs::read(&image).unwrap();
    assert!(stored == patchy(stored.len()), "the file itself differs");
    Ok(())
}

#[test]
fn qemu_img_over_memory() -> TestResult {
    there_and_back(&["--memory", "24M"], qemu_img)
}

#[test]
fn qemu_img_over_a_file() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 24 * MEGABYTE)?;
    there_and_back(&["--file", &image.to_string_lossy()], qemu_img)
}

/// QEMU negotiates extended headers, so these requests have 64-bit lengths.
#[test]
fn qemu_io_on_a_sparse_terabyte() -> TestResult {
    let server = serve(&["--memory", "1T"]).start()?;
    let mut io = tool("qemu-io")?;
    io.args(["-f", "raw"]);
    for command in [
        "write -P 0x55 1048000 1000000",
        "write -P 0xaa 1099511103488 524288",
        "read -P 0x55 1048000 1000000",
        "read -P 0xaa 1099511103488 524288",
        "read -P 0 4G 8M",
        "write -z -u -n 0 512G",
        "read -P 0 1048000 1000000",
        "discard 1023G 1G",
        "read -P 0 1099511103488 524288",
        "write -f -P 0x11 7 1",
        "read -P 0x11 7 1",
        "read -P 0 8 504",
        "flush",
    ] {
        io.args(["-c", command]);
    }
    let finished = run(io.arg(server.uri()))?;
    let output = finished.success()?;
    assert!(!output.contains("verification failed"), "{output}");
    assert!(!output.contains("error"), "{output}");
    let map = ["map", "-f", "raw", "--output=json"];
    let map = run(tool("qemu-img")?.args(map).arg(server.uri()))?.success()?;
    // What is left is the one page that holds byte 7.
    assert_eq!(map.matches(r#""data": true"#).count(), 1, "{map}");
    assert!(map.contains(r#"{ "start": 0, "length": 65536"#), "{map}");
    Ok(())
}

fn fio(args: &[&str], source: &[&str]) -> TestResult {
    let scratch = Scratch::new()?;
    let server = serve(source).start()?;
    let mut fio = tool("fio")?;
    fio.current_dir(scratch.path())
        .args(["--name=verify", "--ioengine=nbd", "--size=16M"])
        .args(["--verify=crc32c", "--verify_fatal=1", "--iodepth=32"])
        .arg(format!("--uri={}", server.uri()))
        .args(args);
    let output = run(&mut fio)?.success()?;
    assert!(output.contains("err= 0"), "{output}");
    Ok(())
}

#[test]
fn nbd_client_lists() -> TestResult {
    let exports = ["--export", "one=/dev/null", "--export", "two=/dev/null"];
    let place = ["serve", "--tcp", "127.0.0.1:0", "--run"];
    let command = "hp=${uri#nbd://}; hp=${hp%%/*}; nbd-client -l \"${hp%:*}\" -p \"${hp##*:}\"";
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MEGABYTE)?;
    let image = image.to_string_lossy();
    let exports = exports.map(|word| word.replace("/dev/null", &image));
    let list = run(Command::new(NBD)
        .args(place)
        .arg(command)
        .args(&exports)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"))?;
    let list = list.success()?;
    assert!(list.contains("one") && list.contains("two"), "{list}");
    Ok(())
}

/// A client of another make stands between.
#[test]
fn nbdkit_passes_it_on() -> TestResult {
    let server = serve(&["--memory", "16M"]).start()?;
    let uri = format!("uri={}", server.uri());
    let command = "nbdcopy --destination-is-zero \"$source\" \"$uri\" && nbdcopy \"$uri\" - | cmp - \"$source\" \
                   && nbdinfo --map --totals \"$uri\"";
    let scratch = Scratch::new()?;
    let source = scratch.join("source");
    fs::write(&source, patchy(16 << 20)).unwrap();
    let mut nbdkit = tool("nbdkit")?;
    nbdkit.args(["-U", "-", "nbd", &uri, "--run", command]).env("source", &source);
    let totals = run(&mut nbdkit)?.success()?;
    assert!(totals.contains("data"), "{totals}");
    Ok(())
}

#[test]
fn fio_verifies_random_writes_to_memory() -> TestResult {
    fio(&["--rw=randwrite", "--bs=4k"], &["--memory", "16M"])
}

#[test]
fn fio_verifies_mixed_sizes_on_a_file() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 16 * MEGABYTE)?;
    let mixed = ["--rw=randrw", "--bsrange=512-512k", "--verify_backlog=64"];
    fio(&mixed, &["--file", &image.to_string_lossy()])
}
