//! A load through TLS whose server is killed, over and over.

use std::process::Command;
use std::time::Duration;

use nbd_sim::peer::{PeerError, Scratch, Server, run_while_crashing};

use crate::support::{LIMIT, NBD, TestResult, arg};
use nbd_sim::peer::pki::Pki;

#[test]
fn every_connection_goes_through_tls() -> TestResult {
    let pki = Pki::new();
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 8 << 20)?;
    let certificates = format!("--tls-certificates={}", pki.arg());
    let ours = ["serve", "--unix", "{socket}", "--file", arg(&image), &certificates];
    let theirs = ["--tls=require", &certificates, "file", arg(&image)];
    for server in [Server::command(NBD, &ours), Server::nbdkit(&theirs)] {
        let mut server = server.start()?;
        let uri = server.uri().replacen("nbd", "nbds", 1);
        let uri = format!("{uri}&tls-certificates={}&tls-hostname=localhost", pki.arg());
        // A machine may be so busy that nothing comes of a short load.
        let survived = [1, 4, 16].into_iter().try_fold(false, |survived, times| {
            if survived {
                return Ok(true);
            }
            let mut bench = Command::new(NBD);
            bench.args(["bench", "--verify", "--reconnect=60"]);
            bench.arg(format!("--seconds={}", 2 * times)).arg(&uri);
            let life = times * Duration::from_millis(400);
            let (finished, crashes) = run_while_crashing(&mut server, life, 4 * LIMIT, &mut bench)?;
            let report = finished.success()?;
            assert!(report.contains("mismatches: 0\n"), "{report}");
            println!("{crashes} crashes: {report}");
            Ok::<_, PeerError>(crashes > 0 && !report.contains("connected again: 0 times"))
        });
        assert!(survived?, "nothing comes of any load");
    }
    Ok(())
}
