//! Debian's Python module, which knows of no other library.

use std::path::Path;
use std::process::Command;

use crate::rig::{Library, nbdkit, succeed};

fn python(script: &str, args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    // Debian's, for which the module was built.
    let mut python = Library::system().used_by(Command::new("/usr/bin/python3"));
    succeed(python.arg(script).args(args))
}

#[test]
fn buffers_callbacks_and_errors() {
    let server = nbdkit(&["memory", "1M"]);
    python("calls.py", &[&server.uri()]);
}

#[test]
fn nbdsh() {
    let server = nbdkit(&["memory", "1M"]);
    let mut nbdsh = Library::system().used_by(Command::new("/usr/bin/python3"));
    nbdsh.args(["-m", "nbd", "-u"]).arg(server.uri());
    let told =
        succeed(nbdsh.args(["-c", "h.pwrite(b'x' * 512, 0)", "-c", "print(h.pread(3, 510))"]));
    assert_eq!(told, "bytearray(b'xx\\x00')");
}
