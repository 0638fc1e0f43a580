//! Debian's OCaml module, compiled to machine code and to bytecode.

use std::fs;
use std::path::Path;
use std::process::Command;

use nbd_sim::peer::{Scratch, Server};

use crate::rig::{Library, nbdkit, succeed};

/// Runs a program of `tests/ocaml`, as both compilers make it.
fn both(name: &str, args: &[&str]) {
    let scratch = Scratch::new().expect("a directory is made");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ocaml").join(name);
    let here = scratch.join(name);
    fs::copy(source, &here).expect("the source is copied");
    for compiler in ["ocamlopt", "ocamlc"] {
        let program = scratch.join(compiler);
        let mut ocamlfind = Command::new("ocamlfind");
        ocamlfind.args([compiler, "-package", "nbd,unix", "-linkpkg"]).arg(&here);
        succeed(ocamlfind.arg("-o").arg(&program));
        let mut program = Library::system().used_by(Command::new(program));
        succeed(program.args(args));
    }
}

#[test]
fn buffers_callbacks_and_exceptions() {
    let server = nbdkit(&["memory", "1M"]);
    both("calls.ml", &[&server.uri()]);
}

/// All that the module of this release has.
#[test]
fn every_call() {
    let unix = nbdkit(&["memory", "1M"]);
    let path = unix.unix_path().expect("it has a socket").display().to_string();
    let tcp = Server::nbdkit(&["memory", "1M"]).tcp().start().expect("nbdkit starts");
    let address = tcp.tcp_address().expect("it has a port");
    both("every.ml", &[&path, &address.ip().to_string(), &address.port().to_string()]);
}
