//! `cargo xtask dist`: what a system gets: the program, its links by libnbd's names, manual
//! pages, completions and units, as a tree and as Debian packages.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::steps::{capture, run as command};
use crate::workspace::{cargo, has_program, nbd_program, root, target_dir};

/// The names of libnbd's tools that the program answers to.
const NAMES: [&str; 5] = ["nbdcopy", "nbddiscard", "nbddump", "nbdinfo", "nbdzero"];

/// Completions: the shell, and where its file goes.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/nbd"),
    ("zsh", "usr/share/zsh/vendor-completions/_nbd"),
    ("fish", "usr/share/fish/vendor_completions.d/nbd.fish"),
];

/// What systemd is to know: devices, a server of what a file lists, and the sockets it waits on.
const UNITS: [(&str, &str); 3] = [
    ("nbd-attach@.service", include_str!("dist/nbd-attach@.service")),
    ("nbd-serve@.service", include_str!("dist/nbd-serve@.service")),
    ("nbd-serve@.socket", include_str!("dist/nbd-serve@.socket")),
];

/// Builds the program and makes `target/dist`.
pub(crate) fn run(args: &[String]) -> Outcome {
    let out = match args {
        [] => target_dir()?.join("dist"),
        [option, path] if option == "--out" => PathBuf::from(path),
        _ => return Err("usage: cargo xtask dist [--out DIRECTORY]".to_owned()),
    };
    command(&mut cargo(["build", "--release", "-p", "nbd-cli", "--features", "psk"]))?;
    let program = nbd_program()?;
    for old in ["nbd-tools", "nbd-tools-libnbd"] {
        let old = out.join(old);
        if old.exists() {
            fs::remove_dir_all(&old).map_err(|error| format!("{}: {error}", old.display()))?;
        }
    }
    let (tools, links) = (out.join("nbd-tools"), out.join("nbd-tools-libnbd"));
    fill_tools(&program, &tools)?;
    fill_links(&tools, &links)?;
    eprintln!("    {} and {} are filled", tools.display(), links.display());
    if !has_program("dpkg-deb") {
        eprintln!("dpkg-deb is not there: no packages are made");
        return Ok(());
    }
    let (version, architecture) = (version(&program)?, architecture()?);
    let package = |tree: &Path, control: String| package(tree, &version, &architecture, &control);
    package(&tools, tools_control(&program, &version, &architecture)?)?;
    package(&links, links_control(&version))
}

fn fill_tools(program: &Path, tree: &Path) -> Outcome {
    install(program, &tree.join("usr/bin/nbd"), 0o755)?;
    let manual = tree.join("usr/share/man/man1");
    make_directory(&manual)?;
    command(Command::new(program).arg("man").arg(&manual))?;
    for (shell, place) in SHELLS {
        let (text, _) = capture(Command::new(program).args(["completions", shell]))?;
        write(&tree.join(place), &text)?;
    }
    for (name, text) in UNITS {
        write(&tree.join("usr/lib/systemd/system").join(name), text)?;
    }
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        let from = root().join(name);
        if from.exists() {
            install(&from, &tree.join("usr/share/doc/nbd-tools").join(name), 0o644)?;
        }
    }
    Ok(())
}

