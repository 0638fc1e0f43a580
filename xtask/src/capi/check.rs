//! Proof that the C library has the system's interface, and more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::table::FUNCTIONS;
use super::{Build, header, install};
use crate::Outcome;
use crate::steps::{capture, run as run_command};
use crate::workspace::target_dir;

/// Compares with what the system has installed, or with a package that was unpacked somewhere:
/// symbols with their versions, and prototypes.
pub(super) fn run(build: &Build, against: Option<&Path>) -> Outcome {
    let prefix = target_dir()?.join("capi-check");
    install(build, &prefix)?;
    let ours = symbols(&prefix.join("lib/libnbd.so.0"))?;
    let theirs = symbols(&match against {
        None => system_library()?,
        Some(dir) => unpacked_library(dir)?,
    })?;
    let missing: Vec<_> = theirs.iter().filter(|symbol| !ours.contains(symbol)).collect();
    if !missing.is_empty() {
        return Err(format!("the other library has more symbols: {missing:?}"));
    }
    eprintln!("    {} symbols, {} of them the other's, too", ours.len(), theirs.len());
    let source = prefix.join("both.c");
    fs::write(&source, both(build.minor()?)).map_err(|error| error.to_string())?;
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]).arg(&source);
    if let Some(dir) = against {
        cc.arg("-I").arg(dir.join("usr/include"));
    }
    run_command(&mut cc)
}

/// Exported functions, as `name@version`.
fn symbols(library: &Path) -> Outcome<Vec<String>> {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--with-symbol-versions", "--defined-only"]).arg(library);
    let (told, _) = capture(&mut nm)?;
    let functions = told.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == "T").then(|| words.next().map(|name| name.replace("@@", "@")))?
    });
    Ok(functions.collect())
}

fn unpacked_library(dir: &Path) -> Outcome<PathBuf> {
    let lib = dir.join("usr/lib");
    let failed = |error| format!("{}: {error}", lib.display());
    let mut places = vec![lib.clone()];
    for entry in fs::read_dir(&lib).map_err(failed)? {
        places.push(entry.map_err(failed)?.path());
    }
    let found = places.into_iter().map(|place| place.join("libnbd.so.0")).find(|it| it.exists());
    found.ok_or_else(|| format!("there is no libnbd.so.0 below {}", lib.display()))
}

fn system_library() -> Outcome<PathBuf> {
    let mut cc = Command::new("cc");
    cc.arg("-print-file-name=libnbd.so.0");
    let (path, _) = capture(&mut cc)?;
    let path = PathBuf::from(path.trim());
    if path.is_absolute() { Ok(path) } else { Err("libnbd-dev is not installed".to_owned()) }
}

/// The system's header, and each of our prototypes beside its own: two that differ are an error
/// of the compiler. What the system's is too old for is left out, and so are our types, which
/// are its own.
fn both(minor: u16) -> String {
    let mut source = String::from("#include <libnbd.h>\n");
    for function in FUNCTIONS.iter().filter(|function| function.minor() <= minor) {
        let (name, prototype) = (function.name, header::prototype(function));
        let have = name.to_uppercase();
        source.push_str(&format!("#ifdef LIBNBD_HAVE_{have}\nextern {prototype};\n#endif\n"));
    }
    source
}
