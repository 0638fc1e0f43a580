//! The same loads at every server: a disk in memory, and a file that is cached.

use super::{Entry, Run, by_nbdkit, known, of_files, ours, ours_awake, same};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::LOADS;
use crate::bench::server::{DISK, Directory, Server, with_server};

/// One that does not go to sleep at once.
const AWAKE: &str = "nbd serve --busy-poll";

pub(super) fn run(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("servers")?;
    let dir = directory.path();
    let known = known(dir)?;
    let memory = vec![
        Entry::new("nbd serve", Side::Ours, ours(dir, &["--memory", DISK])?),
        Entry::new("nbdkit", Side::Theirs, by_nbdkit(dir, &["memory", DISK])?),
        Entry::new(AWAKE, Side::Ours, ours_awake(dir, &["--memory", DISK])?),
    ];
    compare(run, "memory", memory, &known)?;
    let mut files = of_files(&directory)?;
    // They take turns at one file.
    let file = dir.join("disk-1").display().to_string();
    files.push(Entry::new(AWAKE, Side::Ours, ours_awake(dir, &[&file])?));
    compare(run, "cached file", files, &known)
}

/// All loads by two clients at these servers.
fn compare(run: &mut Run, disk: &str, servers: Vec<Entry<Server>>, known: &Server) -> Outcome {
    let mut clients = vec![Contender::blocking()?];
    clients.extend(Contender::libnbd()?);
    // Once for all loads; and what takes memory when it is first written to has it.
    let tried = |server: Server| {
        let result = try_out(&clients[0], &server, known);
        (server, result)
    };
    let servers: Vec<_> = servers
        .into_iter()
        .map(|entry| Entry::new(entry.name, entry.side, tried(entry.what)))
        .collect();
    for load in &LOADS {
        for client in &clients {
            run.race(
                &format!("{disk}, by {}: {}", client.name, load.name),
                None,
                &servers,
                |entry| entry.what.1.clone(),
                |entry| {
                    let server = &entry.what.0;
                    with_server(server, || client.measure(load, &server.uri()))
                },
            );
        }
    }
    Ok(())
}

/// Has a server write known data, looks at it in two ways, and reads it.
fn try_out(client: &Contender, server: &Server, known: &Server) -> Outcome {
    let uri = server.uri();
    client.check(&LOADS[3], &uri)?;
    same(&uri, &known.uri())?;
    LOADS[..3].iter().try_for_each(|load| client.check(load, &uri))
}
