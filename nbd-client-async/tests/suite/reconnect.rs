//! Connections that are lost and made again, with servers that are killed.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::support::{Host, LONG, cause, is_timeout, on_every_runtime, once, options};
use nbd_client_async::proto::{Command, Errno};
use nbd_client_async::session::replay::{Changed, RecoveryError};
use nbd_client_async::transport::{CommandSpec, Connection, Endpoint};
use nbd_client_async::{Client, ErrorKind, Reconnect, State};
use nbd_sim::peer::{Scratch, nbd_program, tool};
use nbd_sim::rng::noise;

on_every_runtime! {
    data_survives_a_server_that_is_killed_again_and_again,
    nothing_acknowledged_is_lost_with_a_servers_memory,
    a_flush_tells_once_of_what_may_be_lost,
    time_goes_on_while_nobody_is_there,
    patience_has_an_end,
    a_command_that_kills_every_server_is_sent_to_each,
    a_changed_export_ends_it,
    what_is_no_server_is_left_at_once,
    a_stream_is_made_again_by_whoever_made_it,
    a_panic_in_the_way_to_connect_ends_it,
    a_stream_that_is_shut_down_is_made_again,
    a_disconnect_waits_until_all_is_put_back,
    a_pool_keeps_its_word,
    who_gave_up_waiting_leaves_nothing_behind,
}

const SIZE: usize = 1 << 20;

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(20)).max_delay(Duration::from_millis(100));

/// Who serves.
enum Kind {
    /// nbdkit, with these arguments.
    Nbdkit(Vec<String>),
    /// `nbd serve`, with these arguments.
    Ours(Vec<String>),
}

/// A server that can be killed and started again in the same place.
struct Phoenix {
    scratch: Scratch,
    kind: Kind,
    child: Option<Child>,
}

impl Phoenix {
    /// A file survives.
    fn with_file() -> Self {
        Self::new(|disk| Kind::Nbdkit(vec!["file".to_owned(), disk]))
    }

    fn ours_with_file() -> Self {
        Self::new(|disk| Kind::Ours(vec!["--file".to_owned(), disk]))
    }

    /// Memory does not.
    fn with_memory() -> Self {
        Self::new(|_| Kind::Nbdkit(vec!["memory".to_owned(), SIZE.to_string()]))
    }

    fn ours_with_memory() -> Self {
        Self::new(|_| Kind::Ours(vec!["--memory".to_owned(), SIZE.to_string()]))
    }

    fn new(kind: impl FnOnce(String) -> Kind) -> Self {
        let scratch = Scratch::new().unwrap();
        let disk = scratch.raw_image("disk", SIZE as u64).unwrap();
        let kind = kind(disk.display().to_string());
        let mut server = Self { scratch, kind, child: None };
        server.start(&[]);
        server
    }

    fn socket(&self) -> PathBuf {
        self.scratch.join("socket")
    }

