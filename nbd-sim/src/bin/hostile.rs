//! A server that breaks rules, for any client: plays one case of the table to the
//! next client that connects.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::{Address, Stage, all};

const USAGE: &str = "usage: hostile --list | CASE --unix PATH | CASE --tcp ADDRESS:PORT";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--list"] => list(),
        [id, "--unix", path] => play(id, Address::Unix(path.into())),
        [id, "--tcp", address] => match address.parse() {
            Ok(address) => play(id, Address::Tcp(address)),
            Err(error) => Err(format!("{address}: {error}")),
        },
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<(), String> {
    let mut out = io::stdout().lock();
    for case in all() {
        match writeln!(out, "{:<24} {:?}", case.id, case.outcome) {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            done => done.map_err(|error| error.to_string())?,
        }
    }
    Ok(())
}

fn play(id: &str, address: Address) -> Result<(), String> {
    let case = all().into_iter().find(|case| case.id == id);
    let case = case.ok_or_else(|| format!("no case {id}; --list tells them all"))?;
    let stage = Stage::at(address).map_err(|error| error.to_string())?;
    println!("{}", stage.uri());
    let script = case.play(Delivery::Whole, None);
    let sent =
        stage.play(&case, &script, Duration::from_secs(60)).map_err(|error| error.to_string())?;
    println!("the client sent {} bytes and left; it owes: {:?}", sent.len(), case.outcome);
    Ok(())
}
