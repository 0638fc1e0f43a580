//! Limits of time, and servers that say nothing any more.
//!
//! What is looked at is which error came, or that none did; never how soon. Where a limit is
//! short, a busy machine may reach it where nothing is wrong, so what is then expected holds all
//! the same.

use std::time::{Duration, Instant};

use nbd_proto::{Command, CommandFlags, Errno, Limits};
use nbd_session::ConnectOptions;
use nbd_session::replay::Reconnect;
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, LONG, as_is, how};
use crate::outcome::{Op, Who, failed, fails};
use crate::site::{Disk, Kind};
use crate::subject::How;

const TIME: Need = Need::PlainOnly("time is the same behind TLS");
const FILTERS: Need = Need::Server(&[Kind::Nbdkit], "only nbdkit can be told to be slow");

cases! {
    a_server_that_falls_silent_is_left [TIME],
    silence_is_told_to_everybody [TIME],
    keep_alive_finds_out_who_is_gone [TIME],
    long_work_is_no_silence [FILTERS, TIME],
    a_limit_counts_while_there_is_nobody [TIME],
    a_call_that_is_late_harms_no_other [TIME],
    a_flush_that_is_never_answered_ends [TIME],
    a_late_flush_vouches_for_nothing [TIME],
    given_up_commands_hold_the_room [TIME],
    zero_is_no_limit [FILTERS, TIME],
    damage_is_never_data [Need::SomeTls],
    a_damaged_connection_is_made_again [Need::SomeTls],
}

const SHORT: Duration = Duration::from_millis(100);

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(50));

const NONE: CommandFlags = CommandFlags::empty();

fn with(base: ConnectOptions, how: How) -> How {
    How { base, ..how }
}

/// The network loses everything and says so to nobody: another connection works.
fn a_server_that_falls_silent_is_left(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let silence = ConnectOptions::new().silence(SHORT);
    let how = with(silence, how(&relay.uri(&server.uri()), as_is));
    let mut disk = fixture.connect_reconnecting(&how, POLICY)?;
    let data = noise(4096, 1);
    disk.write(0, &data, CommandFlags::FUA)?;
    relay.freeze(relay.connections() - 1);
    for outcome in disk.batch(vec![Op::read(0, 4096); 25], &mut || ()) {
        assert_eq!(outcome?.data, data);
    }
    assert!(relay.connections() > 1, "it was kept");
    disk.disconnect()?;
    Ok(())
}

fn silence_is_told_to_everybody(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let silence = ConnectOptions::new().silence(SHORT);
    let mut disk =
        fixture.subject.connect(&with(silence, how(&relay.uri(&server.uri()), as_is)))?;
    relay.freeze(0);
    for outcome in disk.batch(vec![Op::read(0, 512); 5], &mut || ()) {
        fails(outcome, Who::Time, Errno::TimedOut);
    }
    // It is over, and why is told again.
    fails(disk.read(0, 512), Who::Time, Errno::TimedOut);
    Ok(())
}

/// Nothing has a limit, and still no call waits for a server that is not there any more.
fn keep_alive_finds_out_who_is_gone(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let asks = ConnectOptions::new().silence(Duration::ZERO).keep_alive(SHORT);
    let mut disk =
        fixture.subject.connect(&with(asks.clone(), how(&relay.uri(&server.uri()), as_is)))?;
    relay.freeze(0);
    fails(disk.read(0, 512), Who::Time, Errno::TimedOut);
    let mut disk =
        fixture.connect_reconnecting(&with(asks, how(&relay.uri(&server.uri()), as_is)), POLICY)?;
    let data = noise(4096, 4);
    disk.write(0, &data, CommandFlags::FUA)?;
    relay.freeze(relay.connections() - 1);
    for outcome in disk.batch(vec![Op::read(0, 4096); 5], &mut || ()) {
        assert_eq!(outcome?.data, data);
    }
    disk.disconnect()?;
    Ok(())
}

/// A server that fills a disk with zeroes may answer nothing else meanwhile.
fn long_work_is_no_silence(fixture: &mut Fixture<'_>) -> CaseResult {
    let slow = ["--filter=delay", "memory", "1M", "delay-zero=400ms"];
    let server = fixture.site.start_with(&slow)?;
    let silence = ConnectOptions::new().silence(SHORT);
    let mut disk = fixture.subject.connect(&with(silence, how(&server.uri(), as_is)))?;
    disk.write_zeroes(0, 4096)?;
    disk.disconnect()?;
    Ok(())
}

/// The time of a call goes on while a lost connection is made again.
fn a_limit_counts_while_there_is_nobody(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    // Whoever comes later is accepted, and hears nothing.
    let relay = server.relayed(1);
    let mut disk = fixture.connect_reconnecting(&how(&relay.uri(&server.uri()), as_is), POLICY)?;
    disk.read(0, 512)?;
    relay.cut(0);
    disk.set_timeout(SHORT)?;
    fails(disk.read(0, 512), Who::Time, Errno::TimedOut);
    for outcome in disk.batch(vec![Op::read(0, 512); 5], &mut || ()) {
        fails(outcome, Who::Time, Errno::TimedOut);
    }
    Ok(())
}