/// The links are a package of their own, for they take the place of another.
fn fill_links(tools: &Path, tree: &Path) -> Outcome {
    let manual = tree.join("usr/share/man/man1");
    make_directory(&manual)?;
    make_directory(&tree.join("usr/bin"))?;
    for name in NAMES {
        let failed = |error: std::io::Error| format!("link {name}: {error}");
        symlink("nbd", tree.join("usr/bin").join(name)).map_err(failed)?;
        let page = format!("{name}.1");
        let from = tools.join("usr/share/man/man1").join(&page);
        fs::rename(&from, manual.join(&page)).map_err(failed)?;
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", to.display());
    to.parent().map_or(Ok(()), make_directory)?;
    fs::copy(from, to).map_err(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn write(path: &Path, text: &str) -> Outcome {
    path.parent().map_or(Ok(()), make_directory)?;
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn make_directory(path: &Path) -> Outcome {
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The version that the program tells.
fn version(program: &Path) -> Outcome<String> {
    let (told, _) = capture(Command::new(program).arg("--version"))?;
    let version = told.split_whitespace().last().map(str::to_owned);
    version.ok_or_else(|| "the program tells no version".to_owned())
}

fn architecture() -> Outcome<String> {
    let (told, _) = capture(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(told.trim().to_owned())
}

fn tools_control(program: &Path, version: &str, architecture: &str) -> Outcome<String> {
    Ok(format!(
        "Package: nbd-tools\nVersion: {version}\nArchitecture: {architecture}\n\
         Section: admin\nPriority: optional\nMaintainer: The authors of nbd-proto\n\
         Depends: {}\nRecommends: file\n\
         Description: copy, look at, compare and serve network block devices\n \
         One program for everything that is done with NBD: it shows what a server offers,\n \
         copies between servers and files, compares, sums up, measures and serves.\n",
        depends(program)?
    ))
}

fn links_control(version: &str) -> String {
    format!(
        "Package: nbd-tools-libnbd\nVersion: {version}\nArchitecture: all\nSection: admin\n\
         Priority: optional\nMaintainer: The authors of nbd-proto\n\
         Depends: nbd-tools (= {version})\nConflicts: libnbd-bin\nReplaces: libnbd-bin\n\
         Provides: libnbd-bin\n\
         Description: the names of libnbd's tools for the program nbd\n \
         nbdinfo, nbdcopy, nbddump, nbdzero and nbddiscard are links to it.\n"
    )
}

/// The packages of the libraries that the program is linked with.
fn depends(program: &Path) -> Outcome<String> {
    let (told, _) = capture(Command::new("ldd").arg(program))?;
    let mut packages: Vec<String> = told
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .filter_map(|library| {
            // Where directories are merged, dpkg may know a library by either name.
            let names = [library.to_owned(), format!("/usr{library}")];
            names.iter().find_map(|name| {
                let (owner, _) = capture(Command::new("dpkg").args(["--search", name])).ok()?;
                owner.split(':').next().map(str::to_owned)
            })
        })
        .collect();
    packages.sort();
    packages.dedup();
    Ok(packages.join(", "))
}

fn package(tree: &Path, version: &str, architecture: &str, control: &str) -> Outcome {
    write(&tree.join("DEBIAN/control"), control)?;
    let all = control.contains("Architecture: all");
    let architecture = if all { "all" } else { architecture };
    let file = tree.with_file_name(format!(
        "{}_{version}_{architecture}.deb",
        tree.file_name().unwrap_or_default().to_string_lossy()
    ));
    let mut deb = Command::new("dpkg-deb");
    command(deb.args(["--build", "--root-owner-group"]).arg(tree).arg(&file))?;
    // The tree is what is installed; this was for the package only.
    let left = tree.join("DEBIAN");
    fs::remove_dir_all(&left).map_err(|error| format!("{}: {error}", left.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_system_takes_the_units() {
        let dir = target_dir().unwrap().join(format!("units-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut units = Vec::new();
        for (name, text) in UNITS {
            // A program that is there, wherever the test runs.
            let text = text.replace("/usr/bin/nbd", "/bin/true");
            let unit = dir.join(name.replace('@', "@nbd0"));
            fs::write(&unit, text).unwrap();
            units.push(unit);
        }
        let mut checked = Command::new("systemd-analyze");
        let checked = checked.args(["verify", "--man=no"]).args(&units).output().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let told = String::from_utf8_lossy(&checked.stderr);
        // It complains of what it only does not know, and ends well.
        assert!(checked.status.success() && !told.contains("nbd0"), "{told}");
    }
}
