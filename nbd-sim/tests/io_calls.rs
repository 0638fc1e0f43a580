//! How many calls to the transport the driver makes, and where payload lands.

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandType, Discard, Event, ExportInfo, Machine,
    Negotiation, PayloadSink, Phase, Question, RequestId, Server, ServerConfig, ServerEvent,
    ServerNegotiation, Stats, TransmissionFlags, part_mut,
};
use nbd_sim::pipe::{End, Schedule, pipe};
use nbd_sim::rng::Rng;

/// Takes the payload of any write and forgets it.
struct Pit(Vec<u8>);

impl PayloadSink for Pit {
    fn region(&mut self, _id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len)
    }
}

/// A client and a server over a pipe that never cuts.
struct Pair {
    client: Client,
    server: Server,
    client_end: End,
    server_end: End,
    buffers: Buffers<Vec<u8>>,
    data: Buffers<Vec<u8>>,
    pit: Pit,
}

impl Pair {
    fn new() -> Self {
        let smooth = Schedule::SMOOTH;
        let (mut client_end, mut server_end) = pipe(&mut Rng::new(1), smooth.clone(), smooth);
        let mut client = Negotiation::new(ClientConfig::new()).unwrap();
        let mut server = ServerNegotiation::new(ServerConfig::new());
        let mode = IoMode::Vectored;
        while client.phase() != Phase::Established {
            server.notify_write(&mut server_end, &Discard, mode).unwrap();
            client.notify_read(&mut client_end, &mut Discard, mode).unwrap();
            client.notify_write(&mut client_end, &Discard, mode).unwrap();
            server.notify_read(&mut server_end, &mut Discard, mode).unwrap();
            if let Some(Question::Go(_)) = server.question() {
                let export = ExportInfo::new(1 << 30, TransmissionFlags::HAS_FLAGS);
                server.describe(export).unwrap();
            }
        }
        Self {
            client: client.finish().unwrap(),
            server: server.finish().unwrap(),
            client_end,
            server_end,
            buffers: Buffers::new(),
            data: Buffers::new(),
            pit: Pit(vec![0; 4096]),
        }
    }

    fn submit(&mut self, command: Command) {
        let id: RequestId = self.client.submit(command).unwrap();
        self.buffers.insert(id, vec![0x11; command.length as usize]);
    }

    /// One turn of each side's event loop; returns how many commands completed.
    fn turn(&mut self) -> usize {
        let mode = IoMode::Vectored;
        let all = |result: Result<Progress, _>| result.unwrap() == Progress::More;
        while all(self.client.notify_write(&mut self.client_end, &self.buffers, mode)) {}
        while self.server_end.waiting() > 0 {
            self.server.notify_read(&mut self.server_end, &mut self.pit, mode).unwrap();
        }
        self.serve();
        while all(self.server.notify_write(&mut self.server_end, &self.data, mode)) {}
        self.serve();
        while self.client_end.waiting() > 0 {
            self.client.notify_read(&mut self.client_end, &mut self.buffers, mode).unwrap();
        }
        let mut done = 0;
        while let Some(event) = self.client.poll_event() {
            let Event::Completed { id, command, result } = event else {
                panic!("{event:?}");
            };
            assert_eq!(result, Ok(()));
            let buffer = self.buffers.remove(id).unwrap();
            let wanted = if command.kind == CommandType::Read { 0x77 } else { 0x11 };
            assert!(buffer.iter().all(|byte| *byte == wanted));
            done += 1;
        }
        done
    }

    fn serve(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Request { id, command } if command.kind == CommandType::Read => {
                    self.data.insert(id, vec![0x77; command.length as usize]);
                    self.server.reply_data(id).unwrap();
                }
                ServerEvent::Request { id, .. } => self.server.reply(id, Ok(())).unwrap(),
                ServerEvent::Replied { id } => {
                    self.data.remove(id);
                }
                ServerEvent::Disconnected { .. } => panic!("nobody left"),
            }
        }
    }

    /// Runs rounds of `depth` commands; returns the client's calls for each command,
    /// and its counters.
    fn run(&mut self, command: Command, depth: usize, rounds: usize) -> (f64, Stats) {
        let calls = self.client_end.calls();
        for _ in 0..rounds {
            for _ in 0..depth {
                self.submit(command);
            }
            let mut done = 0;
            while done < depth {
                done += self.turn();
            }
        }
        let calls = self.client_end.calls() - calls;
        (calls as f64 / (depth * rounds) as f64, *self.client.stats())
    }
}

#[test]
fn many_small_commands_share_their_calls() {
    let mut pair = Pair::new();
    let (reads, _) = pair.run(Command::read(0, 4096), 64, 50);
    assert!(reads <= 0.2, "{reads} calls for each read");
    let (writes, _) = pair.run(Command::write(0, 4096), 64, 50);
    assert!(writes <= 0.2, "{writes} calls for each write");
}

#[test]
fn large_payloads_land_where_they_belong() {
    let mut pair = Pair::new();
    let (calls, stats) = pair.run(Command::read(0, 256 << 10), 16, 20);
    let all = stats.bytes_placed + stats.bytes_copied;
    assert_eq!(all, 16 * 20 * (256 << 10));
    assert!(stats.bytes_placed * 100 >= all * 99, "{} of {all} bytes placed", stats.bytes_placed);
    assert!(calls <= 2.2, "{calls} calls for each read");
}
