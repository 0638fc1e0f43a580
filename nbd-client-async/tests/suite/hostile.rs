//! The table of servers that break rules, over real sockets.
//!
//! The allocator counts for the whole process, so each test runs in one of its own.

use std::alloc::System;
use std::env;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::process::Command as Process;
use std::task::Poll;

use nbd_client_async::proto::{ClientConfig, Command, CommandType, TlsPolicy};
use nbd_client_async::transport::Connection;
use nbd_client_async::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_async::{Client, ConnectOptions, Error};
use nbd_sim::hostile::{
    Ask, Case, Failure, Guarded, OVERTAKEN, Played, overtake, play_scenes, play_secrets, tour,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::support::{Host, LONG};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Set in the process that runs one test alone.
const ALONE: &str = "NBD_TEST_ALONE";

/// Runs a test of this binary in a process of its own.
fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        return body();
    }
    let this = env::current_exe().expect("a test binary");
    let mut child = Process::new(this);
    let child = child.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    let output = child.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{errors}");
}

macro_rules! on_every_runtime {
    ($($name:ident $host:ident),*) => {
        $(#[test]
        fn $name() {
            use crate::support::$host;
            alone(concat!("hostile::", stringify!($name)), || {
                let tls = TlsConfig::new().connector().expect("a connector");
                let allocated = || ALLOCATOR.stats().bytes_allocated;
                tour(Some(allocated), |case, uri| $host::run(play::<$host>(&tls, case, uri)));
                play_scenes(|case, uri| $host::run(play::<$host>(&tls, case, uri)));
                play_secrets(|tls, case, uri| $host::run(play::<$host>(tls, case, uri)));
                overtake(|config, connection| $host::run(write::<$host>(config, connection)));
            });
        })*
    };
}

on_every_runtime!(
    tokio_current_thread CurrentThread,
    tokio_multi_thread MultiThread,
    smol OnSmol,
    async_std OnAsyncStd
);

/// X63: a write whose reply overtakes its payload ends with its last byte.
async fn write<H: Host>(config: &ClientConfig, connection: Connection) -> Result<(), Failure> {
    let options = ConnectOptions::new().config(config.clone());
    let options = options.connect_timeout(LONG).request_timeout(LONG);
    let client = H::on(options).connect_over(connection).await?;
    let mut write = Box::pin(client.write_all_at(vec![7; OVERTAKEN.length as usize], 0));
    let mut flush = Box::pin(client.flush());
    let written = poll_fn(|cx| {
        let written = write.as_mut().poll(cx);
        assert!(flush.as_mut().poll(cx).is_pending(), "nobody has answered it");
        written
    });
    written.await.map_err(|rejected| rejected.error.into())
}

async fn play<H: Host>(tls: &TlsConnector, case: &Case, uri: &str) -> Played {
    let mut played = Played::default();
    let patience = case.patience(case.connects_or_fails());
    let options = ConnectOptions::new()
        .tls_connector(TlsPolicy::Disable, tls.clone())
        .config(case.config.clone())
        .connect_timeout(patience)
        .request_timeout(patience);
    let connector = H::to(options, uri);
    match case.asks {
        Ask::Export => match connector.connect().await {
            Ok(client) => {
                played.connected = Some(Ok((*client.negotiated()).clone()));
                talk(case, &client, &mut played).await;
            }
            Err(error) => played.connected = Some(Err(error.into())),
        },
        Ask::Exports => {
            let exports = match connector.negotiate().await {
                Ok(mut options) => options.list().await,
                Err(error) => Err(error),
            };
            played.listed = Some(named(exports, |export| export.name));
        }
        Ask::Contexts => {
            let contexts = match connector.negotiate().await {
                Ok(mut options) => options.list_meta_contexts(&[]).await,
                Err(error) => Err(error),
            };
            played.listed = Some(named(contexts, |context| context.name));
        }
    }
    played
}

async fn talk(case: &Case, client: &Client, played: &mut Played) {
    let hasty = client.with_timeout(Some(case.patience(false)));
    let commands =
        case.commands.iter().enumerate().map(|(number, command)| {
            run(if case.answers(number) { client } else { &hasty }, *command)
        });
    for (result, buffer) in all(commands).await {
        played.answers.push(result.map_err(Failure::from));
        played.buffers.push(buffer);
    }
    let last = if case.farewell { client.clone().disconnect().await } else { client.flush().await };
    played.usable = Some(last.map_err(Failure::from));
}

/// One command of any kind, and the buffer it went with.
async fn run(client: &Client, command: Command) -> (Result<(), Error>, Guarded) {
    let buffer = Guarded::of(&command);
    match command.kind {
        CommandType::Read if command.flags.is_empty() => {
            client.read_exact_at(buffer, command.offset).await
        }
        CommandType::Read => {
            let read = client.read_structured(buffer, command.offset, command.flags).await;
            (read.0.map(drop), read.1)
        }
        CommandType::Write => {
            let data = buffer.as_ref().to_vec();
            let written = client.write_all_at_with(data, command.offset, command.flags).await;
            (written.map_err(Error::from), buffer)
        }
        _ => (client.run(command).await, buffer),
    }
}

/// All at the same time, in their order.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, result) in futures.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(value) = Pin::new(future).poll(cx) {
                *result = Some(value);
            }
        }
        match futures.iter().all(|(_, result)| result.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}

fn named<T>(list: Result<Vec<T>, Error>, name: fn(T) -> String) -> Result<Vec<String>, Failure> {
    list.map(|list| list.into_iter().map(name).collect()).map_err(Failure::from)
}
