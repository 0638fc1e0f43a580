//! Few requests in flight, where it is told on which processors client and server run.
//!
//! With one request in flight most of the time is the way from one processor to another, which
//! the kernel chooses anew all the time. Here it has no choice.

use std::process::Command;

use super::{Entry, Run, known};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::{LOADS, Load};
use crate::bench::server::{DISK, Directory, Server, nbdkit, with_server};
use crate::workspace::nbd_program;

/// Where servers run.
const SERVER: u32 = 0;

/// The processor of clients, and what that is called.
const PLACES: [(u32, &str); 2] = [(SERVER, "one processor"), (SERVER + 1, "two processors")];

const FEW: [Load; 2] = [
    LOADS[1],
    Load { name: "read 4 KiB, depth 4", direction: "read", size: "4k", depth: 4, count: 40_000 },
];

pub(super) fn run(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("placement")?;
    let dir = directory.path();
    let known = known(dir)?;
    let mut clients = vec![Contender::by_hand()?, Contender::blocking()?, Contender::tokio()?];
    clients.extend(Contender::libnbd()?);
    let (kit, serve) = (dir.join("kit"), dir.join("serve"));
    let ours = Command::new(nbd_program()?);
    let servers = [
        Entry::new("nbd serve", Side::Ours, {
            let mut program = placed(&ours);
            program.args(["serve", "--memory", DISK, "--unix"]).arg(&serve);
            Server::start(&mut program, &serve)?
        }),
        Entry::new("nbdkit", Side::Theirs, {
            let mut program = placed(&nbdkit(&kit));
            Server::start(program.args(["memory", DISK]), &kit)?
        }),
    ];
    for server in &servers {
        Contender::blocking()?.check(&LOADS[3], &server.what.uri())?;
    }
    for load in &FEW {
        for (processor, place) in PLACES {
            let on = |client: &Contender| client.clone().on_processor(processor);
            let entries: Vec<_> = clients.iter().map(on).map(Entry::of).collect();
            let server = &servers[1].what;
            run.race(
                &format!("clients at nbdkit, {place}: {}", load.name),
                None,
                &entries,
                |entry| entry.what.check(load, &known.uri()),
                |entry| with_server(server, || entry.what.measure(load, &server.uri())),
            );
            let client = Contender::blocking()?.on_processor(processor);
            run.race(
                &format!("servers, by blocking, {place}: {}", load.name),
                None,
                &servers,
                |entry| client.check(load, &entry.what.uri()),
                |entry| with_server(&entry.what, || client.measure(load, &entry.what.uri())),
            );
        }
    }
    Ok(())
}

/// The same program and arguments, on the servers' processor.
fn placed(program: &Command) -> Command {
    let mut placed = Command::new("taskset");
    placed.args(["-c", &SERVER.to_string()]).arg(program.get_program()).args(program.get_args());
    placed
}
