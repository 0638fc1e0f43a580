//! The table of servers that break rules, over real sockets.
//!
//! This is a test binary of its own with one test in it: the allocator counts for
//! the whole process.

use std::alloc::System;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::transport::tls::{TlsConfig, TlsConnector};
use nbd_client_mio::{ConnectOptions, Connection, Limit, OptionReply, OptionRequest, State};
use nbd_proto::{Command, CommandType, Negotiated, TlsPolicy};
use nbd_sim::hostile::{
    Ask, Case, Failure, Guarded, OVERTAKEN, Played, overtake, play_scenes, play_secrets, tour,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn every_case_ends_over_a_socket_as_in_memory() {
    let tls = TlsConfig::new().connector().expect("a connector");
    tour(Some(|| ALLOCATOR.stats().bytes_allocated), |case, uri| play(&tls, case, uri));
    play_scenes(|case, uri| play(&tls, case, uri));
    play_secrets(play);
    a_write_whose_reply_overtakes_its_payload_ends_with_its_last_byte();
}

/// X63.
fn a_write_whose_reply_overtakes_its_payload_ends_with_its_last_byte() {
    overtake(|config, connection| {
        let options = ConnectOptions::new().config(config.clone());
        let disk = Connection::connect_over(options, connection)?;
        let mut this = Loop::new(disk);
        let long = Duration::from_secs(10);
        this.until(long, |disk| disk.state() == State::Ready)?;
        let buffer = Guarded::of(&OVERTAKEN);
        this.disk.submit(OVERTAKEN, Some(buffer)).expect("a sound command");
        this.disk.submit(Command::flush(), None).expect("a sound command");
        let mut completed = None;
        this.until(long, |disk| {
            completed = disk.next_completion();
            completed.is_some()
        })?;
        completed.expect("a completion").result.map_err(Failure::from)
    });
}

type Disk = Connection<Guarded>;

/// A connection and the loop it lives in.
struct Loop {
    poll: Poll,
    events: Events,
    disk: Disk,
    /// What ended the connection; told once, and true ever after.
    error: Option<Failure>,
}

impl Loop {
    fn new(mut disk: Disk) -> Self {
        let poll = Poll::new().expect("a poll");
        poll.registry().register(&mut disk, Token(0), Interest::READABLE).expect("registration");
        Self { poll, events: Events::with_capacity(8), disk, error: None }
    }

    /// Drives the connection until it is `done`.
    fn until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Disk) -> bool,
    ) -> Result<(), Failure> {
        let end = Instant::now() + patience;
        while !done(&mut self.disk) {
            if let Some(error) = &self.error {
                return Err(error.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::TimedOut);
            }
            if self.disk.needs_drive() {
                let driven = self.disk.drive(self.poll.registry());
                self.error = driven.err().map(Failure::from);
            } else {
                match self.poll.poll(&mut self.events, Some(left)) {
                    // A process that was stopped and goes on sees its calls interrupted.
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    polled => polled.expect("a poll"),
                }
                self.events.iter().for_each(|event| self.disk.handle_event(event));
            }
        }
        Ok(())
    }
}

fn play(tls: &TlsConnector, case: &Case, uri: &str) -> Played {
    let mut played = Played::default();
    let options = ConnectOptions::new()
        .tls_connector(TlsPolicy::Disable, tls.clone())
        .config(case.config.clone())
        .uri(uri)
        .expect("a sound URI");
    let mut this = Loop::new(Connection::connect(options).expect("a connection"));
    let settled = |disk: &mut Disk| matches!(disk.state(), State::Choosing | State::Ready);
    let connected = this.until(case.patience(case.connects_or_fails()), settled);
    if case.asks != Ask::Export {
        played.listed = Some(connected.and_then(|()| list(case, &mut this)));
        return played;
    }
    match connected {
        Ok(()) => {
            let negotiated = this.disk.session().negotiated().expect("the data phase");
            played.connected = Some(Ok(Negotiated::clone(negotiated)));
            talk(case, &mut this, &mut played);
        }
        Err(failure) => played.connected = Some(Err(failure)),
    }
    played
}

fn list(case: &Case, this: &mut Loop) -> Result<Vec<String>, Failure> {
    let request = match case.asks {
        Ask::Export | Ask::Exports => OptionRequest::List,
        Ask::Contexts => OptionRequest::ListMetaContexts(Vec::new()),
    };
    this.disk.request_option(request, Limit::Default).expect("a sound question");
    let mut answer = None;
    this.until(case.patience(true), |disk| {
        answer = disk.take_option();
        answer.is_some()
    })?;
    Ok(match answer.expect("it is over")? {
        OptionReply::Exports(exports) => exports.into_iter().map(|it| it.name).collect(),
        OptionReply::MetaContexts(contexts) => contexts.into_iter().map(|it| it.name).collect(),
        other => panic!("{other:?}"),
    })
}

fn talk(case: &Case, this: &mut Loop, played: &mut Played) {
    let ids: Vec<_> = case
        .commands
        .iter()
        .map(|command| {
            let buffer = has_payload(command).then(|| Guarded::of(command));
            this.disk.submit(*command, buffer).expect("a sound command")
        })
        .collect();
    played.answers = vec![Err(Failure::TimedOut); ids.len()];
    played.buffers = case.commands.iter().map(Guarded::of).collect();
    for ended in 0..ids.len() {
        let mut completed = None;
        let waited = this.until(case.patience(ended < case.due()), |disk| {
            completed = disk.next_completion();
            completed.is_some()
        });
        let Some(done) = completed else {
            assert_eq!(waited, Err(Failure::TimedOut));
            ids.iter().for_each(|id| drop(this.disk.withdraw(*id)));
            break;
        };
        let n = ids.iter().position(|id| *id == done.id).expect("a command of ours");
        assert_eq!(played.answers[n], Err(Failure::TimedOut), "completed twice");
        played.answers[n] = done.result.map_err(Failure::from);
        if let Some(buffer) = done.buffer {
            played.buffers[n] = buffer;
        }
    }
    played.usable = Some(if case.farewell { leave(case, this) } else { flush(case, this) });
}

fn leave(case: &Case, this: &mut Loop) -> Result<(), Failure> {
    this.disk.disconnect(Limit::Default);
    this.until(case.patience(true), |disk| disk.state() == State::Closed)?;
    this.error.take().map_or(Ok(()), Err)
}

fn flush(case: &Case, this: &mut Loop) -> Result<(), Failure> {
    this.disk.submit(Command::flush(), None).map_err(|rejected| Failure::from(rejected.error))?;
    let mut completed = None;
    this.until(case.patience(true), |disk| {
        completed = disk.next_completion();
        completed.is_some()
    })?;
    completed.expect("a completion").result.map_err(Failure::from)
}

fn has_payload(command: &Command) -> bool {
    matches!(command.kind, CommandType::Read | CommandType::Write)
}
