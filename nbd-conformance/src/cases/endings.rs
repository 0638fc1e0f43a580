//! The end of a connection, in good order or not.

use std::thread;
use std::time::{Duration, Instant};

use nbd_proto::{ClientConfig, Command, CommandFlags, Errno, Limits};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, LONG, as_is, how};
use crate::outcome::{Op, Who, failed, fails};
use crate::site::{Disk, Kind, Quitter};

const BY_HAND: Need = Need::Server(&[Kind::Ours], "the server is another one, made by hand");
const REPLIES: Need = Need::PlainOnly("it has no TLS");

cases! {
    in_good_order_and_again,
    after_the_end_everything_fails,
    in_the_middle_of_everything,
    with_most_still_in_line,
    a_reset_is_told_to_everybody [BY_HAND, REPLIES],
    while_nothing_is_asked,
    the_end_of_a_dead_connection_is_not_good,
    the_end_over_lost_commands_is_not_good,
    a_deadline_passes_and_the_client_lives_on,
    a_deadline_for_many,
    a_deadline_that_passes_unseen,
    a_deadline_while_connecting,
}

/// As short as it likes: nothing that has this limit is answered.
const SOON: Duration = Duration::from_millis(30);

fn in_good_order_and_again(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(4096, 1);
    for round in 0..5 {
        let mut disk = fixture.connect(as_is)?;
        if round > 0 {
            assert_eq!(disk.read(0, 4096)?, data);
        }
        disk.write(0, &data, CommandFlags::empty())?;
        disk.disconnect()?;
    }
    Ok(())
}

fn after_the_end_everything_fails(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = fixture.connect(|config| config.meta_context("base:allocation"))?;
    disk.read(0, 512)?;
    // Where nothing is left, the compiler has seen to it.
    if let Some(mut rest) = disk.disconnect()? {
        let none = CommandFlags::empty();
        fails(rest.read(0, 512), Who::Connection, Errno::NotConn);
        fails(rest.write(0, &[1; 512], none), Who::Connection, Errno::NotConn);
        fails(rest.status(0, 512, none), Who::Connection, Errno::NotConn);
        for command in [
            Command::flush(),
            Command::trim(0, 512),
            Command::write_zeroes(0, 512),
            Command::block_status(0, 512),
            Command::cache(0, 512),
            // Wrong in other ways too.
            Command::trim(0, 0),
            Command::trim(u64::MAX, u64::MAX),
        ] {
            fails(rest.run(command), Who::Connection, Errno::NotConn);
        }
        for outcome in rest.batch(vec![Op::read(0, 512); 100], &mut || ()) {
            fails(outcome, Who::Connection, Errno::NotConn);
        }
        // What was agreed on is still known.
        assert_eq!(rest.facts().export.map(|export| export.size), Some(crate::site::SIZE));
        rest.disconnect()?.expect("as much is left").disconnect()?;
    }
    Ok(())
}

fn in_the_middle_of_everything(fixture: &mut Fixture<'_>) -> CaseResult {
    killed_over_sixty_commands(fixture, as_is)
}

/// The server takes three commands, answers none, and dies over fifty-seven that it has never
/// heard of.
fn with_most_still_in_line(fixture: &mut Fixture<'_>) -> CaseResult {
    killed_over_sixty_commands(fixture, |config| config.limits(Limits::default().max_in_flight(3)))
}

fn killed_over_sixty_commands(
    fixture: &Fixture<'_>,
    change: impl FnOnce(ClientConfig) -> ClientConfig,
) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), change)?;
    disk.write(0, &[1; 4096], CommandFlags::empty())?;
    server.server.stop()?;
    let op = |index: u64| match index % 3 {
        0 => Op::read(index << 12, 4096),
        1 => Op::write(index << 12, vec![2; 4096]),
        _ => Op::run(Command::flush()),
    };
    let outcomes = disk.batch((0..60).map(op).collect(), &mut || server.server.kill());
    assert_eq!(outcomes.len(), 60);
    for outcome in outcomes {
        fails(outcome, Who::Connection, Errno::NotConn);
    }
    fails(disk.read(0, 512), Who::Connection, Errno::NotConn);
    Ok(())
}

