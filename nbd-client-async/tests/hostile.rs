//! The table of servers that break rules, over real sockets.
//!
//! This is a test binary of its own with one test in it: the allocator counts for
//! the whole process.

use std::alloc::System;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use nbd_client_async::proto::{ClientConfig, Command, CommandType, TlsPolicy};
use nbd_client_async::transport::Connection;
use nbd_client_async::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_async::{Builder, Client, Error, Runtime};
use nbd_client_futures::async_std::AsyncStd;
use nbd_client_futures::smol::Smol;
use nbd_client_tokio::Tokio;
use nbd_sim::hostile::{
    Ask, Case, Failure, Guarded, OVERTAKEN, Played, overtake, play_scenes, play_secrets, tour,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(30);

#[test]
fn every_case_ends_over_a_socket_as_in_memory_on_every_runtime() {
    // What is left of a client ends with its runtime.
    on::<Tokio>(|work| current_thread().block_on(work));
    on::<Tokio>(|work| multi_thread().block_on(work));
    on::<Smol>(|work| smol::block_on(work));
    on::<AsyncStd>(|work| async_std::task::block_on(work));
}

fn current_thread() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn multi_thread() -> tokio::runtime::Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime")
}

/// What one runtime runs.
type Work<'a> = Pin<&'a mut dyn Future<Output = ()>>;

fn on<R: Runtime + Clone + Default>(run: impl Fn(Work<'_>)) {
    let played = |tls: &TlsConnector, case: &Case, uri: &str| {
        let mut played = None;
        run(pin!(async { played = Some(play::<R>(tls, case, uri).await) }));
        played.expect("it has run")
    };
    let tls = TlsConfig::new().connector().expect("a connector");
    tour(|| ALLOCATOR.stats().bytes_allocated, |case, uri| played(&tls, case, uri));
    play_scenes(|case, uri| played(&tls, case, uri));
    play_secrets(played);
    overtake(|config, connection| {
        let mut written = None;
        run(pin!(async { written = Some(write::<R>(config, connection).await) }));
        written.expect("it has run")
    });
}

/// X63: a write whose reply overtakes its payload ends with its last byte.
async fn write<R: Runtime + Clone + Default>(
    config: &ClientConfig,
    connection: Connection,
) -> Result<(), Failure> {
    let builder = Builder::<R>::new().config(config.clone()).timeout(LONG);
    let client = builder.connect_over(connection).await?;
    let mut write = Box::pin(client.write_at(0, vec![7; OVERTAKEN.length as usize]));
    let mut flush = Box::pin(client.flush());
    let written = poll_fn(|cx| {
        let written = write.as_mut().poll(cx);
        assert!(flush.as_mut().poll(cx).is_pending(), "nobody has answered it");
        written
    });
    written.await.map_err(Failure::from)
}

async fn play<R: Runtime + Clone + Default>(tls: &TlsConnector, case: &Case, uri: &str) -> Played {
    let mut played = Played::default();
    let builder = Builder::<R>::new()
        .tls(TlsPolicy::Disable, tls.clone())
        .config(case.config.clone())
        .timeout(case.patience(case.connects_or_fails()));
    match case.asks {
        Ask::Export => match builder.connect_uri(uri).await {
            Ok(client) => {
                played.connected = Some(Ok(client.negotiated().clone()));
                talk(case, &client, &mut played).await;
            }
            Err(error) => played.connected = Some(Err(error.into())),
        },
        Ask::Exports => {
            let exports = match builder.negotiate_uri(uri).await {
                Ok(mut options) => options.list().await,
                Err(error) => Err(error),
            };
            played.listed = Some(named(exports, |export| export.name));
        }
        Ask::Contexts => {
            let contexts = match builder.negotiate_uri(uri).await {
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
            client.read_into(command.offset, buffer).await
        }
        CommandType::Read => {
            let read = client.read_structured(command.offset, buffer, command.flags).await;
            (read.0.map(drop), read.1)
        }
        CommandType::Write => {
            let data = buffer.as_ref().to_vec();
            (client.write_at_with(command.offset, data, command.flags).await, buffer)
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
