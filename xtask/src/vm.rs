//! `cargo xtask vm [--seconds N] [--] SCRIPT [FILE...]`: a script as root in a small Linux VM.
//!
//! The kernel there has what a container lacks: the driver of network block devices, vsock with
//! loopback, ext4. The machine is emulated, so nothing is needed of this one but patience: it
//! starts in about ten seconds.
//!
//! | file | what |
//! |---|---|
//! | `kit` | emulator, kernel and tools, fetched once into the user's cache |
//! | `image` | the root file system, packed anew for each run |
//! | `machine` | one run |

mod image;
mod kit;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::args::how_many;
use crate::steps::{capture, run as command};
use crate::workspace::{cargo, find_program, root, target_dir};

const USAGE: &str = "usage: cargo xtask vm [--seconds N] [--] SCRIPT [FILE...]";

/// How long a script may take, the start of the machine included, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What one run is made of.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    patience: Duration,
    script: PathBuf,
    files: Vec<PathBuf>,
}

/// Runs the script that is named.
pub(crate) fn run(args: &[String]) -> Outcome {
    start(&parse(args)?).map(drop)
}

/// Runs the scripts of `xtask/vm` with the program of this workspace, as its tests have it built.
pub(crate) fn check() -> Outcome {
    command(&mut cargo(["test", "--quiet", "--workspace", "--all-features", "--no-run"]))?;
    let built = target_dir()?.join("debug");
    let (nbd, forgetful) = (built.join("nbd"), built.join("examples/forgetful"));
    let find = |name| find_program(name).ok_or_else(|| format!("there is no {name}"));
    let (nbdkit, nbdcopy, openssl) = (find("nbdkit")?, find("nbdcopy")?, find("openssl")?);
    let (qemu_nbd, qemu_img, socat) = (find("qemu-nbd")?, find("qemu-img")?, find("socat")?);
    let (memory, file) = (nbdkit_plugin(&nbdkit, "memory")?, nbdkit_plugin(&nbdkit, "file")?);
    let eval = nbdkit_plugin(&nbdkit, "eval")?;
    let whole_blocks = nbdkit_filter(&nbdkit, "blocksize-policy")?;
    let runs = [
        ("kernel.sh", vec![nbd.clone()]),
        ("vsock.sh", vec![nbd.clone(), nbdkit.clone(), memory.clone(), nbdcopy]),
        (
            "attach.sh",
            vec![nbd.clone(), forgetful.clone(), nbdkit.clone(), file, qemu_nbd, qemu_img, openssl],
        ),
        ("swap.sh", vec![nbd.clone(), nbdkit.clone(), memory]),
        ("abilities.sh", vec![nbd.clone(), nbdkit, eval, whole_blocks, socat]),
        ("detach.sh", vec![nbd.clone(), forgetful.clone()]),
        ("servers.sh", vec![nbd, forgetful]),
    ];
    for (script, files) in runs {
        run_script(script, files, PATIENCE)?;
    }
    Ok(())
}

/// Runs a script of `xtask/vm` and returns the lines that it has said.
pub(crate) fn run_script(
    name: &str,
    files: Vec<PathBuf>,
    patience: Duration,
) -> Outcome<Vec<String>> {
    let script = root().join("xtask/vm").join(name);
    start(&Run { patience, script, files })
}

/// A plugin of nbdkit's, by its name there.
pub(crate) fn nbdkit_plugin(nbdkit: &Path, name: &str) -> Outcome<PathBuf> {
    Ok(nbdkit_directory(nbdkit, "plugindir")?.join(format!("nbdkit-{name}-plugin.so")))
}

fn nbdkit_filter(nbdkit: &Path, name: &str) -> Outcome<PathBuf> {
    Ok(nbdkit_directory(nbdkit, "filterdir")?.join(format!("nbdkit-{name}-filter.so")))
}

fn nbdkit_directory(nbdkit: &Path, which: &str) -> Outcome<PathBuf> {
    let (config, _) = capture(Command::new(nbdkit).arg("--dump-config"))?;
    let mut settings = config.lines().filter_map(|line| line.split_once('='));
    let found = settings.find_map(|(name, value)| (name == which).then_some(value));
    found.map(PathBuf::from).ok_or_else(|| format!("nbdkit does not say where its {which} is"))
}

fn start(run: &Run) -> Outcome<Vec<String>> {
    let kit = kit::ready()?;
    let image = image::pack(&kit, &run.script, &run.files)?;
    machine::run(&kit, image.path(), run.patience)
}

fn parse(args: &[String]) -> Outcome<Run> {
    let (mut patience, mut rest) = (PATIENCE, args);
    if let [option, seconds, after @ ..] = rest
        && option == "--seconds"
    {
        patience = Duration::from_secs(how_many(option, seconds)?);
        rest = after;
    }
    if let [separator, after @ ..] = rest
        && separator == "--"
    {
        rest = after;
    }
    match rest {
        [script, files @ ..] if !script.starts_with('-') => Ok(Run {
            patience,
            script: script.into(),
            files: files.iter().map(PathBuf::from).collect(),
        }),
        _ => Err(USAGE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_comes_first_and_its_files_after_it() {
        let parse = |words: &[&str]| parse(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        let run = |seconds, files: &[&str]| {
            let (patience, files) = (Duration::from_secs(seconds), files.iter().map(PathBuf::from));
            Ok(Run { patience, script: "s".into(), files: files.collect() })
        };
        assert_eq!(parse(&["s"]), run(600, &[]));
        assert_eq!(parse(&["--", "s", "a", "b"]), run(600, &["a", "b"]));
        assert_eq!(parse(&["--seconds", "5", "--", "s"]), run(5, &[]));
        for wrong in [&[][..], &["--"], &["-x"], &["--seconds", "0", "s"], &["--seconds"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
