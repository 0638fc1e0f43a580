//! Several connections to one export.

use std::thread;
use std::time::{Duration, Instant};

use nbd_proto::Errno;
use nbd_session::replay::Reconnect;
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, LONG, as_is, how};
use crate::outcome::failed;
use crate::site::{Disk, Kind};
use crate::subject::beyond::Pool;

const FORGETS: Need =
    Need::Server(&[Kind::Nbdkit, Kind::Ours], "a server that has a file forgets nothing");
const LIMIT: Need = Need::Server(&[Kind::Nbdkit], "only nbdkit has such a limit");

cases! {
    all_connections_lead_to_the_same,
    no_room_for_more_is_no_failure [LIMIT],
    one_that_is_never_greeted_holds_up_nothing,
    an_older_write_is_not_put_over_a_newer_one,
    no_flush_vouches_for_a_dead_connection,
    a_connection_that_dies_with_nothing_to_flush_is_passed_over,
    a_flush_tells_of_a_server_that_forgot [FORGETS],
    the_end_of_a_pool_tells_of_a_dead_connection,
}

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(50));

/// Waits until a pool has so many connections.
fn grown(pool: &dyn Pool, size: usize) {
    let end = Instant::now() + LONG;
    while pool.alive() < size {
        assert!(Instant::now() < end, "{} of {size} connections", pool.alive());
        thread::yield_now();
    }
}

fn all_connections_lead_to_the_same(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let pool = fixture.beyond().pool(&how(&server.uri(), as_is), None, 4)?;
    for index in 0..40 {
        let data = noise(4096, index);
        pool.write(index << 12, &data)?;
        assert_eq!(pool.read(index << 12, 4096)?, data);
    }
    grown(&*pool, 4);
    pool.flush()?;
    for index in 0..40 {
        assert_eq!(pool.read(index << 12, 4096)?, noise(4096, index));
    }
    assert_eq!(pool.alive(), 4);
    pool.disconnect()?;
    Ok(())
}

fn no_room_for_more_is_no_failure(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&["--filter=limit", "memory", "1M", "limit=1"])?;
    let pool = fixture.beyond().pool(&how(&server.uri(), as_is), None, 4)?;
    for _ in 0..10 {
        pool.write(0, &[1; 512])?;
        pool.flush()?;
    }
    assert_eq!(pool.alive(), 1);
    pool.disconnect()?;
    Ok(())
}

/// The second connection is accepted, and then nobody says anything: as a server does whose
/// clients are enough.
fn one_that_is_never_greeted_holds_up_nothing(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(1);
    let pool = fixture.beyond().pool(&how(&relay.uri(&server.uri()), as_is), None, 4)?;
    let end = Instant::now() + LONG;
    pool.write(0, &[1; 512])?;
    while relay.connections() < 2 {
        pool.flush()?;
        assert_eq!(pool.alive(), 1);
        assert!(Instant::now() < end, "no other connection is tried");
    }
    assert_eq!(pool.read(0, 512)?, [1; 512]);
    pool.disconnect()?;
    Ok(())
}

fn an_older_write_is_not_put_over_a_newer_one(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let policy = POLICY.keep_unflushed(1 << 20);
    let pool = fixture.beyond().pool(&how(&relay.uri(&server.uri()), as_is), Some(policy), 2)?;
    for round in 0..5_u8 {
        pool.write(0, &[2 * round + 1; 512])?;
        pool.write(0, &[2 * round + 2; 512])?;
        relay.cut(relay.connections() - 1);
        for _ in 0..4 {
            assert_eq!(pool.read(0, 512)?, [2 * round + 2; 512], "an older write is back");
        }
    }
    pool.flush()?;
    pool.disconnect()?;
    Ok(())
}

fn no_flush_vouches_for_a_dead_connection(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let pool = fixture.beyond().pool(&how(&relay.uri(&server.uri()), as_is), None, 2)?;
    grown(&*pool, 2);
    // On each of them, whichever takes what.
    for index in 0..4 {
        pool.write(index * 512, &[1; 512])?;
    }
    pool.flush()?;
    for index in 0..4 {
        pool.write(index * 512, &[2; 512])?;
    }
    relay.cut(0);
    failed(pool.flush());
    pool.flush()?;
    assert_eq!(pool.read(0, 512)?, [2; 512]);
    assert_eq!(pool.alive(), 1);
    pool.disconnect()?;
    Ok(())
}

fn a_connection_that_dies_with_nothing_to_flush_is_passed_over(
    fixture: &mut Fixture<'_>,
) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let relay = server.relayed(usize::MAX);
    let pool = fixture.beyond().pool(&how(&relay.uri(&server.uri()), as_is), None, 2)?;
    grown(&*pool, 2);
    pool.write(0, &[1; 512])?;
    pool.flush()?;
    relay.cut(0);
    pool.flush()?;
    assert_eq!(pool.read(0, 512)?, [1; 512]);
    pool.disconnect()?;
    Ok(())
}

fn a_flush_tells_of_a_server_that_forgot(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut server = fixture.site.start(Disk::Sized(1 << 20))?;
    let pool = fixture.beyond().pool(&how(&server.uri(), as_is), Some(POLICY), 3)?;
    grown(&*pool, 3);
    pool.write(0, &[7; 512])?;
    server.server.kill();
    server.server.start_again()?;
    let failure = failed(pool.flush());
    assert_eq!(failure.errno, Errno::Io.to_linux(), "{failure}");
    pool.flush()?;
    assert_eq!(pool.read(0, 512)?, [0; 512]);
    pool.disconnect()?;
    Ok(())
}

fn the_end_of_a_pool_tells_of_a_dead_connection(fixture: &mut Fixture<'_>) -> CaseResult {
    for flushed in [true, false] {
        let server = fixture.site.start(Disk::Sized(1 << 20))?;
        let relay = server.relayed(usize::MAX);
        let pool = fixture.beyond().pool(&how(&relay.uri(&server.uri()), as_is), None, 2)?;
        grown(&*pool, 2);
        for index in 0..4 {
            pool.write(index * 512, &[1; 512])?;
        }
        if flushed {
            pool.flush()?;
        }
        relay.cut(0);
        // Found out by whoever comes upon it.
        for _ in 0..4 {
            pool.read(0, 512)?;
        }
        assert_eq!(pool.disconnect().is_ok(), flushed);
    }
    Ok(())
}
