//! Running the program under test, and data for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nbd_sim::peer::{Finished, PeerError, Scratch, Server, run_within};
use nbd_sim::rng::Rng;
use serde_json::Value;

pub(crate) type TestResult = Result<(), PeerError>;

/// The program under test.
pub(crate) const NBD: &str = env!("CARGO_BIN_EXE_nbd");

/// Longer than anything here takes on a busy machine, so that a hang is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// What the program is given for `--timeout`, in seconds: where the machine is so busy that
/// one of these does not suffice for what comes before, the next is tried.
pub(crate) const PATIENCE: [u32; 4] = [1, 4, 16, 64];

pub(crate) const MIB: u64 = 1 << 20;

/// The program, to be ended by a signal: whoever runs the tests may ignore some, and what is
/// ignored is inherited.
pub(crate) fn ended_by_signals() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", NBD]);
    command
}

/// Runs `nbd` to its end, well or not.
pub(crate) fn nbd(args: &[&str]) -> Result<Finished, PeerError> {
    run_within(LIMIT, Command::new(NBD).args(args))
}

/// The standard output of a run that succeeds and complains of nothing.
pub(crate) fn succeed(args: &[&str]) -> Result<String, PeerError> {
    let finished = nbd(args)?;
    let complaint = String::from_utf8_lossy(&finished.stderr).into_owned();
    let output = finished.success()?;
    assert_eq!(complaint, "", "nbd {args:?}");
    Ok(output)
}

/// The one line that a run which fails prints, without `nbd: ` in front.
pub(crate) fn fail(args: &[&str]) -> Result<String, PeerError> {
    Ok(told_in_one_line(&nbd(args)?, args))
}

/// What a run tells that fails because the server says nothing any more, given a limit of time
/// that suffices for saying hello.
pub(crate) fn fail_in_time(args: &[&str]) -> Result<(u32, String), PeerError> {
    for limit in PATIENCE {
        let timeout = format!("--timeout={limit}");
        let (command, rest) = args.split_first().expect("there is a command");
        let told = fail(&[&[command, timeout.as_str()], rest].concat())?;
        if !told.contains("took longer than") {
            return Ok((limit, told));
        }
        println!("{limit} s are not enough: {told}");
    }
    panic!("{args:?}: no limit is long enough");
}

/// Makes sure that a run failed as it should: status 1, nothing claimed on standard output,
/// one line on standard error.
pub(crate) fn told_in_one_line(finished: &Finished, args: &[&str]) -> String {
    let text = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "nbd {args:?}: {text}");
    let line = text.strip_suffix('\n').unwrap_or_default();
    let told = line.strip_prefix("nbd: ").unwrap_or_default();
    assert!(!told.is_empty() && !told.contains('\n'), "{args:?}: {text}");
    // Words for people: no numbers of the system, nothing that a debugger would print.
    for dump in ["os error", "Some(", "Err(", "Error {", "Kind"] {
        assert!(!told.contains(dump), "{args:?}: {told}");
    }
    told.to_owned()
}

/// `nbd serve` with these arguments, on a Unix socket.
pub(crate) fn serve(args: &[&str]) -> Result<Server, PeerError> {
    let all = ["serve", "--unix", "{socket}"].iter().chain(args).copied();
    Server::command(NBD, &all.collect::<Vec<_>>()).start()
}

/// JSON that a program printed.
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// Asks again until the condition holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Bytes without a pattern.
    Random,
    /// Such bytes here and there, and holes that end nowhere in particular.
    Sparse,
    /// One hole.
    Zeroes,
}

impl Content {
    pub(crate) const ALL: [Self; 3] = [Self::Random, Self::Sparse, Self::Zeroes];

    /// Makes an image of it.
    pub(crate) fn image(self, scratch: &Scratch, name: &str, size: u64) -> PathBuf {
        let path = scratch.raw_image(name, size).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let pieces = match self {
            Self::Random => vec![(0, size)],
            Self::Sparse => {
                (0..size).step_by(300_000).map(|start| (start, 100_000.min(size - start))).collect()
            }
            Self::Zeroes => Vec::new(),
        };
        let mut rng = Rng::new(1);
        for (start, length) in pieces {
            // None is zero.
            let bytes: Vec<u8> = (0..length).map(|_| rng.bits() as u8 | 1).collect();
            file.write_all_at(&bytes, start).unwrap();
        }
        path
    }
}