/// What comes too late is nobody's, and the connection goes on.
fn a_call_that_is_late_harms_no_other(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let mut disk = fixture.connect_to(&relay.uri(&server.uri()), as_is)?;
    let data = noise(8192, 2);
    disk.write(0, &data, NONE)?;
    relay.freeze(0);
    disk.set_timeout(SHORT)?;
    fails(disk.read(0, 4096), Who::Time, Errno::TimedOut);
    fails(disk.write(4096, &[0; 4096], NONE), Who::Time, Errno::TimedOut);
    disk.set_timeout(LONG)?;
    relay.thaw(0);
    assert_eq!(disk.read(0, 4096)?, data[..4096]);
    disk.write(4096, &data[4096..], NONE)?;
    assert_eq!(disk.read(0, 8192)?, data);
    assert_eq!(relay.connections(), 1);
    Ok(())
}

/// A server that works on a flush may answer nothing else, so its silence says nothing: what ends
/// the wait is the limit of the call.
fn a_flush_that_is_never_answered_ends(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let mut disk = fixture.connect_to(&relay.uri(&server.uri()), as_is)?;
    disk.write(0, &noise(4096, 6), NONE)?;
    relay.freeze(0);
    disk.set_timeout(SHORT)?;
    fails(disk.flush(), Who::Time, Errno::TimedOut);
    let more = vec![Op::run(Command::flush()), Op::run(Command::flush()), Op::read(0, 4096)];
    for outcome in disk.batch(more, &mut || ()) {
        fails(outcome, Who::Time, Errno::TimedOut);
    }
    Ok(())
}

/// Who gave up on a flush asks again, and the connection goes on.
fn a_late_flush_vouches_for_nothing(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let policy = POLICY.keep_unflushed(1 << 20);
    let mut disk = fixture.connect_reconnecting(&how(&relay.uri(&server.uri()), as_is), policy)?;
    let data = noise(4096, 7);
    disk.write(0, &data, NONE)?;
    relay.freeze(0);
    disk.set_timeout(SHORT)?;
    fails(disk.flush(), Who::Time, Errno::TimedOut);
    disk.set_timeout(LONG)?;
    // Its connection is lost, with the answer on its way: the write is made again.
    relay.cut(0);
    disk.flush()?;
    assert_eq!(disk.read(0, 4096)?, data);
    assert!(relay.connections() > 1);
    disk.disconnect()?;
    Ok(())
}

/// The server owes the answers to all that may be in flight, and nobody waits for those any more.
fn given_up_commands_hold_the_room(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let few = Limits::default().max_in_flight(3);
    let mut disk = fixture.connect_to(&server.uri(), |config| config.limits(few))?;
    let data = noise(1 << 16, 5);
    disk.write(0, &data, NONE)?;
    disk.set_timeout(SHORT)?;
    server.server.stop()?;
    for outcome in disk.batch(vec![Op::read(0, 512); 10], &mut || ()) {
        fails(outcome, Who::Time, Errno::TimedOut);
    }
    fails(disk.read(0, 512), Who::Time, Errno::TimedOut);
    server.server.cont()?;
    disk.set_timeout(LONG)?;
    let end = Instant::now() + LONG;
    // Whoever cannot wait in line is told at once that there is no room yet.
    let back = loop {
        match disk.read(0, 512) {
            Err(failure) if failure.who == Who::Time && Instant::now() < end => {}
            outcome => break outcome?,
        }
    };
    assert_eq!(back, data[..512]);
    crate::cases::concurrency::reads_match(&mut *disk, &data, 10);
    disk.disconnect()?;
    Ok(())
}

fn zero_is_no_limit(fixture: &mut Fixture<'_>) -> CaseResult {
    let slow = ["--filter=delay", "memory", "1M", "delay-read=50ms"];
    let server = fixture.site.start_with(&slow)?;
    let none = ConnectOptions::new().silence(Duration::ZERO).keep_alive(Duration::ZERO);
    let how = How { timeout: Duration::ZERO, ..with(none, how(&server.uri(), as_is)) };
    let mut disk = fixture.subject.connect(&how)?;
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    disk.set_timeout(Duration::ZERO)?;
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    for outcome in disk.batch(vec![Op::read(0, 512); 5], &mut || ()) {
        assert_eq!(outcome?.data, [0; 512]);
    }
    disk.disconnect()?;
    Ok(())
}

fn damage_is_never_data(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let mut disk = fixture.connect_to(&relay.uri(&server.uri()), as_is)?;
    disk.read(0, 512)?;
    relay.damage(0);
    let failure = failed(disk.read(0, 4096));
    assert_eq!(failure.who, Who::Connection, "{failure}");
    Ok(())
}

fn a_damaged_connection_is_made_again(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let mut disk = fixture.connect_reconnecting(&how(&relay.uri(&server.uri()), as_is), POLICY)?;
    let data = noise(4096, 3);
    disk.write(0, &data, NONE)?;
    for round in 0..3 {
        assert_eq!(relay.connections(), round + 1);
        relay.damage(round);
        assert_eq!(disk.read(0, 4096)?, data);
    }
    disk.disconnect()?;
    Ok(())
}
