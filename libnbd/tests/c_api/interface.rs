//! The header and the symbols.

use std::fs;
use std::process::Command;

use nbd_sim::peer::Scratch;

use crate::rig::{Library, succeed, xtask};

#[test]
fn the_header_suits_c_and_cpp() {
    let scratch = Scratch::new().expect("a directory is made");
    for (library, compiler, standard, file) in [
        (Library::newest(), "cc", "-std=c99", "only.c"),
        (Library::newest(), "cc", "-std=c17", "only.c"),
        (Library::newest(), "c++", "-std=c++17", "only.cc"),
        (Library::older(), "cc", "-std=c99", "only.c"),
    ] {
        let source = scratch.join(file);
        fs::write(&source, "#include <libnbd.h>\nint main(void) { return LIBNBD_TLS_DISABLE; }\n")
            .expect("a file is written");
        let mut cc = Command::new(compiler);
        cc.args([standard, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]);
        succeed(cc.arg("-I").arg(library.include()).arg(&source));
    }
}

#[test]
fn pkg_config_knows_where_it_is() {
    let library = Library::older();
    let ask = |what: &str| {
        let mut pkg_config = Command::new("pkg-config");
        pkg_config.env("PKG_CONFIG_PATH", library.lib().join("pkgconfig"));
        succeed(pkg_config.args([what, "libnbd"]))
    };
    assert_eq!(ask("--modversion"), library.level());
    assert!(ask("--libs").contains("-lnbd"));
}

/// The system's library has no symbol that this lacks, and its header no other prototype.
#[test]
fn the_system_finds_what_it_has() {
    let mut xtask = xtask();
    succeed(xtask.args(["--check", "--debug", "--level", Library::system().level()]));
}

#[test]
fn symbols_have_the_versions_of_their_releases() {
    let symbols = |library: &Library| {
        let mut nm = Command::new("nm");
        nm.args(["-D", "--with-symbol-versions", "--defined-only"]);
        let told = succeed(nm.arg(library.lib().join("libnbd.so.0")));
        let functions = told.lines().filter_map(|line| line.split_once(" T "));
        functions.map(|(_, name)| name.to_owned()).collect::<Vec<_>>()
    };
    let (newest, older) = (symbols(Library::newest()), symbols(Library::older()));
    assert_eq!((newest.len(), older.len()), (165, 126));
    for expected in ["nbd_pread@@LIBNBD_1.0", "nbd_get_block_size@@LIBNBD_1.4"] {
        assert!(older.iter().any(|symbol| symbol == expected), "{expected}");
    }
    assert!(newest.contains(&"nbd_poll2@@LIBNBD_1.16".to_owned()));
    assert!(newest.iter().all(|symbol| symbol.starts_with("nbd_")), "nothing else is exported");
}
