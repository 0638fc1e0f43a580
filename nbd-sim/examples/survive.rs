//! Loads real servers that are killed and started again every second: `survive SECONDS`.
//!
//! Each load has a server and a file of its own, and all go on at the same time. `nbd bench
//! --verify` says what it found.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use nbd_sim::peer::{PeerError, Scratch, Server, nbd_program, run_while_crashing};

/// The options of `nbd bench` that make different loads.
const LOADS: [&[&str]; 4] = [
    &["--size=4k", "--depth=64"],
    &["--size=4k", "--depth=1", "--keep-unflushed=1M"],
    &["--size=64k", "--depth=16", "--pattern=seq", "--keep-unflushed=8M"],
    &["--size=512", "--depth=32", "--connections=3"],
];

/// How long a server lives.
const LIFE: Duration = Duration::from_secs(1);

const DISK: u64 = 32 << 20;

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(seconds) = seconds.filter(|seconds| *seconds > 0) else {
        eprintln!("usage: survive SECONDS");
        return ExitCode::from(2);
    };
    let runs: Vec<_> = ["nbd serve", "nbdkit file"]
        .into_iter()
        .flat_map(|server| LOADS.map(|load| (server, load)))
        .map(|(server, load)| {
            let run = thread::spawn(move || survive(server, load, seconds));
            (format!("{server}, {}", load.join(" ")), run)
        })
        .collect();
    let mut failed = 0;
    for (name, run) in runs {
        match run.join() {
            Ok(Ok(report)) => println!("{name}\n{report}\n"),
            Ok(Err(error)) => {
                failed += 1;
                println!("{name}: FAILED\n{error}\n");
            }
            Err(_) => failed += 1,
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn survive(server: &str, load: &[&str], seconds: u64) -> Result<String, PeerError> {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", DISK)?;
    let (image, program) = (image.to_string_lossy(), nbd_program()?);
    let serve = ["serve", "--unix", "{socket}", "--file", &image];
    let mut server = match server {
        "nbd serve" => Server::command(&program.to_string_lossy(), &serve).start()?,
        _ => Server::nbdkit(&["file", &image]).start()?,
    };
    let mut bench = Command::new(&program);
    bench.args(["bench", "--verify", "--reconnect=10", "--seconds", &seconds.to_string()]);
    bench.args(load).arg(server.uri());
    // What is left after that is a look at every block.
    let limit = Duration::from_secs(seconds + 120);
    let (finished, crashes) = run_while_crashing(&mut server, LIFE, limit, &mut bench)?;
    Ok(format!("{}\nthe server was killed {crashes} times", finished.success()?))
}
