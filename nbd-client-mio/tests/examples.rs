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

    let printed = run(example("mio_checksum").arg(source.uri())).unwrap();
    let expected = run(tool("sha256sum").unwrap().arg(&from)).unwrap();
    let expected = expected.success().unwrap();
    assert_eq!(Some(printed.success().unwrap().as_str()), expected.split(' ').next());

    let mut copy = example("mio_copy");
    let printed = run(copy.args([source.uri(), target.uri()])).unwrap();
    assert_eq!(printed.success().unwrap(), format!("{} bytes copied", data.len()));
    drop((source, target));
    assert!(std::fs::read(&to).unwrap() == data, "the copy differs");
}
