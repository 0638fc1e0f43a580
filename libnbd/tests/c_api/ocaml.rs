//! Debian's OCaml module, compiled to machine code and to bytecode.

use std::fs;
use std::path::Path;
use std::process::Command;

use nbd_sim::peer::Scratch;

use crate::rig::{Library, nbdkit, succeed};

#[test]
fn buffers_callbacks_and_exceptions() {
    let scratch = Scratch::new().expect("a directory is made");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ocaml/calls.ml");
    let here = scratch.join("calls.ml");
    fs::copy(source, &here).expect("the source is copied");
    let server = nbdkit(&["memory", "1M"]);
    for compiler in ["ocamlopt", "ocamlc"] {
        let program = scratch.join(compiler);
        let mut ocamlfind = Command::new("ocamlfind");
        ocamlfind.args([compiler, "-package", "nbd,unix", "-linkpkg"]).arg(&here);
        succeed(ocamlfind.arg("-o").arg(&program));
        let mut program = Library::debian().used_by(Command::new(program));
        succeed(program.arg(server.uri()));
    }
}
