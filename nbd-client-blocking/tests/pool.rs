//! Several connections to one export, and threads that share them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{CommandFlags, SubmitError, TransmissionFlags};
use nbd_client_blocking::session::replay::{Reconnect, RecoveryError};
use nbd_client_blocking::{Client, ConnectOptions, Error, Pool};
use nbd_sim::hostile::bytes::FLAGS;
use nbd_sim::peer::Server;
use nbd_sim::scripted::{Life, Scripted};
use rustix::net::{Shutdown, shutdown};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn options() -> ConnectOptions {
    ConnectOptions::new()
        .connect_timeout(LONG)
        .request_timeout(LONG)
        .meta_context("base:allocation")
}

fn to(server: &Server) -> ConnectOptions {
    options().uri(&server.uri()).expect("a sound URI")
}

fn pool(server: &Server, size: usize) -> Pool {
    let pool = Pool::connect(to(server), size).expect("connect");
    until("all are there", || pool.alive() == size);
    pool
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a server sees when a client vanishes, and the client when a server does.
fn cut(client: &Client) {
    shutdown(&client.connection().unwrap().stream, Shutdown::Both).unwrap();
}

#[test]
fn many_threads_use_all_connections() {
    let server = nbdkit(&["memory", "16M"]);
    let pool = pool(&server, 4);
    assert_eq!(pool.alive(), 4);
    thread::scope(|scope| {
        for part in 0..16u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..50u64 {
                    let at = (part << 20) + round * 4096;
                    let data = vec![(part * 50 + round) as u8; 4096];
                    pool.write_all_at(&data, at).unwrap();
                    let mut back = vec![0; 4096];
                    pool.read_exact_at(&mut back, at).unwrap();
                    assert!(back == data, "part {part}, round {round}");
                }
            });
        }
    });
    pool.flush().unwrap();
    let messages = |client: &Client| client.session().stats().wire.messages_received;
    let clients: Vec<_> = (0..4).map(|_| pool.client().unwrap()).collect();
    assert!(pool.try_client().is_none());
    let before: Vec<_> = clients.iter().map(|client| messages(client)).collect();
    drop(clients);
    // Calls take turns even when one connection would do.
    for _ in 0..8 {
        pool.read_exact_at(&mut [0; 512], 0).unwrap();
    }
    let clients: Vec<_> = (0..4).map(|_| pool.client().unwrap()).collect();
    assert!(clients.iter().map(|client| messages(client) - 2).eq(before));
    let before: Vec<_> = clients.iter().map(|client| messages(client)).collect();
    drop(clients);
    // Nothing was written since, by any of them, and one flush will do.
    pool.flush().unwrap();
    let clients: Vec<_> = (0..4).map(|_| pool.client().unwrap()).collect();
    let after = clients.iter().map(|client| messages(client)).sum::<u64>();
    assert_eq!(after, before.iter().sum::<u64>() + 1);
    drop(clients);
    assert!(pool.try_client().is_some());
    pool.disconnect().unwrap();
}

#[test]
fn every_command_goes_through_a_pool() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    pool.write_all_at_with(&[1; 65536], 0, CommandFlags::FUA).unwrap();
    pool.write_zeroes(4096, 4096, CommandFlags::NO_HOLE).unwrap();
    pool.trim(8192, 4096).unwrap();
    pool.cache(0, 65536).unwrap();
    pool.flush().unwrap();
    let mut back = [9; 16384];
    pool.read_exact_at(&mut back, 0).unwrap();
    let (data, zeroes) = ([1; 4096], [0; 4096]);
    assert!(back.chunks(4096).eq([data, zeroes, zeroes, data].iter().map(|page| &page[..])));
    let known = pool.block_status(0, 1 << 20, CommandFlags::empty()).unwrap();
    assert!(known.iter().any(|(_, extent)| extent.length > 0));
    let error = pool.read_exact_at(&mut [0], 1 << 20).unwrap_err();
    assert!(
        error.submit_error() == Some(SubmitError::OutOfBounds),
        "refused, and no reason to try again: {error}"
    );
    assert_eq!(pool.alive(), 2);
    pool.disconnect().unwrap();
}

#[test]
fn one_connection_where_more_are_not_safe() {
    let server = nbdkit(&["--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"]);
    let one = Pool::connect(to(&server), 3).unwrap();
    assert_eq!(one.alive(), 1);
    one.write_all_at(&[9; 512], 0).unwrap();
    one.flush().unwrap();
    // What was connected by hand is no safer; nor are two exports one.
    let client = |server: &Server| options().uri(&server.uri()).and_then(Client::connect).unwrap();
    let by_hand = Pool::new(vec![client(&server), client(&server)]);
    assert_eq!(by_hand.alive(), 1);
    let (small, large) = (nbdkit(&["memory", "1M"]), nbdkit(&["memory", "2M"]));
    let mixed = Pool::new(vec![client(&small), client(&large)]);
    assert_eq!(mixed.alive(), 1);
    assert_eq!(mixed.negotiated().export.as_ref().unwrap().size, 1 << 20);
}