/// That the socket has failed, and how, reaches every command, those that come later too:
/// the reset itself, or a pipe that was found broken just before.
fn a_reset_is_told_to_everybody(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = Quitter::start()?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let op = |index: u64| match index % 3 {
        0 => Op::read(index << 12, 4096),
        1 => Op::write(index << 12, vec![2; 4096]),
        _ => Op::run(Command::flush()),
    };
    let mut outcomes = disk.batch((0..60).map(op).collect(), &mut || ());
    outcomes.extend(disk.batch((0..3).map(op).collect(), &mut || ()));
    let outcomes = outcomes.into_iter().map(|outcome| outcome.map(drop));
    for outcome in outcomes.chain([disk.read(0, 512).map(drop)]) {
        let failure = fails(outcome, Who::Connection, Errno::NotConn);
        let text = failure.text.to_lowercase();
        let told = text.contains("reset by peer") || text.contains("broken pipe");
        assert!(text.starts_with("connection failed: ") && told, "{failure}");
    }
    Ok(())
}

fn while_nothing_is_asked(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    disk.read(0, 512)?;
    server.server.kill();
    for _ in 0..3 {
        let failure = failed(disk.read(0, 512));
        assert_eq!(failure.who, Who::Connection, "{failure}");
    }
    Ok(())
}

/// Writes that were acknowledged and not flushed may be lost with the server.
fn the_end_of_a_dead_connection_is_not_good(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    disk.write(0, &[1; 4096], CommandFlags::empty())?;
    server.server.kill();
    failed(disk.read(0, 512));
    let failure = failed(disk.disconnect().map(drop));
    assert_ne!(failure.who, Who::Time, "{failure}");
    Ok(())
}

/// So may writes that were not even acknowledged.
fn the_end_over_lost_commands_is_not_good(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    server.server.stop()?;
    let op = |index: u64| Op::write(index << 12, vec![2; 4096]);
    for outcome in disk.batch((0..8).map(op).collect(), &mut || server.server.kill()) {
        failed(outcome);
    }
    failed(disk.disconnect().map(drop));
    Ok(())
}

fn a_deadline_passes_and_the_client_lives_on(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let data = noise(8192, 2);
    disk.write(0, &data, CommandFlags::empty())?;
    disk.set_timeout(SOON)?;
    server.server.stop()?;
    for command in [Op::read(0, 4096), Op::run(Command::flush())] {
        let start = Instant::now();
        let failure = failed(disk.batch(vec![command], &mut || ()).remove(0));
        assert_eq!((failure.who, failure.errno), (Who::Time, 110), "{failure}");
        assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
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

fn a_deadline_for_many(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
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
    crate::cases::concurrency::reads_match(disk.as_mut(), &data, 30);
    Ok(())
}

/// All of them are over when somebody begins to wait.
fn a_deadline_that_passes_unseen(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    disk.set_timeout(SOON)?;
    server.server.stop()?;
    let reads = (0..16).map(|index| Op::read(index << 12, 4096)).collect();
    // They are under way by then: when as much time has gone again, that of each is over.
    let mut be_late = || {
        let over = Instant::now() + SOON;
        while Instant::now() <= over {
            thread::yield_now();
        }
    };
    for outcome in disk.batch(reads, &mut be_late) {
        let failure = failed(outcome);
        assert_eq!(failure.who, Who::Time, "{failure}");
    }
    server.server.cont()?;
    disk.set_timeout(LONG)?;
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    Ok(())
}

/// A stopped server's socket still takes connections, and nobody greets.
fn a_deadline_while_connecting(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    server.server.stop()?;
    let mut hasty = how(&server.uri(), as_is);
    hasty.timeout = SOON;
    let failure = failed(fixture.subject.connect(&hasty));
    assert_eq!((failure.who, failure.errno), (Who::Time, 110), "{failure}");
    server.server.cont()?;
    fixture.connect_to(&server.uri(), as_is)?.read(0, 512)?;
    Ok(())
}
