//! Runtimes that end with work outstanding.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd_client_async::{
    Client, ConnectOptions, Connector, Error, ErrorKind, Reconnect, Runtime, Sleep, State, Task,
    Watched,
};
use nbd_client_futures::smol::Smol;
use nbd_client_tokio::Tokio;
use nbd_sim::peer::{Scratch, Server};

use crate::support::{Host, LONG, OnSmol, nbdkit};

/// So many commands are with the server at most; the others are in line.
const DEPTH: u32 = 4;

fn narrow(uri: &str) -> ConnectOptions {
    hurried(uri).max_in_flight(DEPTH).request_timeout(LONG)
}

fn hurried(uri: &str) -> ConnectOptions {
    patient(uri).connect_timeout(LONG)
}

fn patient(uri: &str) -> ConnectOptions {
    uri.parse().expect("a sound URI")
}

fn on_tokio(options: ConnectOptions) -> Connector<Tokio> {
    Connector::on(Tokio, options)
}

fn is_stopped(error: &Error) -> bool {
    error.kind() == ErrorKind::Stopped
}

/// Everybody who waits for a connection, each in a thread, on another runtime than that.
struct Waiters {
    server: Server,
    client: Client,
    calls: Vec<JoinHandle<Result<(), Error>>>,
    watcher: JoinHandle<State>,
}

impl Waiters {
    /// The server stands still, so that everybody waits.
    fn gather(server: Server, client: Client) -> Self {
        server.stop().expect("stop");
        let call = |index: u64| {
            let client = client.clone();
            thread::spawn(move || {
                smol::block_on(async {
                    match index % 4 {
                        0 => client.read(0, 512).await.map(drop),
                        // More than a socket takes.
                        1 => client.write_all_at(vec![1; 8 << 20], 0).await.map_err(Error::from),
                        2 => client.flush().await,
                        _ => client.read_exact_at(vec![0; 512], 512).await.0,
                    }
                })
            })
        };
        let calls = (0..16).map(call).collect();
        let watching = client.clone();
        let watcher = thread::spawn(move || smol::block_on(watching.state_change(State::Ready)));
        smol::block_on(OnSmol::until(|| client.in_flight() == 16));
        Self { server, client, calls, watcher }
    }

    /// The runtime is gone: everybody is told so, and so is whoever comes later.
    fn are_told(self) {
        for call in self.calls {
            let error = call.join().expect("no panic").expect_err("nobody is there to answer");
            assert!(is_stopped(&error), "{error:?}");
        }
        assert_eq!(self.watcher.join().expect("no panic"), State::Closed);
        let client = self.client;
        assert!(client.is_closed());
        smol::block_on(async {
            for _ in 0..2 {
                let read = client.read(0, 512).await.map(drop);
                let write = client.write_all_at(vec![0; 512], 0).await.map_err(Error::from);
                let later = [read, write, client.flush().await, client.trim(0, 512).await];
                for result in later {
                    let error = result.expect_err("it is over");
                    assert!(is_stopped(&error) && error.errno() == 107, "{error:?}");
                }
            }
            let error = client.clone().disconnect().await.expect_err("not in good order");
            assert!(is_stopped(&error), "{error:?}");
        });
        self.server.cont().expect("cont");
    }
}

fn memory() -> Server {
    nbdkit(&["memory", "16M"])
}

#[test]
fn a_runtime_of_one_thread_that_is_dropped() {
    let server = memory();
    let uri = server.uri();
    let (connected, connection) = mpsc::channel();
    let (end, ended) = smol::channel::bounded(1);
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = on_tokio(narrow(&uri)).connect().await.expect("connect");
            connected.send(client).expect("somebody waits");
            ended.recv().await.expect("the word to end");
        });
    });
    let waiters = Waiters::gather(server, connection.recv().expect("a client"));
    end.send_blocking(()).expect("it runs");
    thread.join().expect("no panic");
    waiters.are_told();
}

#[test]
fn a_runtime_of_many_threads_however_it_ends() {
    let ends: [fn(tokio::runtime::Runtime); 3] =
        [drop, tokio::runtime::Runtime::shutdown_background, |runtime| {
            runtime.shutdown_timeout(Duration::from_secs(5))
        }];
    for end in ends {
        let server = memory();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connect = async { on_tokio(narrow(&server.uri())).connect().await };
        let client = runtime.block_on(connect).expect("connect");
        let waiters = Waiters::gather(server, client);
        end(runtime);
        waiters.are_told();
    }
}

