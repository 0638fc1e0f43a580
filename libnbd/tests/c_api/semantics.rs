//! Programs in C, each about one thing, against real servers.

use nbd_sim::peer::pki::Pki;
use nbd_sim::peer::{Scratch, Server};

use crate::rig::{Library, nbdkit};

/// Runs a program against a disk of 1 MiB in memory, as of both releases.
fn on_memory(name: &str) {
    let server = nbdkit(&["memory", "1M"]);
    for library in [Library::newest(), Library::older()] {
        library.run(name, &[&server.uri()]);
    }
}

/// The same against qemu-nbd: nbdkit stops with a failed assertion when a client leaves with reads
/// under way.
fn on_qemu(name: &str) {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk", 1 << 20).expect("an image is made");
    let image = image.to_str().expect("the path is text");
    let server = Server::qemu_nbd(&["-f", "raw", image]).start().expect("qemu-nbd starts");
    for library in [Library::newest(), Library::older()] {
        library.run(name, &[&server.uri()]);
    }
}

#[test]
fn calls_that_wait() {
    on_memory("waiting");
}

#[test]
fn calls_that_do_not_wait() {
    on_memory("aio");
}

#[test]
fn callbacks_are_freed_exactly_once() {
    on_qemu("freed");
}

#[test]
fn bad_arguments_are_refused() {
    on_memory("refused");
}

#[test]
fn null_is_refused_everywhere() {
    on_memory("null");
}

#[test]
fn options_are_chosen_one_by_one() {
    on_memory("options");
}

#[test]
fn callbacks_may_look_but_not_call() {
    on_memory("reentry");
}

#[test]
fn a_process_may_fork_after_use() {
    on_memory("forked");
}

#[test]
fn threads_take_turns() {
    on_memory("threads");
}

#[test]
fn a_handle_can_be_closed_in_every_state() {
    on_qemu("closing");
}

#[test]
fn the_end_of_a_server_is_told() {
    for library in [Library::newest(), Library::older()] {
        library.run("death", &[]);
    }
}

#[test]
fn programs_are_started_and_waited_for() {
    for library in [Library::newest(), Library::older()] {
        library.run("programs", &[]);
    }
}

#[test]
fn tls_is_asked_for_offered_and_granted() {
    let scratch = Scratch::new().expect("a directory is made");
    let keys = scratch.join("keys.psk");
    std::fs::write(&keys, "alice:0123456789abcdef0123456789abcdef\n").expect("a file is written");
    let keys = keys.to_str().expect("the path is text");
    let psk = format!("--tls-psk={keys}");
    let (with, without) =
        (nbdkit(&["--tls=require", &psk, "memory", "1M"]), nbdkit(&["memory", "1M"]));
    let path = |server: &Server| server.unix_path().expect("it has a socket").display().to_string();
    for library in [Library::newest(), Library::older()] {
        library.run("tls", &[&path(&with), &path(&without), keys]);
    }
}

#[test]
fn certificates_are_checked_where_there_is_something_to_check() {
    let (right, wrong) = (Pki::new(), Pki::new());
    let certificates = format!("--tls-certificates={}", right.arg());
    let args = ["--tls=require", &certificates, "memory", "1M"];
    let (unix, tcp) = (nbdkit(&args), Server::nbdkit(&args).tcp().start().expect("it starts"));
    let path = unix.unix_path().expect("it has a socket").display().to_string();
    let address = tcp.tcp_address().expect("it has a port");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    for library in [Library::newest(), Library::older()] {
        library.run("certificates", &[&path, &host, &port, right.arg(), wrong.arg()]);
    }
}

#[test]
fn parts_of_reads_are_told() {
    // Data, a hole, data: 64 KiB each.
    let server = nbdkit(&["data", "( 0x55 * 65536 ) @131072 ( 0xaa * 65536 )"]);
    for library in [Library::newest(), Library::older()] {
        library.run("parts", &[&server.uri()]);
    }
}
