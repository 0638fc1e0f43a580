//! Requests to a server whose application answers each in its own way.

use nbd_proto::{
    ApiMisuse, Command, CommandFlags, CommandType, Errno, Error, Extent, HeaderStyle, Machine,
    RequestId, Server, ServerEvent,
};

use super::OTHERS;
use super::input::Input;
use super::memory::Memory;
use super::session::{Setup, pattern_of};
use crate::delivery::Delivery;

/// Input: set-up, cuts, requests.
pub fn server_bytes(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::new(input.byte());
    let bursts = input.bursts();
    let whole = Trace::play(setup, &bursts, Delivery::Whole);
    for delivery in OTHERS {
        let trace = Trace::play(setup, &bursts, delivery);
        assert_eq!(trace, whole, "{delivery:?} differs");
    }
}

/// Everything that can be seen from outside.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    /// Each request, with the payload of a write.
    requests: Vec<(Command, Vec<u8>)>,
    sent: Vec<u8>,
    replied: usize,
    over: Option<Option<Error>>,
    end: Option<Error>,
}

impl Trace {
    fn play(setup: Setup, bursts: &[&[u8]], delivery: Delivery) -> Self {
        let (_, mut server) = setup.establish();
        let mut memory = Memory::new();
        let mut trace = Self::default();
        for burst in bursts {
            if let Err(error) = trace.arrive(&mut server, &mut memory, burst, delivery) {
                let again = server.feed(&[0], &mut memory);
                assert_eq!(again, Err(error.clone()), "dead, but it moves");
                trace.end = Some(error);
                break;
            }
        }
        if let Err(error) = server.eof() {
            trace.end.get_or_insert(error);
        }
        trace.work(&mut server, &mut memory);
        assert!(server.is_closed() && trace.over.is_some(), "no end: {server:?}");
        // Where the framing broke nobody can be answered any more.
        assert!(trace.end.is_some() || server.in_flight() == 0, "unanswered: {server:?}");
        trace
    }

    fn arrive(
        &mut self,
        server: &mut Server,
        memory: &mut Memory,
        mut burst: &[u8],
        delivery: Delivery,
    ) -> Result<(), Error> {
        loop {
            if server.has_buffered() {
                server.received(0, memory)?;
            }
            let taken = delivery.deliver(server, memory, burst)?;
            burst = &burst[taken..];
            let worked = self.work(server, memory);
            if burst.is_empty() && !server.has_buffered() {
                return Ok(());
            }
            if taken == 0 && !worked {
                assert!(server.is_ending() || server.is_closed(), "stuck: {server:?}");
                return Ok(());
            }
        }
    }

    /// Answers all requests that are here; returns whether anything happened.
    fn work(&mut self, server: &mut Server, memory: &mut Memory) -> bool {
        let mut worked = false;
        loop {
            let mut idle = true;
            while let Some(event) = server.poll_event() {
                assert_eq!(self.over, None, "{event:?} after the end");
                idle = false;
                match event {
                    ServerEvent::Request { id, command } => {
                        self.requests.push((command, memory.remove(id)));
                        self.check_request(server);
                        answer(server, memory, id, command).expect("the answer fits");
                    }
                    ServerEvent::Replied { id } => {
                        memory.remove(id);
                        self.replied += 1;
                    }
                    ServerEvent::Disconnected { error } => self.over = Some(error),
                }
            }
            // What is refused is answered without an event.
            let sent = server.drain(&mut self.sent, memory).expect("all payload is here");
            if idle && sent == 0 {
                return worked;
            }
            worked = true;
        }
    }

    /// What reaches the application is sound.
    fn check_request(&self, server: &Server) {
        let Some((command, payload)) = self.requests.last() else {
            return;
        };
        let end = command.offset.checked_add(command.length);
        assert!(end.is_some_and(|end| end <= server.export().size), "{command:?}");
        let due = if command.kind == CommandType::Write { command.length } else { 0 };
        assert_eq!(payload.len() as u64, due, "{command:?}");
    }
}

/// The offset decides between an error, one piece, and pieces in any order.
fn answer(
    server: &mut Server,
    memory: &mut Memory,
    id: RequestId,
    command: Command,
) -> Result<(), ApiMisuse> {
    let structured = server.negotiated().headers != HeaderStyle::Simple;
    let length = command.length as usize;
    if command.offset % 7 == 1 {
        return server.reply_error(id, Errno::Io, "an offset that brings bad luck");
    }
    match command.kind {
        CommandType::Read => {
            memory.insert(id, pattern_of(command.offset, command.length));
            let pieces = structured && !command.flags.contains(CommandFlags::DF);
            if pieces && length > 2 && command.offset % 7 == 2 {
                server.send_data(id, 2, length - 2, false)?;
                server.send_hole(id, 0, 2, false)?;
                server.end_reply(id)
            } else {
                server.reply_data(id)
            }
        }
        CommandType::BlockStatus => {
            let extent = Extent { length: command.length, status: 0 };
            for context in server.contexts(id) {
                server.send_extents(id, context, &[extent], false)?;
            }
            server.end_reply(id)
        }
        CommandType::Write
        | CommandType::WriteZeroes
        | CommandType::Trim
        | CommandType::Flush
        | CommandType::Cache => server.reply(id, Ok(())),
    }
}
