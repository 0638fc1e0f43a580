//! A tool at work while its server dies and comes back.

use std::process::Command;
use std::thread;
use std::time::Duration;

use super::process::wait_until;
use super::{Finished, PeerError, Server, run_within};

/// Runs a command to its end, for at most `limit`, while the server is killed (SIGKILL) and
/// started again whenever it has been there for so long. Tells how often that was.
///
/// # Errors
///
/// Those of [`run_within`] and of [`Server::start_again`].
pub fn run_while_crashing(
    server: &mut Server,
    every: Duration,
    limit: Duration,
    command: &mut Command,
) -> Result<(Finished, u32), PeerError> {
    thread::scope(|scope| {
        let work = scope.spawn(|| run_within(limit, command));
        let mut crashes = 0;
        let ended = || work.is_finished().then_some(());
        while wait_until(every, ended).is_none() {
            server.start_again()?;
            crashes += 1;
        }
        let finished = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((finished?, crashes))
    })
}
