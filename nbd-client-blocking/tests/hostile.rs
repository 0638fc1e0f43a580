//! The table of servers that break rules, over real sockets.
//!
//! This is a test binary of its own with one test in it: the allocator counts for
//! the whole process.

use std::alloc::System;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nbd_client_blocking::session::replay::Reconnect;
use nbd_client_blocking::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_blocking::{Client, Completion, ConnectOptions, Error, Options, Woken};
use nbd_proto::{ClientConfig, Command, CommandType, TlsPolicy};
use nbd_sim::hostile::{
    Ask, Case, Failure, Guarded, OVERTAKEN, Played, overtake, play_scenes, play_secrets, tour,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(10);

#[test]
fn every_case_ends_over_a_socket_as_in_memory() {
    let tls = TlsConfig::new().connector().expect("a connector");
    tour(Some(|| ALLOCATOR.stats().bytes_allocated), |case, uri| play(&tls, case, uri));
    play_scenes(|case, uri| play(&tls, case, uri));
    play_secrets(play);
    a_write_whose_reply_overtakes_its_payload_ends_with_its_last_byte();
}

/// X63, however it is waited for.
fn a_write_whose_reply_overtakes_its_payload_ends_with_its_last_byte() {
    let connect = |config: &ClientConfig, connection| {
        let options = ConnectOptions::new()
            .config(config.clone())
            .connect_timeout(LONG)
            .request_timeout(LONG);
        Client::connect_over(options, connection).map_err(Failure::from)
    };
    let data = || vec![7; OVERTAKEN.length as usize];
    overtake(|config, connection| {
        let mut client = connect(config, connection)?;
        let mut pipeline = client.pipeline();
        let id = pipeline.submit(OVERTAKEN, Some(data())).map_err(Error::from)?;
        pipeline.submit(Command::flush(), None).map_err(Error::from)?;
        let done = pipeline.wait().expect("a command is in flight");
        assert_eq!(done.id, id);
        done.result.map_err(Failure::from)
    });
    overtake(|config, connection| {
        let mut client = connect(config, connection)?;
        let mut pipeline = client.pipeline();
        let id = pipeline.submit(OVERTAKEN, Some(data())).map_err(Error::from)?;
        pipeline.submit(Command::flush(), None).map_err(Error::from)?;
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(done) = pipeline.take(id) {
                return done.result.map_err(Failure::from);
            }
            assert!(Instant::now() < deadline, "its end was not told");
            pipeline.poll(Some(LONG))?;
        }
    });
    // With the means to connect again, which takes other ways.
    overtake(|config, connection| {
        let once = Mutex::new(Some(connection));
        let dial = move |_| Ok(once.lock().expect("no panic").take().expect("one connection"));
        let options = ConnectOptions::new()
            .config(config.clone())
            .connect_timeout(LONG)
            .request_timeout(LONG);
        let mut client = Client::connect_with(options.reconnect(Reconnect::new()), dial)?;
        let mut pipeline = client.pipeline();
        pipeline.submit(OVERTAKEN, Some(data())).map_err(Error::from)?;
        pipeline.submit(Command::flush(), None).map_err(Error::from)?;
        let done = pipeline.wait().expect("a command is in flight");
        done.result.map_err(Failure::from)
    });
}

fn play(tls: &TlsConnector, case: &Case, uri: &str) -> Played {
    let mut played = Played::default();
    let options = ConnectOptions::new()
        .tls_connector(TlsPolicy::Disable, tls.clone())
        .config(case.config.clone())
        .connect_timeout(case.patience(case.connects_or_fails()))
        .request_timeout(case.patience(case.connects_or_fails()));
    match case.asks {
        Ask::Export => match options.uri(uri).and_then(Client::connect) {
            Ok(client) => {
                played.connected = Some(Ok(client.negotiated().clone()));
                talk(case, client, &mut played);
            }
            Err(error) => played.connected = Some(Err(error.into())),
        },
        Ask::Exports => {
            let exports =
                options.uri(uri).and_then(Options::connect).and_then(|mut options| options.list());
            played.listed = Some(named(exports, |export| export.name));
        }
        Ask::Contexts => {
            let contexts = options
                .uri(uri)
                .and_then(Options::connect)
                .and_then(|mut options| options.list_meta_contexts(&[]));
            played.listed = Some(named(contexts, |context| context.name));
        }
    }
    played
}

fn talk(case: &Case, mut client: Client, played: &mut Played) {
    let mut pipeline = client.pipeline();
    let ids: Vec<_> = case
        .commands
        .iter()
        .map(|command| {
            let buffer = has_payload(command).then(|| Guarded::of(command));
            pipeline.submit(*command, buffer).expect("a sound command")
        })
        .collect();
    played.answers = vec![Err(Failure::TimedOut); ids.len()];
    played.buffers = case.commands.iter().map(Guarded::of).collect();
    let mut ended = 0;
    let mut note = |done: Completion<Guarded>| {
        let n = ids.iter().position(|id| *id == done.id).expect("a command of ours");
        assert_eq!(played.answers[n], Err(Failure::TimedOut), "completed twice");
        played.answers[n] = done.result.map_err(Failure::from);
        if let Some(buffer) = done.buffer {
            played.buffers[n] = buffer;
        }
    };
    while ended < case.due() {
        let Some(done) = pipeline.wait() else { break };
        let late = matches!(&done.result, Err(error) if error.is_timeout());
        note(done);
        if late {
            break;
        }
        ended += 1;
    }
    // The others do not end, and are not waited for as long.
    while pipeline.in_flight() > 0
        && let Ok(Woken::Progress) = pipeline.poll(Some(case.patience(false)))
    {
        while let Some(done) = pipeline.next_completion() {
            note(done);
        }
    }
    drop(pipeline);
    let last = if case.farewell { client.disconnect() } else { client.flush() };
    played.usable = Some(last.map_err(Failure::from));
}

fn named<T>(list: Result<Vec<T>, Error>, name: fn(T) -> String) -> Result<Vec<String>, Failure> {
    list.map(|list| list.into_iter().map(name).collect()).map_err(Failure::from)
}

fn has_payload(command: &Command) -> bool {
    matches!(command.kind, CommandType::Read | CommandType::Write)
}
