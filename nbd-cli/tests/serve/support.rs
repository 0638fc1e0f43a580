//! Servers and data for the tests.

use std::time::{Duration, Instant};

use nbd_sim::peer::{PeerError, Server, ServerBuilder, run, tool};
pub(crate) use nbd_sim::raw::LIMIT;
use nbd_sim::rng::Rng;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) type TestResult = Result<(), PeerError>;

/// The program under test.
pub(crate) const NBD: &str = env!("CARGO_BIN_EXE_nbd");

/// `nbd serve` with these arguments, on a Unix socket.
pub(crate) fn serve(args: &[&str]) -> ServerBuilder {
    let all = ["serve", "--unix", "{socket}"].iter().chain(args).copied();
    Server::command(NBD, &all.collect::<Vec<_>>())
}

/// Runs a Python script with a connected handle `h`.
pub(crate) fn nbdsh(uri: &str, script: &str) -> Result<String, PeerError> {
    run(tool("nbdsh")?.args(["-u", uri, "-c", script]))?.success()
}

/// Sends SIGTERM.
pub(crate) fn terminate(server: &Server) {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), Signal::TERM).unwrap();
}

/// Asks again until the condition holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes without a pattern, with runs of zeroes between them.
pub(crate) fn patchy(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(1);
    let mut bytes = vec![0; len];
    for (i, page) in bytes.chunks_mut(50_000).enumerate() {
        if i % 3 != 1 {
            rng.fill(page);
        }
    }
    bytes
}
