//! Every example runs against a real server, and prints what is true.

use std::process::Command;

use nbd_sim::peer::{Scratch, Server, run};

/// An example, which `cargo test` builds next to the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --examples`", path.display());
    Command::new(path)
}

/// Runs an example on an export of 3 MiB and a bit; returns what it printed and the sum.
fn add_up(name: &str, args: &[&str]) -> (String, String) {
    let scratch = Scratch::new().unwrap();
    let path = scratch.join("disk");
    let data: Vec<u8> = (0..3_000_832_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(&path, &data).unwrap();
    let server = Server::nbdkit(&["file", path.to_str().unwrap()]).tcp();
    let server = server.start().unwrap();
    let address = server.tcp_address().unwrap().to_string();
    let printed = run(example(name).arg(address).args(args)).unwrap();
    let sum: u64 = data.iter().map(|byte| u64::from(*byte)).sum();
    let wanted = format!("{} bytes, sum {sum}", data.len());
    (printed.success().unwrap(), wanted)
}

#[test]
fn poll_loop() {
    let (printed, wanted) = add_up("poll_loop", &[]);
    assert_eq!(printed, wanted);
}

#[test]
fn epoll_loop() {
    let (printed, wanted) = add_up("epoll_loop", &[]);
    assert_eq!(printed, wanted);
}

#[test]
fn polling_loop() {
    let (printed, wanted) = add_up("polling_loop", &["4"]);
    assert_eq!(printed, wanted + ", 4 connections");
}

#[test]
fn frame_loop() {
    let (printed, wanted) = add_up("frame_loop", &[]);
    let frames = printed.strip_prefix(&wanted).expect(&printed);
    // Some of them pass before there is a server at all.
    assert!(frames.ends_with(" frames"), "{printed}");
}