#[test]
fn a_pool_of_none_is_an_error() {
    let pool = Pool::new(Vec::new());
    assert!(pool.try_client().is_none());
    assert!(pool.client().unwrap_err().is_closed());
    assert_eq!(pool.flush().unwrap_err().errno(), 107);
    pool.disconnect().unwrap();
}

#[test]
fn the_death_of_a_connection_costs_one_write() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 3);
    pool.write_all_at(&[7; 4096], 0).unwrap();
    pool.flush().unwrap();
    let first = pool.client().unwrap();
    let second = pool.client().unwrap();
    let third = pool.client().unwrap();
    let sockets = [&first, &second]
        .map(|client| rustix::io::dup(&client.connection().unwrap().stream).unwrap());
    let taken = || until("taken", || pool.try_client().is_none());
    let read = || {
        let mut back = [0; 4096];
        pool.read_exact_at(&mut back, 0)?;
        assert!(back == [7; 4096]);
        Ok::<(), Error>(())
    };
    server.stop().unwrap();
    thread::scope(|scope| {
        drop(first);
        let write = scope.spawn(|| pool.write_all_at(&[8; 4096], 8192));
        taken();
        drop(second);
        let repeated = scope.spawn(read);
        taken();
        drop(third);
        let untouched = scope.spawn(read);
        taken();
        let waiting = scope.spawn(read);
        until("one in line", || pool.waiting() == 1);
        for socket in &sockets {
            shutdown(socket, Shutdown::Both).unwrap();
        }
        let error = write.join().unwrap().unwrap_err();
        assert!(error.is_closed(), "{error}");
        until("two are dead", || pool.alive() == 1);
        server.cont().unwrap();
        repeated.join().unwrap().expect("tried again on the third");
        untouched.join().unwrap().expect("not touched");
        waiting.join().unwrap().expect("waited for the third");
    });
    pool.write_all_at(&[8; 4096], 8192).unwrap();
    pool.flush().unwrap();
    assert_eq!(pool.alive(), 1);
    pool.disconnect().unwrap();
}

#[test]
fn the_death_of_the_server_fails_everybody() {
    let mut server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    server.stop().unwrap();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| pool.read_exact_at(&mut [0; 512], 0).unwrap_err()))
            .collect();
        until("six in line", || pool.waiting() == 6);
        server.kill();
        for call in calls {
            let error = call.join().unwrap();
            assert!(!error.is_timeout(), "{error}");
        }
    });
    assert_eq!(pool.alive(), 0);
    assert!(pool.client().is_err());
    assert_eq!(pool.write_all_at(&[0; 512], 0).unwrap_err().errno(), 107);
    pool.disconnect().unwrap();
}

#[test]
fn first_come_first_served() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 1);
    let held = pool.client().unwrap();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for index in 0..20 {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let _lease = pool.client().unwrap();
                order.lock().unwrap().push(index);
            });
            until("in line", || pool.waiting() == index + 1);
        }
        drop(held);
    });
    assert!(order.into_inner().unwrap().into_iter().eq(0..20));
}

#[test]
fn a_panic_costs_its_own_connection() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _lease = pool.client().unwrap();
        panic!("in the middle");
    }));
    assert!(result.is_err());
    assert_eq!(pool.alive(), 1);
    pool.read_exact_at(&mut [0; 512], 0).unwrap();
    pool.disconnect().unwrap();
}

#[test]
fn a_connection_that_died_in_its_sleep_is_passed_over() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    cut(&pool.client().unwrap());
    for _ in 0..4 {
        pool.read_exact_at(&mut [0; 512], 0).unwrap();
        pool.flush().unwrap();
    }
    assert_eq!(pool.alive(), 1);
}

#[test]
fn a_ping_finds_who_died() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 3);
    assert_eq!(pool.ping(), 3);
    let busy = pool.client().unwrap();
    cut(&pool.client().unwrap());
    assert_eq!(pool.ping(), 2);
    drop(busy);
    // A server that answers with an error is there; an export of no bytes is not asked.
    let broken = nbdkit(&["--filter=error", "memory", "1M", "error-pread-rate=100%"]);
    let mut client = options().uri(&broken.uri()).and_then(Client::connect).unwrap();
    assert!(client.ping().unwrap_err().command_failure().is_some());
    let mut client =
        options().uri(&nbdkit(&["null", "0"]).uri()).and_then(Client::connect).unwrap();
    client.ping().unwrap();
}

