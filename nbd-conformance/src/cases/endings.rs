//! The end of a connection, in good order or not.

use std::time::{Duration, Instant};

use nbd_proto::{Command, CommandFlags};

use crate::case::{CaseResult, cases};
use crate::outcome::{Op, Who, failed};
use crate::room::{LONG, Room, as_is, how, noise};
use crate::site::Disk;

cases! {
    in_good_order_and_again,
    after_the_end_everything_fails,
    in_the_middle_of_everything,
    while_nothing_is_asked,
    a_deadline_passes_and_the_client_lives_on,
    a_deadline_for_many,
    a_deadline_while_connecting,
}

/// Shorter than a person's patience, longer than a busy machine needs to look.
const SOON: Duration = Duration::from_millis(100);

fn in_good_order_and_again(room: &mut Room<'_>) -> CaseResult {
    let data = noise(4096, 1);
    for round in 0..5 {
        let mut disk = room.connect(as_is)?;
        if round > 0 {
            assert_eq!(disk.read(0, 4096)?, data);
        }
        disk.write(0, &data, CommandFlags::empty())?;
        disk.disconnect()?;
    }
    Ok(())
}

fn after_the_end_everything_fails(room: &mut Room<'_>) -> CaseResult {
    let mut disk = room.connect(as_is)?;
    disk.read(0, 512)?;
    // Where nothing is left, the compiler has seen to it.
    if let Some(mut rest) = disk.disconnect()? {
        assert_eq!(failed(rest.read(0, 512)).who, Who::Connection);
        assert_eq!(failed(rest.write(0, &[1; 512], CommandFlags::empty())).who, Who::Connection);
        assert_eq!(failed(rest.flush()).who, Who::Connection);
        let outcomes = rest.batch(vec![Op::read(0, 512); 3], &mut || ());
        assert!(outcomes.into_iter().all(|outcome| failed(outcome).who == Who::Connection));
        rest.disconnect()?;
    }
    Ok(())
}

fn in_the_middle_of_everything(room: &mut Room<'_>) -> CaseResult {
    let mut server = room.site.start(Disk::Sized(1 << 20))?;
    let mut disk = room.connect_to(&server.uri(), as_is)?;
    disk.write(0, &[1; 4096], CommandFlags::empty())?;
    server.server.stop()?;
    let op = |index: u64| match index % 3 {
        0 => Op::read(index << 12, 4096),
        1 => Op::write(index << 12, vec![2; 4096]),
        _ => Op::run(Command::flush()),
    };
    let start = Instant::now();
    let outcomes = disk.batch((0..60).map(op).collect(), &mut || server.server.kill());
    assert_eq!(outcomes.len(), 60);
    for outcome in outcomes {
        let failure = failed(outcome);
        assert_eq!(failure.who, Who::Connection, "{failure}");
    }
    assert_eq!(failed(disk.read(0, 512)).who, Who::Connection);
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    Ok(())
}

fn while_nothing_is_asked(room: &mut Room<'_>) -> CaseResult {
    let mut server = room.site.start(Disk::Sized(1 << 20))?;
    let mut disk = room.connect_to(&server.uri(), as_is)?;
    disk.read(0, 512)?;
    server.server.kill();
    let start = Instant::now();
    for _ in 0..3 {
        let failure = failed(disk.read(0, 512));
        assert_eq!(failure.who, Who::Connection, "{failure}");
    }
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    Ok(())
}

fn a_deadline_passes_and_the_client_lives_on(room: &mut Room<'_>) -> CaseResult {
    let server = room.site.start(Disk::Sized(1 << 20))?;
    let mut disk = room.connect_to(&server.uri(), as_is)?;
    let data = noise(8192, 2);
    disk.write(0, &data, CommandFlags::empty())?;
    disk.set_timeout(SOON)?;
    server.server.stop()?;
    for command in [Op::read(0, 4096), Op::run(Command::flush())] {
        let start = Instant::now();
        let failure = failed(disk.batch(vec![command], &mut || ()).remove(0));
        assert_eq!((failure.who, failure.errno), (Who::Time, 110), "{failure}");
        assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    }
    let failure = failed(disk.read(0, 512));
    assert_eq!(failure.who, Who::Time, "{failure}");
    server.server.cont()?;
    disk.set_timeout(LONG)?;
    // The late replies go to nobody.
    assert_eq!(disk.read(4096, 4096)?, data[4096..]);
    disk.write(0, &data[4096..], CommandFlags::empty())?;
    assert_eq!(disk.read(0, 4096)?, data[4096..]);
    disk.disconnect()?;
    Ok(())
}

fn a_deadline_for_many(room: &mut Room<'_>) -> CaseResult {
    let server = room.site.start(Disk::Sized(1 << 20))?;
    let mut disk = room.connect_to(&server.uri(), as_is)?;
    let data = noise(1 << 16, 3);
    disk.write(0, &data, CommandFlags::empty())?;
    disk.set_timeout(SOON)?;
    server.server.stop()?;
    let reads = (0..16).map(|index| Op::read(index << 12, 4096)).collect();
    for outcome in disk.batch(reads, &mut || ()) {
        let failure = failed(outcome);
        assert_eq!(failure.who, Who::Time, "{failure}");
    }
    server.server.cont()?;
    disk.set_timeout(LONG)?;
    crate::cases::crowds::reads_match(disk.as_mut(), &data, 30);
    Ok(())
}

/// A stopped server's socket still takes connections, and nobody greets.
fn a_deadline_while_connecting(room: &mut Room<'_>) -> CaseResult {
    let server = room.site.start(Disk::Sized(1 << 20))?;
    server.server.stop()?;
    let mut hasty = how(&server.uri(), as_is);
    hasty.timeout = SOON;
    let start = Instant::now();
    let failure = failed(room.subject.connect(&hasty));
    assert_eq!((failure.who, failure.errno), (Who::Time, 110), "{failure}");
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    server.server.cont()?;
    room.connect_to(&server.uri(), as_is)?.read(0, 512)?;
    Ok(())
}
