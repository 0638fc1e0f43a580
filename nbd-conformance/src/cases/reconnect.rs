//! Connections that are lost and made again.

use std::time::Duration;

use nbd_proto::{CommandFlags, Errno};
use nbd_session::replay::Reconnect;
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is, how};
use crate::outcome::{Op, Who, failed};
use crate::site::{Disk, Kind};

const FORGETS: Need =
    Need::Server(&[Kind::Nbdkit, Kind::Ours], "a server that has a file forgets nothing");

cases! {
    every_command_goes_on,
    many_commands_go_on,
    a_flush_tells_once_of_what_may_be_lost,
    what_is_kept_is_put_back [FORGETS],
    what_was_flushed_is_not_put_back [FORGETS],
    patience_has_an_end,
    the_end_tells_of_what_may_be_lost,
}

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(50));

const NONE: CommandFlags = CommandFlags::empty();

fn every_command_goes_on(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let how = how(&server.uri(), |config| config.meta_context("base:allocation"));
    let mut disk = fixture.connect_reconnecting(&how, POLICY)?;
    let mut again = || {
        server.server.kill();
        server.server.start_again()
    };
    again()?;
    assert_eq!(disk.read(0, 4096)?, [0; 4096]);
    again()?;
    disk.write(0, &noise(4096, 1), NONE)?;
    assert_eq!(disk.read(0, 4096)?, noise(4096, 1));
    again()?;
    assert!(!disk.status(0, 4096, NONE)?.is_empty());
    again()?;
    disk.write_zeroes(0, 4096)?;
    assert_eq!(disk.read(0, 4096)?, [0; 4096]);
    disk.disconnect()?;
    Ok(())
}

/// The server is stopped with commands that it has not answered, and killed.
fn many_commands_go_on(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), POLICY)?;
    let data = noise(1 << 17, 2);
    for kill in [true, true, false] {
        server.server.stop()?;
        let writes = data.chunks(4096).zip(0..);
        let writes: Vec<_> =
            writes.map(|(piece, index)| Op::write(index << 12, piece.to_vec())).collect();
        let outcomes = disk.batch(writes, &mut || {
            if kill {
                server.server.kill();
                server.server.start_again().expect("the server starts again");
            } else {
                server.server.cont().expect("the server goes on");
            }
        });
        for outcome in outcomes {
            outcome?;
        }
        assert!(disk.read(0, data.len())? == data);
    }
    Ok(())
}

fn a_flush_tells_once_of_what_may_be_lost(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), POLICY)?;
    disk.write(0, &[1; 512], NONE)?;
    disk.flush()?;
    server.server.kill();
    server.server.start_again()?;
    // Nothing was lost that had not been flushed.
    disk.flush()?;
    disk.write(0, &[2; 512], NONE)?;
    disk.write(0, &[3; 512], CommandFlags::FUA)?;
    server.server.kill();
    server.server.start_again()?;
    disk.read(0, 512)?;
    let failure = failed(disk.flush());
    assert_eq!(failure.errno, Errno::Io.to_linux(), "{failure}");
    disk.flush()?;
    Ok(())
}

fn what_is_kept_is_put_back(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let policy = POLICY.keep_unflushed(1 << 20);
    let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), policy)?;
    let data = noise(1 << 16, 3);
    // Whole, and then parts of it once more: the later ones are to win.
    disk.write(0, &vec![9; data.len()], NONE)?;
    for (piece, index) in data.chunks(512).zip(0..) {
        disk.write(index * 512, piece, NONE)?;
    }
    for _ in 0..3 {
        server.server.kill();
        server.server.start_again()?;
        assert!(disk.read(0, data.len())? == data);
    }
    server.server.kill();
    server.server.start_again()?;
    disk.flush()?;
    let mut other = fixture.connect_to(&server.uri(), as_is)?;
    assert!(other.read(0, data.len())? == data);
    disk.disconnect()?;
    Ok(())
}

/// A server that forgets what it called durable is not made to remember it.
fn what_was_flushed_is_not_put_back(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let policy = POLICY.keep_unflushed(1 << 20);
    let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), policy)?;
    disk.write(0, &[1; 512], NONE)?;
    disk.flush()?;
    disk.write(512, &[2; 512], NONE)?;
    server.server.kill();
    server.server.start_again()?;
    assert_eq!(disk.read(0, 1024)?, [[0; 512], [2; 512]].concat());
    Ok(())
}

fn patience_has_an_end(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let policy = POLICY.give_up_after(Duration::from_millis(100));
    let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), policy)?;
    server.server.kill();
    for _ in 0..3 {
        let failure = failed(disk.read(0, 512));
        assert_ne!(failure.who, Who::Time, "no call has a limit so short: {failure}");
    }
    for outcome in disk.batch(vec![Op::read(0, 512); 20], &mut || ()) {
        failed(outcome);
    }
    Ok(())
}

fn the_end_tells_of_what_may_be_lost(fixture: &mut Fixture<'_>) -> CaseResult {
    for flushed in [true, false] {
        let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
        let policy = POLICY.give_up_after(Duration::from_millis(100));
        let mut disk = fixture.connect_reconnecting(&how(&server.uri(), as_is), policy)?;
        disk.write(0, &[1; 512], NONE)?;
        if flushed {
            disk.flush()?;
        }
        server.server.kill();
        failed(disk.read(0, 512));
        let ended = disk.disconnect().map(drop);
        assert!(flushed || ended.is_err(), "a write may be lost, and nobody is told");
    }
    Ok(())
}