#[test]
fn a_slow_server_times_out_one_call_and_keeps_the_connection() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    for mut client in [pool.client().unwrap(), pool.client().unwrap()] {
        client.set_request_timeout(Duration::from_millis(100));
    }
    server.stop().unwrap();
    let late = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let error = pool.read_exact_at(&mut [0; 512], 0).unwrap_err();
                assert!(error.is_timeout(), "{error}");
                late.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(late.into_inner(), 6);
    server.cont().unwrap();
    assert_eq!(pool.alive(), 2);
    for _ in 0..4 {
        until("an answer in time", || pool.read_exact_at(&mut [0; 512], 0).is_ok());
    }
    pool.disconnect().unwrap();
}

#[test]
fn no_room_for_more_is_no_error() {
    let server = nbdkit(&["--filter=limit", "memory", "1M", "limit=2"]);
    let pool = Pool::connect(to(&server), 4).unwrap();
    pool.write_all_at(&[1; 512], 0).unwrap();
    pool.flush().unwrap();
    until("there are as many as there is room for", || pool.alive() == 2);
    pool.read_exact_at(&mut [0; 512], 0).unwrap();
    pool.disconnect().unwrap();
}

/// The second connection is accepted, and then nobody says anything.
#[test]
fn a_pool_works_while_a_connection_is_being_made() {
    let server = Scripted::start(|_| Life {
        flags: FLAGS | TransmissionFlags::CAN_MULTI_CONN.bits(),
        ..Life::default()
    });
    let pool = Pool::connect(server.uri(), 4).unwrap();
    for _ in 0..10 {
        pool.read_exact_at(&mut [0; 512], 0).unwrap();
        pool.flush().unwrap();
    }
    assert_eq!(pool.alive(), 1);
    // Whoever goes does not wait for it either.
    pool.disconnect().unwrap();
}

#[test]
fn a_connection_that_comes_late_is_used() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = Pool::connect(to(&server), 2).unwrap();
    let first = pool.client().unwrap();
    // Waits in line for it, if need be.
    let second = pool.client().unwrap();
    assert_eq!(pool.alive(), 2);
    drop((first, second));
    pool.disconnect().unwrap();
}

#[test]
fn a_flush_does_not_vouch_for_the_writes_of_the_dead() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 3);
    pool.write_all_at(&[1; 512], 0).unwrap();
    pool.flush().unwrap();
    // Dies with nothing unflushed, which costs nothing.
    cut(&pool.client().unwrap());
    for _ in 0..3 {
        pool.read_exact_at(&mut [0; 512], 0).unwrap();
    }
    pool.flush().unwrap();
    assert_eq!(pool.alive(), 2);
    pool.write_all_at(&[2; 512], 0).unwrap();
    pool.write_all_at(&[3; 512], 0).unwrap();
    cut(&pool.client().unwrap());
    assert!(pool.flush().is_err(), "it vouches for a write that may be lost");
    pool.flush().unwrap();
    assert_eq!(pool.alive(), 1);
    pool.disconnect().unwrap();
}

#[test]
fn the_end_of_a_pool_tells_of_writes_that_may_be_lost() {
    let server = nbdkit(&["memory", "1M"]);
    let pool = pool(&server, 2);
    pool.write_all_at(&[1; 512], 0).unwrap();
    pool.write_all_at(&[2; 512], 0).unwrap();
    cut(&pool.client().unwrap());
    for _ in 0..2 {
        pool.read_exact_at(&mut [0; 512], 0).unwrap();
    }
    let error = pool.disconnect().unwrap_err();
    assert!(matches!(error.recovery(), Some(RecoveryError::UnflushedLost)), "{error}");
}

#[test]
fn where_writes_are_kept_there_is_one_connection() {
    let server = nbdkit(&["memory", "1M"]);
    let options = to(&server).reconnect(Reconnect::new().keep_unflushed(1 << 20));
    let pool = Pool::connect(&options, 2).unwrap();
    pool.write_all_at(&[1; 512], 0).unwrap();
    pool.write_all_at(&[2; 512], 0).unwrap();
    cut(&pool.client().unwrap());
    for _ in 0..4 {
        let mut back = [0; 512];
        pool.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, [2; 512], "an older write was put back over a newer one");
    }
    assert_eq!(pool.alive(), 1);
    let by_hand = || Client::connect(&options).unwrap();
    assert_eq!(Pool::new(vec![by_hand(), by_hand()]).alive(), 1);
    pool.disconnect().unwrap();
}

#[test]
fn a_flush_tells_of_what_a_restarted_server_has_forgotten() {
    let mut server = nbdkit(&["memory", "1M"]);
    let pool = Pool::connect(to(&server).reconnect(Reconnect::new()), 3).unwrap();
    until("all are there", || pool.alive() == 3);
    pool.write_all_at(&[7; 512], 0).unwrap();
    server.kill();
    server.start_again().unwrap();
    let error = pool.flush().unwrap_err();
    assert!(matches!(error.recovery(), Some(RecoveryError::UnflushedLost)), "{error}");
    pool.flush().unwrap();
    let mut back = [9; 512];
    pool.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, [0; 512]);
    pool.disconnect().unwrap();
}
