//! Streams that lie, stop or fail at any one call, under the drivers that every client
//! moves its bytes with.

use nbd_proto::io::{IoMode, is_gone};
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandError, CommandFailure, CommandType, Direction,
    Disconnect, Event, Machine, Phase, RequestId, SubmitError,
};
use nbd_session::{Error, Handshake, Link};
use nbd_sim::memory_server::{MemoryServer, MemoryStream};
use nbd_sim::trouble::{Call, Mischief, Plan, Trouble, Troubled, plans};

const SIZE: usize = 1 << 20;

/// More rounds than any session takes.
const ROUNDS: usize = 10_000;

/// By which of its methods the machine is driven in the data phase.
#[derive(Clone, Copy, Debug)]
enum Driver {
    /// By way of the link, as all clients do.
    Link,
    /// `notify_read` and `notify_write`, as a loop of one's own does.
    Notify,
}

fn disk() -> Vec<u8> {
    (0..SIZE).map(|index| (index * 7 % 251) as u8).collect()
}

struct Session {
    stream: Troubled<MemoryStream>,
    server: MemoryStream,
    trouble: Trouble,
    mode: IoMode,
    driver: Driver,
    rounds: usize,
}

impl Session {
    fn new(trouble: &Trouble, mode: IoMode, driver: Driver) -> Self {
        let server = MemoryStream::new(MemoryServer::new(disk()));
        let stream = Troubled::new(server.clone(), trouble.clone());
        Self { stream, server, trouble: trouble.clone(), mode, driver, rounds: 0 }
    }

    /// A round of waiting: nothing waits here, but nothing goes on for ever either.
    fn round(&mut self) {
        self.rounds += 1;
        assert!(self.rounds < ROUNDS, "it goes on for ever");
    }

    /// Negotiates, reads, writes, flushes and disconnects. Whatever happens, each command
    /// ends once, and what is read is true.
    fn run(mut self) -> Result<(), Error> {
        let (mut client, mut link) = self.connect()?;
        let mut buffers = Buffers::new();
        let mut asked = Vec::new();
        for command in [
            Command::read(0, 512),
            Command::write(512, 70_000),
            Command::read(100_000, 70_000),
            Command::read(200_000, 1),
            Command::write(300_000, 1),
            Command::flush(),
            Command::read(400_000, 4096),
        ] {
            let id = client.submit(command).expect("a sound command");
            if command.kind != CommandType::Flush {
                buffers.insert(id, vec![0xEE; command.length as usize]);
            }
            asked.push(id);
        }
        let talked =
            self.talk(&mut client, &mut link, &mut buffers, |client| client.in_flight() == 0);
        if talked.is_err() {
            // The machine is told what the peer will see.
            let _ = client.eof();
        }
        let lost = self.collect(&mut client, &mut asked, &mut buffers);
        if let Err(error) = talked {
            assert_eq!(client.submit(Command::flush()), Err(SubmitError::NotConnected));
            return Err(error);
        }
        if let Some(error) = lost {
            return Err(error);
        }
        client.disconnect(Disconnect::AfterReplies);
        self.talk(&mut client, &mut link, &mut buffers, Client::is_closed)
    }

    fn connect(&mut self) -> Result<(Client, Link), Error> {
        let mut handshake = Handshake::new(ClientConfig::new()).expect("sound names");
        while handshake.phase() != Phase::Established {
            self.round();
            let direction = handshake.drive(&mut self.stream, self.mode)?;
            if direction == Direction::READ {
                self.end_if_broken();
            }
        }
        Ok(handshake.finish().expect("it is established"))
    }

    /// A stream that takes no more comes to its end.
    fn end_if_broken(&self) {
        if self.trouble.has_broken() {
            self.server.with(MemoryServer::hang_up);
        }
    }

    fn talk(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        buffers: &mut Buffers<Vec<u8>>,
        is_done: impl Fn(&Client) -> bool,
    ) -> Result<(), Error> {
        while !is_done(client) {
            self.round();
            if client.get_direction().contains(Direction::WRITE) {
                match self.driver {
                    Driver::Link => link.write(client, &mut self.stream, &*buffers, self.mode)?,
                    Driver::Notify => client
                        .notify_write(&mut self.stream, &*buffers, self.mode)
                        .map_err(nbd_session::LinkError::from)?,
                };
            }
            self.end_if_broken();
            match self.driver {
                Driver::Link => link.read(client, &mut self.stream, buffers, self.mode)?,
                Driver::Notify => client
                    .notify_read(&mut self.stream, buffers, self.mode)
                    .map_err(nbd_session::LinkError::from)?,
            };
        }
        Ok(())
    }