/// smol's own executor lasts as long as the program; one that does not is like this.
#[derive(Clone)]
struct Own(Arc<smol::Executor<'static>>);

impl Runtime for Own {
    fn spawn(&self, task: Task) -> io::Result<()> {
        self.0.spawn(task).detach();
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Smol.sleep_until(at)
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        Smol.watch(socket)
    }
}

/// Keeps no executor alive: it is the driver who would do so.
#[derive(Clone)]
struct Weak(std::sync::Weak<smol::Executor<'static>>);

impl Runtime for Weak {
    fn spawn(&self, task: Task) -> io::Result<()> {
        let executor = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        Own(executor).spawn(task)
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Smol.sleep_until(at)
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        Smol.watch(socket)
    }
}

#[test]
fn an_executor_of_smol_that_is_dropped() {
    let server = memory();
    let executor = Arc::new(smol::Executor::new());
    let runtime = Weak(Arc::downgrade(&executor));
    let connector = Connector::on(runtime.clone(), narrow(&server.uri()));
    let client = smol::block_on(executor.run(connector.connect()));
    let (end, ended) = smol::channel::bounded(1);
    let running = Arc::clone(&executor);
    let thread = thread::spawn(move || {
        smol::block_on(running.run(ended.recv())).expect("the word to end");
    });
    let waiters = Waiters::gather(server, client.expect("connect"));
    end.send_blocking(()).expect("it runs");
    thread.join().expect("no panic");
    drop(executor);
    waiters.are_told();
    let server = memory();
    let again = Connector::on(runtime, narrow(&server.uri()));
    let error = smol::block_on(again.connect()).expect_err("there is no executor");
    assert!(error.is_closed(), "{error:?}");
}

/// A runtime may be gone before anybody asks for anything.
#[test]
fn a_runtime_that_ended_before() {
    let server = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let connect = async { nbd_client_tokio::connect(&server.uri()).await };
    let client = runtime.block_on(connect).expect("connect");
    drop(runtime);
    let error = smol::block_on(client.read(0, 512)).expect_err("nobody sends it");
    assert!(is_stopped(&error), "{error:?}");
    smol::block_on(client.disconnect()).expect("nothing was under way, or had to be flushed");
}

#[test]
fn no_runtime_is_an_error() {
    let server = memory();
    for options in [patient(&server.uri()), hurried(&server.uri())] {
        lacks("no reactor", smol::block_on(on_tokio(options).connect()));
    }
    // A stream of one's own needs no runtime, but its silence would have no end.
    let (silent, _far) = smol::Async::<UnixStream>::pair().expect("a pair");
    let connector = on_tokio(ConnectOptions::new().connect_timeout(LONG));
    lacks("no reactor", smol::block_on(connector.connect_over(silent)));
}

/// Whether it fails for want of something, and says of what.
#[track_caller]
fn lacks<T: Debug>(what: &str, result: Result<T, Error>) {
    let error = result.expect_err("the runtime lacks something");
    assert!(error.to_string().contains(what), "{error}");
}

/// What needs no timer works; what needs one fails, and neither panics nor waits for ever.
#[test]
fn a_runtime_without_timers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("a runtime").block_on(async {
        let server = memory();
        let client = on_tokio(patient(&server.uri())).connect().await.expect("connect");
        assert_eq!(client.read(0, 512).await.expect("a read").len(), 512);
        server.stop().expect("stop");
        let other = client.clone();
        let waits = tokio::spawn(async move { other.read(0, 512).await });
        lacks("enable_time", client.clone().with_timeout(Some(LONG)).read(0, 512).await);
        lacks("enable_time", waits.await.expect("no panic"));
        server.cont().expect("cont");

        // Another one: nbdkit 1.32 can fail an assertion of its own when clients vanish.
        let server = memory();
        let client = on_tokio(patient(&server.uri())).connect().await.expect("connect");
        client.disconnect().await.expect("a good end");
        // Its end is not waited for.
        drop(on_tokio(patient(&server.uri())).connect().await.expect("connect"));
        server.stop().expect("stop");
        lacks("enable_time", on_tokio(hurried(&server.uri())).connect().await);
        server.cont().expect("cont");

        let mut server = memory();
        let connector = on_tokio(patient(&server.uri()).reconnect(Reconnect::new()));
        let client = connector.connect().await.expect("connect");
        server.kill();
        lacks("enable_time", client.read(0, 512).await);
    });
}

#[test]
fn a_runtime_without_sockets() {
    let server = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let connect = async { on_tokio(hurried(&server.uri())).connect().await };
    lacks("enable_io", runtime.expect("a runtime").block_on(connect));
}

/// Whoever waits for a connection in a thread of its own does so in vain: the server is silent,
/// before or after its greeting, and the runtime ends. Over and over, as tokio stops its timers
/// and its sockets one after the other.
#[test]
fn a_runtime_that_ends_while_connecting() {
    let scratch = Scratch::new().expect("a temporary directory");
    let listener = UnixListener::bind(scratch.join("s")).expect("a socket that listens");
    let uri = format!("nbd+unix:///?socket={}", scratch.join("s").display());
    for round in 0..60 {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (handle, uri) = (runtime.handle().clone(), uri.clone());
        let waiter =
            thread::spawn(move || handle.block_on(on_tokio(hurried(&uri)).connect()).map(drop));
        let (mut server, _) = listener.accept().expect("somebody who connects");
        if round % 2 > 0 {
            server.write_all(b"NBDMAGICIHAVEOPT\0\x03").expect("a greeting");
            server.read_exact(&mut [0; 8]).expect("an answer");
        }
        runtime.shutdown_background();
        let error = waiter.join().expect("no panic").expect_err("nobody is there to answer");
        assert!(error.is_closed(), "{error:?}");
    }
}