    fn disk(&self) -> PathBuf {
        self.scratch.join("disk")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn start(&mut self, options: &[&str]) {
        self.kill();
        let _ = fs::remove_file(self.socket());
        let mut program: Program;
        match &self.kind {
            Kind::Nbdkit(plugin) => {
                program = tool("nbdkit").unwrap();
                program.args(["--foreground", "--exit-with-parent", "--unix"]).arg(self.socket());
                program.args(options).args(plugin);
            }
            Kind::Ours(arguments) => {
                program = Program::new(nbd_program().unwrap());
                program.args(["serve", "--unix"]).arg(self.socket()).args(arguments);
            }
        }
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(program.spawn().unwrap());
        let end = Instant::now() + LONG;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "the server does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    async fn client<H: Host>(&self, policy: Reconnect) -> Client {
        H::to(options().reconnect(policy), &self.uri()).connect().await.unwrap()
    }

    async fn lost_by<H: Host>(&mut self, client: &Client) {
        self.kill();
        H::until(|| client.state() != State::Ready).await;
    }
}

impl Drop for Phoenix {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn data_survives_a_server_that_is_killed_again_and_again<H: Host>() {
    under_fire::<H>(Phoenix::with_file()).await;
    under_fire::<H>(Phoenix::ours_with_file()).await;
}

/// Four tasks write and check, each in a part of its own, while the server dies.
async fn under_fire<H: Host>(mut server: Phoenix) {
    let client = server.client::<H>(POLICY.keep_unflushed(1 << 18)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (client, stop, rounds) = (client.clone(), stop.clone(), rounds.clone());
            H::spawn(async move {
                let part = (worker * SIZE / 4) as u64;
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let data = noise(20_000, (worker * 1000 + round) as u64);
                    let at = part + (round * 4096 % (SIZE / 8)) as u64;
                    client.write_all_at(data.clone(), at).await.unwrap();
                    if round.is_multiple_of(10) {
                        client.flush().await.unwrap();
                    }
                    assert!(client.read(at, data.len()).await.unwrap() == data);
                    round += 1;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..4 {
        let before = rounds.load(Ordering::Relaxed);
        H::until(|| rounds.load(Ordering::Relaxed) > before + 20).await;
        server.kill();
        server.start(&[]);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await;
    }
    H::until(|| client.stats().reconnects() >= 4).await;
    assert_eq!(client.state(), State::Ready);
    client.disconnect().await.unwrap();
}

async fn nothing_acknowledged_is_lost_with_a_servers_memory<H: Host>() {
    memory_comes_back::<H>(Phoenix::with_memory()).await;
    memory_comes_back::<H>(Phoenix::ours_with_memory()).await;
}

/// Everything that was not flushed is gone with the server, and is there again.
async fn memory_comes_back<H: Host>(mut server: Phoenix) {
    let client = server.client::<H>(POLICY.keep_unflushed(SIZE as u64 * 4)).await;
    let mut disk = noise(SIZE, 5);
    client.write_all_at(disk.clone(), 0).await.unwrap();
    for round in 0..3_usize {
        let (at, patch) = (round * 1000 + 17, noise(5000, round as u64));
        client.write_all_at(patch.clone(), at as u64).await.unwrap();
        disk[at..at + patch.len()].copy_from_slice(&patch);
        client.write_zeroes(60_000, 4096, Default::default()).await.unwrap();
        disk[60_000..64_096].fill(0);
        server.start(&[]);
        let found = client.read(0, SIZE).await.unwrap();
        assert!(found == disk, "round {round}");
        assert_eq!(client.stats().reconnects(), round as u64 + 1);
    }
    client.disconnect().await.unwrap();
}

async fn a_flush_tells_once_of_what_may_be_lost<H: Host>() {
    let mut server = Phoenix::with_memory();
    let client = server.client::<H>(POLICY).await;
    client.write_all_at(vec![1; 512], 0).await.unwrap();
    client.flush().await.unwrap();
    server.start(&[]);
    client.flush().await.unwrap();
    client.write_all_at(vec![1; 512], 0).await.unwrap();
    server.start(&[]);
    let error = client.flush().await.unwrap_err();
    assert_eq!(error.recovery(), Some(&RecoveryError::UnflushedLost), "{error}");
    assert_eq!(error.errno(), Errno::Io.to_linux());
    client.flush().await.unwrap();
    client.disconnect().await.unwrap();
}

async fn time_goes_on_while_nobody_is_there<H: Host>() {
    let mut server = Phoenix::with_file();
    let options = options().max_in_flight(2).reconnect(POLICY);
    let client = H::to(options, &server.uri()).connect().await.unwrap();
    client.write_all_at(noise(4096, 9), 0).await.unwrap();
    server.lost_by::<H>(&client).await;
    assert_eq!(client.state(), State::Reconnecting);
    let hasty = client.with_timeout(Some(Duration::from_millis(50)));
    let read = hasty.read(0, 512).await;
    assert!(is_timeout(&read), "{read:?}");
    assert!(read.unwrap_err().to_string().contains("reconnecting"));
    // What is wrong with a command is told as ever.
    let wrong = client.run(Command::read(0, 512)).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::NotSent, "{wrong}");
    // What waits is bounded, but for those who say that they wait in line.
    let mut reads: Vec<_> = (0..3).map(|_| Box::pin(client.read(0, 4096))).collect();
    for read in &mut reads {
        assert!(once(read).await.is_pending());
    }
    let full = client.fail_when_full().read(0, 512).await.unwrap_err();
    assert!(full.is_full(), "{full}");
    // Dropping gives the place to the next.
    drop(reads.remove(0));
    let watcher = client.clone();
    let watched = H::spawn(async move { watcher.state_change(State::Reconnecting).await });
    server.start(&[]);
    assert_eq!(watched.await, State::Ready);
    for read in reads {
        assert!(read.await.unwrap() == noise(4096, 9));
    }
    assert_eq!((client.in_flight(), client.stats().reconnects()), (0, 1));
    client.disconnect().await.unwrap();
}

/// That it is tried as long as that, and how often, is for the session's tests to say, where
/// time is a value.
async fn patience_has_an_end<H: Host>() {
    let patience = Duration::from_millis(300);
    let mut server = Phoenix::with_file();
    let client = server.client::<H>(POLICY.give_up_after(patience)).await;
    let start = Instant::now();
    server.kill();
    let (one, two) = (client.read(0, 512), client.write_all_at(vec![1; 512], 0));
    let error = one.await.unwrap_err();
    let cause = cause(&error);
    // The last attempt, or the loss itself when there was no time for any.
    assert!(start.elapsed() >= patience && cause.is_transient(), "{cause}");
    assert!(two.await.is_err());
    assert_eq!(client.state(), State::Closed);
    assert!(client.is_closed());
}

/// Connecting succeeds each time, and is of no use.
async fn a_command_that_kills_every_server_is_sent_to_each<H: Host>() {
    // What is killed leaves its directory behind.
    let fatal = "pread=rm -r \"$tmpdir\"; kill -9 $PPID";
    let arguments = ["-s", "eval", "get_size=echo 1048576", "pwrite=cat >/dev/null", fatal];
    let endpoint = Endpoint::Command(CommandSpec::new("nbdkit", arguments));
    let options = options().request_timeout(None).reconnect(POLICY.give_up_after(LONG * 60));
    let client = H::on(options.endpoint(endpoint)).connect().await.unwrap();
    let first = client.peer_pid().unwrap();
    client.write_all_at(vec![1; 512], 0).await.unwrap();
    let mut read = Box::pin(client.read(0, 512));
    assert!(once(&mut read).await.is_pending());
    H::until(|| client.stats().reconnects() >= 3).await;
    assert!(once(&mut read).await.is_pending());
    assert_ne!(client.peer_pid(), Some(first));
    // Nobody wants it any more, so the next server lives.
    drop(read);
    H::until(|| client.state() == State::Ready && client.in_flight() == 0).await;
    client.write_all_at(vec![2; 512], 0).await.unwrap();
}

async fn a_changed_export_ends_it<H: Host>() {
    let mut server = Phoenix::with_file();
    let client = server.client::<H>(POLICY).await;
    server.lost_by::<H>(&client).await;
    let disk = OpenOptions::new().write(true).open(server.disk()).unwrap();
    disk.set_len(SIZE as u64 / 2).unwrap();
    server.start(&[]);
    let error = client.read(0, 512).await.unwrap_err();
    let (was, is) = (SIZE as u64, SIZE as u64 / 2);
    let size = RecoveryError::Changed(Changed::Size { was, is });
    assert_eq!(error.recovery(), Some(&size), "{error}");
    assert!(client.is_closed());
    // Another client, another change: reads would do, but writes were promised.
    let client = server.client::<H>(POLICY).await;
    server.lost_by::<H>(&client).await;
    server.start(&["--readonly"]);
    let error = client.read(0, 512).await.unwrap_err();
    let told = RecoveryError::Changed(Changed::ReadOnly);
    assert_eq!(error.recovery(), Some(&told), "{error}");
}

/// Whoever listens in the server's place after its end says this.
async fn what_is_no_server_is_left_at_once<H: Host>() {
    let mut server = Phoenix::with_file();
    let client = server.client::<H>(POLICY).await;
    server.lost_by::<H>(&client).await;
    let _ = fs::remove_file(server.socket());
    let listener = std::os::unix::net::UnixListener::bind(server.socket()).unwrap();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    let host = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(b"220 mail.example ESMTP, at your service\r\n").is_ok() {
                let _ = stream.read_to_end(&mut Vec::new());
            }
            if counted.load(Ordering::Relaxed) == 2 {
                return;
            }
        }
    });
    let error = client.read(0, 512).await.unwrap_err();
    let cause = cause(&error);
    assert_eq!(cause.kind(), ErrorKind::Protocol, "{cause}");
    assert_eq!(visits.load(Ordering::Relaxed), 1);
    drop(UnixStream::connect(server.socket()));
    host.join().unwrap();
}

async fn a_stream_is_made_again_by_whoever_made_it<H: Host>() {
    let mut server = Phoenix::with_file();
    let socket = UnixStream::connect(server.socket()).unwrap();
    let connection = Connection::from_socket(socket.into()).unwrap();
    let handed = H::on(options().reconnect(POLICY)).connect_over(connection).await.unwrap_err();
    assert_eq!(handed.recovery(), Some(&RecoveryError::NoWayBack), "{handed}");
    let (path, dials) = (server.socket(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&dials);
    let dial = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let path = path.clone();
        async move { smol::net::unix::UnixStream::connect(path).await }
    };
    // It is the only one to connect, whatever server the options name.
    let options = options().unix("/nobody").reconnect(POLICY);
    let client = H::on(options).connect_with(dial).await.unwrap();
    client.write_all_at(vec![3; 512], 0).await.unwrap();
    server.start(&[]);
    assert!(client.read(0, 512).await.unwrap() == vec![3; 512]);
    assert!(dials.load(Ordering::Relaxed) >= 2);
    client.disconnect().await.unwrap();
}

/// Whoever waits for a connection is told when making it panics.
async fn a_panic_in_the_way_to_connect_ends_it<H: Host>() {
    let mut server = Phoenix::with_file();
    let (path, first) = (server.socket(), AtomicBool::new(true));
    let dial = move || {
        assert!(first.swap(false, Ordering::Relaxed), "the caller's own panic");
        smol::net::unix::UnixStream::connect(path.clone())
    };
    let client = H::on(options().reconnect(POLICY)).connect_with(dial).await.unwrap();
    server.start(&[]);
    let other = client.clone();
    let waits = H::spawn(async move { other.read(0, 512).await });
    H::until(|| client.is_closed()).await;
    for error in [waits.await.unwrap_err(), client.read(0, 512).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    }
}

/// Whichever way it still goes.
async fn a_stream_that_is_shut_down_is_made_again<H: Host>() {
    let server = Phoenix::ours_with_file();
    let (path, last) = (server.socket(), Arc::new(Mutex::new(None)));
    let kept = Arc::clone(&last);
    let dial = move || {
        let (path, kept) = (path.clone(), Arc::clone(&kept));
        async move {
            let stream = UnixStream::connect(path)?;
            *kept.lock().unwrap() = Some(stream.try_clone()?);
            smol::Async::new(stream)
        }
    };
    let client = H::on(options().reconnect(POLICY)).connect_with(dial).await.unwrap();
    for (round, how) in [Shutdown::Write, Shutdown::Read, Shutdown::Both].into_iter().enumerate() {
        client.write_all_at(vec![round as u8; 512], 0).await.unwrap();
        last.lock().unwrap().take().unwrap().shutdown(how).unwrap();
        client.write_all_at(vec![round as u8; 512], 512).await.unwrap();
        assert!(client.read(0, 1024).await.unwrap() == vec![round as u8; 1024]);
        assert_eq!(client.stats().reconnects(), round as u64 + 1);
    }
    client.disconnect().await.unwrap();
}

async fn a_disconnect_waits_until_all_is_put_back<H: Host>() {
    let mut server = Phoenix::with_memory();
    let client = server.client::<H>(POLICY.keep_unflushed(1 << 20)).await;
    client.write_all_at(vec![7; 4096], 0).await.unwrap();
    server.lost_by::<H>(&client).await;
    let mut leaving = Box::pin(client.disconnect());
    assert!(once(&mut leaving).await.is_pending());
    server.start(&[]);
    leaving.await.unwrap();
    let other = H::to(options(), &server.uri()).connect().await.unwrap();
    assert!(other.read(0, 4096).await.unwrap() == vec![7; 4096]);
    // And so does the last handle that goes.
    let client = server.client::<H>(POLICY.keep_unflushed(1 << 20)).await;
    client.write_all_at(vec![8; 4096], 0).await.unwrap();
    server.lost_by::<H>(&client).await;
    drop(client);
    server.start(&[]);
    let other = H::to(options(), &server.uri()).connect().await.unwrap();
    let end = Instant::now() + LONG;
    while other.read(0, 4096).await.unwrap() != vec![8; 4096] {
        assert!(Instant::now() < end, "what was acknowledged is lost");
        H::pause(Duration::from_millis(5)).await;
    }
}

async fn a_pool_keeps_its_word<H: Host>() {
    let mut server = Phoenix::with_memory();
    let keeping = options().reconnect(POLICY.keep_unflushed(1 << 20));
    let pool = H::to(keeping, &server.uri()).connect_pool(3).await.unwrap();
    assert_eq!(pool.clients().len(), 1);
    let pool = H::to(options().reconnect(POLICY), &server.uri()).connect_pool(3).await.unwrap();
    H::until(|| pool.clients().len() == 3).await;
    // The write was on one connection; a flush on another one alone would know nothing.
    pool.clients()[2].write_all_at(vec![1; 512], 0).await.unwrap();
    server.start(&[]);
    let error = pool.flush().await.unwrap_err();
    assert_eq!(error.recovery(), Some(&RecoveryError::UnflushedLost), "{error}");
    pool.flush().await.unwrap();
    assert!(pool.read(0, 512).await.unwrap() == vec![0; 512]);
    pool.disconnect().await.unwrap();
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn who_gave_up_waiting_leaves_nothing_behind<H: Host>() {
    let mut server = Phoenix::with_memory();
    let client = server.client::<H>(POLICY).await;
    let (before, woken) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let (first, second) = (Waker::from(Arc::clone(&before)), Waker::from(Arc::clone(&woken)));
    for _ in 0..100 {
        // It goes from one task to another before it is dropped.
        let mut change = Box::pin(client.state_change(State::Ready));
        assert!(change.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
        assert!(change.as_mut().poll(&mut Context::from_waker(&second)).is_pending());
    }
    assert_eq!((Arc::strong_count(&before), Arc::strong_count(&woken)), (2, 2));
    // Who still waits is woken, and where it was polled last.
    let mut change = Box::pin(client.state_change(State::Ready));
    assert!(change.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
    assert!(change.as_mut().poll(&mut Context::from_waker(&second)).is_pending());
    server.lost_by::<H>(&client).await;
    // The state can be seen before all have been woken.
    H::until(|| woken.0.load(Ordering::SeqCst) == 1).await;
    assert_eq!(change.await, State::Reconnecting);
    H::until(|| (Arc::strong_count(&before), Arc::strong_count(&woken)) == (2, 2)).await;
    assert_eq!((before.0.load(Ordering::SeqCst), woken.0.load(Ordering::SeqCst)), (0, 1));
    server.start(&[]);
}