    /// Takes the completions of everything; returns how one failed, if one did.
    fn collect(
        &self,
        client: &mut Client,
        asked: &mut Vec<RequestId>,
        buffers: &mut Buffers<Vec<u8>>,
    ) -> Option<Error> {
        let mut lost = None;
        let disk = disk();
        while let Some(event) = client.poll_event() {
            let Event::Completed { id, command, result } = event else { continue };
            let place = asked.iter().position(|one| *one == id).expect("one of those asked");
            asked.remove(place);
            let at = command.offset as usize;
            let range = at..at + command.length as usize;
            let buffer = buffers.remove(id).unwrap_or_default();
            match (result, command.kind) {
                (Ok(()), CommandType::Read) => {
                    let written = |at: &usize| (512..70_512).contains(at) || *at == 300_000;
                    let places = range.zip(buffer).filter(|(at, _)| !written(at));
                    places.for_each(|(at, byte)| assert_eq!(byte, disk[at], "wrong data"));
                }
                (Ok(()), CommandType::Write) => {
                    let on_disk = self.server.with(|server| server.disk()[range].to_vec());
                    assert!(on_disk == buffer, "a write that was acknowledged is not there");
                }
                (Ok(()), _) => {}
                (Err(error), _) => {
                    assert_eq!(error, CommandError::ConnectionLost);
                    lost = Some(CommandFailure::new(command, error, None).into());
                }
            }
        }
        assert!(asked.is_empty(), "each command ends once");
        lost
    }
}

/// Every kind of trouble at every call of a session.
fn every_call(mode: IoMode, driver: Driver) {
    let count = Trouble::none();
    Session::new(&count, mode, driver).run().expect("no trouble");
    assert!(count.calls(Call::Read) >= 5 && count.calls(Call::Write) >= 4, "{count:?}");
    let plans = plans(&count, &[Call::Read, Call::Write]);
    assert!(plans.len() > 200);
    for plan in plans.into_iter().filter(|plan| !goes_on_for_ever(plan)) {
        let trouble = Trouble::new(plan);
        match Session::new(&trouble, mode, driver).run() {
            Ok(()) => {
                let after_all = plan.nth > count.calls(plan.call) || is_last(&plan, &count);
                assert!(plan.is_harmless() || after_all, "{plan:?} went unnoticed");
            }
            Err(error) => {
                assert!(trouble.has_struck() && !plan.is_harmless(), "{plan:?}: {error}");
                assert!(plan.explains(&error), "{plan:?}: {error:?}");
            }
        }
    }
}

/// Whoever says that he was interrupted, or would block, is asked again, like every stream
/// of the standard library.
fn goes_on_for_ever(plan: &Plan) -> bool {
    use std::io::ErrorKind::{Interrupted, WouldBlock};
    plan.lasting && matches!(plan.mischief, Mischief::Error(Interrupted | WouldBlock))
}

/// The end is what comes last: to read nothing there is right, and nobody minds when the
/// request to end cannot be sent because the server has gone.
fn is_last(plan: &Plan, count: &Trouble) -> bool {
    plan.nth == count.calls(plan.call)
        && match plan.call {
            Call::Read => plan.mischief == Mischief::Nothing,
            Call::Write => matches!(plan.mischief, Mischief::Error(kind) if is_gone(kind)),
            Call::Flush => false,
        }
}

#[test]
fn vectored_by_the_link() {
    every_call(IoMode::Vectored, Driver::Link);
}

#[test]
fn one_buffer_at_a_time_by_the_link() {
    every_call(IoMode::Single, Driver::Link);
}

#[test]
fn vectored_by_notifications() {
    every_call(IoMode::Vectored, Driver::Notify);
}

#[test]
fn one_buffer_at_a_time_by_notifications() {
    every_call(IoMode::Single, Driver::Notify);
}
