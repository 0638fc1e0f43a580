//! Programs that know nothing of this project, on the system's libnbd and on ours.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Entry, Run, known, ours, try_out};
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::LOADS;
use crate::bench::server::{DISK, Directory, Server, nbdkit, with_server};
use crate::bench::whole_program::time;
use crate::workspace::{has_program, target_dir};
use crate::{Outcome, capi};

pub(super) fn run(run: &mut Run) -> Outcome {
    let prefix = target_dir()?.join("bench-library");
    capi::run(&["--prefix".to_owned(), prefix.display().to_string()])?;
    let libraries = [
        Entry::new("our libnbd.so.0", Side::Ours, Some(prefix.join("lib"))),
        Entry::new("the system's", Side::Theirs, None),
    ];
    let Some(client) = Contender::libnbd()? else {
        return Err("there is no libnbd to compare with (Debian package libnbd-dev)".to_owned());
    };
    calls(run, &client, &libraries)?;
    copies(run, &libraries)
}

/// The loop in C and fio, on calls of the library. nbdkit is the limit of fast clients with small
/// requests, so there is a faster server beside it.
fn calls(run: &mut Run, client: &Contender, libraries: &[Entry<Option<PathBuf>>]) -> Outcome {
    let directory = Directory::fresh("library")?;
    let dir = directory.path();
    let known = known(dir)?;
    let servers =
        [("nbdkit", Server::memory(dir)?), ("nbd serve", ours(dir, &["--memory", DISK])?)];
    for (_, server) in &servers {
        client.check(&LOADS[3], &server.uri())?;
    }
    let fio = Contender::fio();
    for (name, program) in [("the loop in C", Some(client)), ("fio", fio.as_ref())] {
        let Some(program) = program else { continue };
        let on = |entry: &Entry<Option<PathBuf>>| {
            let contender = program.clone().on(entry.what.clone());
            Entry::new(entry.name.clone(), entry.side, contender)
        };
        let entries: Vec<_> = libraries.iter().map(on).collect();
        for (peer, server) in &servers {
            for load in &LOADS {
                run.race(
                    &format!("{name} at {peer}: {}", load.name),
                    None,
                    &entries,
                    |entry| try_out(dir, &entry.what, load, &known),
                    |entry| with_server(server, || entry.what.measure(load, &server.uri())),
                );
            }
        }
    }
    Ok(())
}

fn copies(run: &mut Run, libraries: &[Entry<Option<PathBuf>>]) -> Outcome {
    if !has_program("nbdcopy") {
        eprintln!("nbdcopy is not installed: it is not measured");
        return Ok(());
    }
    let directory = Directory::fresh("library")?;
    let socket = directory.path().join("p");
    let server = Server::start(nbdkit(&socket).args(["pattern", "1G"]), &socket)?;
    run.race(
        "nbdcopy of 1 GiB to nowhere",
        None,
        libraries,
        |_| Ok(()),
        |entry| {
            let mut nbdcopy = Command::new("nbdcopy");
            nbdcopy.args([&server.uri(), "null:"]).stdout(Stdio::null());
            // Whoever was built against the system's library finds this one.
            nbdcopy.envs(entry.what.iter().map(|directory| ("LD_LIBRARY_PATH", directory)));
            time(&mut nbdcopy, 1 << 30)
        },
    );
    Ok(())
}
