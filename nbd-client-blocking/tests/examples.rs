//! Every example runs against a real server, and its output is checked.

use std::process::Command;

use nbd_sim::peer::{Scratch, Server, run, tool};

/// An example, which `cargo test` builds next to the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --examples`", path.display());
    Command::new(path)
}

#[test]
fn checksum_and_copy() {
    let scratch = Scratch::new().unwrap();
    // The size is no multiple of the length of a request.
    let data: Vec<u8> = (0..(20 << 20) + 512_u32).map(|at| (at % 251 + at / 65536) as u8).collect();
    let (from, to) = (scratch.join("from"), scratch.join("to"));
    std::fs::write(&from, &data).unwrap();
    std::fs::write(&to, vec![0; data.len()]).unwrap();
    let serve = |path: &std::path::Path| {
        let args = ["-f", "raw", "-e", "4", path.to_str().unwrap()];
        Server::qemu_nbd(&args).start().unwrap()
    };
    let (source, target) = (serve(&from), serve(&to));

    let printed = run(example("blocking_checksum").arg(source.uri())).unwrap();
    let expected = run(tool("sha256sum").unwrap().arg(&from)).unwrap();
    let expected = expected.success().unwrap();
    assert_eq!(Some(printed.success().unwrap().as_str()), expected.split(' ').next());

    let mut copy = example("blocking_copy");
    let printed = run(copy.args([source.uri(), target.uri()])).unwrap();
    assert_eq!(printed.success().unwrap(), format!("{} bytes copied", data.len()));
    drop((source, target));
    assert!(std::fs::read(&to).unwrap() == data, "the copy differs");
}

#[test]
fn list_exports_and_option_mode() {
    let server = Server::nbdkit(&[
        "--filter=exportname",
        "memory",
        "1M",
        "exportname=hello",
        "exportname=goodbye",
        "exportname-list=explicit",
        "exportname-strict=true",
        "exportdesc=fixed:world",
    ]);
    let server = server.start().unwrap();
    let printed = run(example("list_exports").arg(server.uri())).unwrap();
    assert_eq!(printed.success().unwrap(), "hello\tworld\ngoodbye\tworld");

    let mut choose = example("option_mode");
    choose.arg(server.uri()).args(["nowhere", "hello", "goodbye"]);
    let printed = run(&mut choose).unwrap().success().unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert!(lines[0].starts_with("nowhere: "), "{printed}");
    assert_eq!(lines[1], "hello: 1048576 bytes");
}

#[test]
fn dirty_bitmaps() {
    let scratch = Scratch::new().unwrap();
    let image = scratch.qcow2_image("disk", 1 << 20).unwrap();
    let image = image.to_str().unwrap();
    let qemu = |name: &str, args: &[&str]| {
        let finished = run(tool(name).unwrap().args(args)).unwrap();
        finished.success().unwrap();
    };
    qemu("qemu-img", &["bitmap", "--add", image, "monday"]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write 128k 64k", image]);
    let server = Server::qemu_nbd(&["-B", "monday", "-f", "qcow2", image]);
    let server = server.start().unwrap();
    let printed = run(example("dirty_bitmaps").arg(server.uri())).unwrap();
    assert_eq!(printed.success().unwrap(), "qemu:dirty-bitmap:monday\n  65536 bytes at 131072");
}

#[test]
fn start_server() {
    let nbdkit = ["nbdkit", "-s", "memory", "1M"];
    let printed = run(example("start_server").args(nbdkit)).unwrap();
    assert_eq!(printed.success().unwrap(), "command nbdkit: 1048576 bytes");

    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 2 << 20).unwrap();
    let mut activate = example("start_server");
    activate.args(["--activate", "qemu-nbd", "--format=raw"]).arg(image);
    let printed = run(&mut activate).unwrap().success().unwrap();
    assert_eq!(printed, "socket-activated qemu-nbd: 2097152 bytes");
}
