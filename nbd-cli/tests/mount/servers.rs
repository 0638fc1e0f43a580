//! A file that several servers have, of which one after the other is lost.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nbd_sim::peer::{Scratch, Server, run_while_crashing, run_within};
use rustix::process::Signal;

use super::{LIMIT, MIB, Mount, NBD, TestResult, succeed};

fn serve(file: &str) -> Result<Server, nbd_sim::peer::PeerError> {
    Server::command(NBD, &["serve", "--unix", "{socket}", "--file", file]).start()
}

#[test]
fn what_was_written_is_read_by_way_of_the_other_server() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 16 * MIB)?.display().to_string();
    let (mut first, mut second) = (serve(&image)?, serve(&image)?);
    let also = format!("--also={}", second.uri());
    let mount = Mount::new(&[&also], &first.uri(), &scratch);
    let file = mount.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    first.kill();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&image).unwrap()[..4096], [7; 4096]);
    drop(file);
    // The one that is in use now is lost over and over, and the other is there but for a while.
    first.start_again()?;
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--bs=4k", "--size=16M", "--verify=crc32c"]);
    fio.args(["--ioengine=libaio", "--iodepth=16", "--direct=1", "--do_verify=1", "--loops=4"]);
    fio.args(["--fsync=256", "--numjobs=1"]);
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    let (finished, _) =
        run_while_crashing(&mut second, Duration::from_millis(700), LIMIT, &mut fio)?;
    finished.success()?;
    let told = mount.end(Signal::TERM);
    let closed = format!("nbd: {}: the server closed the connection\n", first.uri());
    assert!(told.contains(&closed), "{told}");
    assert!(told.contains(&format!("nbd: {}: connected again\n", second.uri())), "{told}");
    Ok(())
}

#[test]
fn connections_are_spread_over_servers_where_that_is_wanted() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", 16 * MIB)?.display().to_string();
    let logs = ["one", "two"].map(|name| scratch.join(name));
    let start = |log: &std::path::Path| {
        let logfile = format!("logfile={}", log.display());
        Server::nbdkit(&["--filter=log", "file", &image, &logfile]).start()
    };
    let (mut first, second) = (start(&logs[0])?, start(&logs[1])?);
    let opened =
        || logs.each_ref().map(|log| fs::read_to_string(log).unwrap().matches(" Connect ").count());
    let also = format!("--also={}", second.uri());
    let before = opened();
    // The other one is looked at, whatever comes of it.
    let options = ["--connections=4", "--keep-unflushed=0", &also];
    let told = Mount::new(&options, &first.uri(), &scratch).end(Signal::TERM);
    assert!(told.contains("1 of 4, since others could come to be to another server"), "{told}");
    assert_eq!(opened(), [before[0] + 1, before[1] + 1]);
    let options = [&options[..], &["--spread"]].concat();
    let mount = Mount::new(&options, &first.uri(), &scratch);
    assert_eq!(opened(), [before[0] + 1 + 2, before[1] + 1 + 1 + 2]);
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--bs=16k", "--size=16M", "--verify=crc32c"]);
    fio.args(["--ioengine=libaio", "--iodepth=16", "--direct=1"]);
    fio.arg(format!("--filename={}", mount.file.display())).current_dir(scratch.path());
    succeed(&mut fio)?;
    // Each goes on where there is a server.
    first.kill();
    let mut bytes = [0; 4096];
    let file = mount.open();
    for at in 0..64 {
        file.read_exact_at(&mut bytes, at * 64 * 1024).unwrap();
        file.write_all_at(&bytes, at * 64 * 1024).unwrap();
    }
    // What was written and not flushed when it was lost may be lost with it, which is told once.
    file.sync_all().unwrap_err();
    file.sync_all().unwrap();
    drop(file);
    let told = mount.end(Signal::TERM);
    assert!(told.contains(&format!("nbd: {}: connected again\n", second.uri())), "{told}");
    Ok(())
}

#[test]
fn servers_that_differ_are_not_mounted() -> TestResult {
    let scratch = Scratch::new()?;
    let directory = scratch.join("empty").display().to_string();
    fs::create_dir(&directory).unwrap();
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    let refused = |words: &[&str], expected: &str| -> TestResult {
        let finished =
            run_within(LIMIT, Command::new(NBD).arg("mount").args(words).arg(&directory))?;
        let told = String::from_utf8_lossy(&finished.stderr).into_owned();
        assert_eq!(finished.status.code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(fs::read_dir(&directory).unwrap().next().is_none());
        Ok(())
    };
    let others: [(&[&str], &str); 4] = [
        (&["memory", "2M"], "are not the same: 1048576 bytes and 2097152 bytes"),
        (&["-r", "memory", "1M"], "are not the same: one is read-only"),
        (&["--filter=nozero", "memory", "1M"], "only one of them offers"),
        (
            &["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=512"],
            "are not the same: one takes blocks",
        ),
    ];
    for (other, expected) in others {
        let other = Server::nbdkit(other).start()?;
        refused(&["--also", &other.uri(), &uri], expected)?;
    }
    let alone = ["--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"];
    let alone = Server::nbdkit(&alone).start()?;
    let spread = ["--spread", "--connections=2", "--keep-unflushed=0", "--also"];
    refused(
        &[&spread[..], &[&alone.uri(), &uri]].concat(),
        "does not say that several connections are safe",
    )?;
    let export = format!("disk={}", scratch.raw_image("disk", MIB)?.display());
    let serve = ["serve", "--unix", "{socket}", "--export", &export];
    let nameless = Server::command(NBD, &serve).start()?;
    let other = nameless.export_uri("other");
    refused(&["--also", &other, &server.export_uri("other")], &format!("{other}: "))?;
    refused(&["--also", &other, &uri], "the export has another name")?;
    refused(&["--also", &uri, &uri], "that server is named twice")?;
    refused(&["--also", "[", "nbdkit", "null", "]", &uri], "has its data for itself")?;
    Ok(())
}

#[test]
fn a_server_that_is_away_is_looked_at_when_it_is_needed() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk", MIB)?.display().to_string();
    let (mut first, mut second) = (serve(&image)?, serve(&image)?);
    second.kill();
    let also = format!("--also={}", second.uri());
    let mount = Mount::new(&["--reconnect=300", &also], &first.uri(), &scratch);
    let file = mount.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    // It comes back as another one, which is no use: the first is waited for.
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(MIB / 2).unwrap();
    second.start_again()?;
    first.kill();
    let syncs = thread::spawn(move || file.sync_all());
    while !fs::read_to_string(&mount.told).unwrap().contains("its size was") {
        thread::yield_now();
    }
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(MIB).unwrap();
    first.start_again()?;
    syncs.join().unwrap().unwrap();
    assert_eq!(fs::read(&image).unwrap()[..4096], [7; 4096]);
    let told = mount.end(Signal::TERM);
    assert!(told.contains("whether it is like"), "{told}");
    Ok(())
}
