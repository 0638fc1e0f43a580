//! The C library: shared and static, with its header.
//!
//! Symbols have versions, so the shared library is linked here, by the C compiler: rustc has a
//! version script of its own, beside which there can be no other.

mod check;
mod header;
mod table;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::steps::{capture, run as run_command};
use crate::workspace::{cargo, target_dir};

/// The release whose interface is played unless told otherwise.
const NEWEST: &str = "1.24.0";

/// What the archive leaves to the system.
const SYSTEM: [&str; 6] = ["-lssl", "-lcrypto", "-lgcc_s", "-lpthread", "-ldl", "-lm"];

/// What to build.
struct Build {
    /// As `1.14.2`.
    level: String,
    release: bool,
    sanitize: bool,
}

impl Build {
    /// The number behind `1.`.
    fn minor(&self) -> Outcome<u16> {
        let minor = self.level.strip_prefix("1.").and_then(|rest| rest.split('.').next());
        let minor = minor.and_then(|minor| minor.parse().ok());
        minor.ok_or_else(|| format!("{:?} is no release of libnbd, such as 1.14.2", self.level))
    }
}

pub(crate) fn run(args: &[String]) -> Outcome {
    let mut build = Build { level: NEWEST.to_owned(), release: true, sanitize: false };
    let (mut prefix, mut against, mut check) = (None, None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--prefix" => prefix = Some(PathBuf::from(value()?)),
            "--level" => build.level.clone_from(value()?),
            "--debug" => build.release = false,
            "--sanitize" => build.sanitize = true,
            "--check" => check = true,
            "--against" => against = Some(PathBuf::from(value()?)),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    build.minor()?;
    match (prefix, check) {
        (Some(prefix), _) => install(&build, &prefix),
        (None, true) => check::run(&build, against.as_deref()),
        (None, false) => Err("say --prefix DIR, or --check [--against DIR]".to_owned()),
    }
}

/// Builds it, and puts it below a directory as `make install` would.
fn install(build: &Build, prefix: &Path) -> Outcome {
    let (lib, include) = (prefix.join("lib"), prefix.join("include"));
    let failed = |error| format!("writing below {}: {error}", prefix.display());
    fs::create_dir_all(lib.join("pkgconfig")).map_err(failed)?;
    fs::create_dir_all(&include).map_err(failed)?;
    let prefix = prefix.canonicalize().map_err(failed)?;
    let minor = build.minor()?;
    let archive = archive(build)?;
    let script = lib.join("libnbd.map");
    fs::write(&script, version_script(minor)).map_err(failed)?;
    fs::write(include.join("libnbd.h"), header::render(minor)).map_err(failed)?;
    fs::write(lib.join("pkgconfig/libnbd.pc"), package(build, &prefix)).map_err(failed)?;
    fs::copy(&archive, lib.join("libnbd.a")).map_err(failed)?;
    let shared = lib.join("libnbd.so.0.0.0");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-o"]).arg(&shared);
    if build.sanitize {
        cc.arg("-fsanitize=address");
    }
    cc.arg("-Wl,-soname,libnbd.so.0").arg(format!("-Wl,--version-script={}", script.display()));
    // Threads keep the error of their last call, which must outlive dlclose.
    cc.args(["-Wl,-z,nodelete", "-Wl,-z,relro,-z,now", "-Wl,--gc-sections"]);
    cc.arg("-Wl,--whole-archive").arg(&archive).arg("-Wl,--no-whole-archive").args(SYSTEM);
    run_command(&mut cc)?;
    for (link, to) in [("libnbd.so.0", "libnbd.so.0.0.0"), ("libnbd.so", "libnbd.so.0")] {
        let link = lib.join(link);
        let _ = fs::remove_file(&link);
        symlink(to, link).map_err(failed)?;
    }
    eprintln!("    installed below {}", prefix.display());
    Ok(())
}

/// Has cargo build the archive, and learns from it where that is.
fn archive(build: &Build) -> Outcome<PathBuf> {
    let mut rustc = cargo(["rustc", "--package", "libnbd", "--lib", "--crate-type", "staticlib"]);
    rustc.arg("--message-format=json-render-diagnostics").env("LIBNBD_LEVEL", &build.level);
    if build.release {
        rustc.arg("--release");
    }
    if build.sanitize {
        // A switch of the nightly compiler, which the stable one has too.
        rustc.env("RUSTC_BOOTSTRAP", "1");
        rustc.env("RUSTFLAGS", "-Zsanitizer=address -Zexternal-clangrt");
        rustc.args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"]);
        rustc.arg(target_dir()?.join("sanitize"));
    }
    let (told, _) = capture(&mut rustc)?;
    let path = told.split('"').rfind(|text| text.ends_with(".a") && text.contains("libnbd"));
    path.map(PathBuf::from).ok_or_else(|| "cargo has built no archive".to_owned())
}

/// Which symbols there are, and in which release each came.
fn version_script(minor: u16) -> String {
    let mut script = String::new();
    let mut before = None;
    for release in table::releases().filter(|release| *release <= minor) {
        script.push_str(&format!("LIBNBD_1.{release} {{\n  global:\n"));
        for function in table::FUNCTIONS.iter().filter(|one| one.minor() == release) {
            script.push_str(&format!("    {};\n", function.name));
        }
        match before {
            None => script.push_str("  local: *;\n};\n"),
            Some(before) => script.push_str(&format!("}} LIBNBD_1.{before};\n")),
        }
        before = Some(release);
    }
    script
}

fn package(build: &Build, prefix: &Path) -> String {
    format!(
        "prefix={}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
         Name: libnbd\nVersion: {}\nDescription: Network Block Device client library\n\
         Cflags: -I${{includedir}}\nLibs: -L${{libdir}} -lnbd\nLibs.private: {}\n",
        prefix.display(),
        build.level,
        SYSTEM.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_inherits_the_one_before() {
        let script = version_script(4);
        assert!(script.starts_with("LIBNBD_1.0 {\n  global:\n    nbd_create;\n"));
        assert!(script.contains("    nbd_opt_go;\n"));
        assert!(script.ends_with("} LIBNBD_1.2;\n"));
        assert!(!script.contains("nbd_poll2") && !script.contains("LIBNBD_1.6"));
    }

    #[test]
    fn levels_are_releases() {
        let minor = |level: &str| {
            Build { level: level.to_owned(), release: true, sanitize: false }.minor().ok()
        };
        assert_eq!((minor("1.14.2"), minor("1.24"), minor("2.0")), (Some(14), Some(24), None));
    }
}
