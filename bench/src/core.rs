//! The protocol core alone: both ends in one place, and a vector for the network.
//!
//! ```text
//! nbd-bench-core PATH COUNT
//! ```
//!
//! Meant for counting instructions, which tell of the core what no clock does: two runs of
//! different length differ by what the requests between cost, at both ends together.

use std::env;
use std::error::Error;
use std::process::ExitCode;

use nbd_proto::{
    Client, ClientConfig, Command, ContextId, Discard, ExportInfo, Extent, Machine, Negotiation,
    PayloadSink, PayloadSource, Phase, Question, RequestId, Server, ServerConfig, ServerEvent,
    ServerNegotiation, TransmissionFlags,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// As long as the payload of one request gets here, in bytes.
const LENGTH: u32 = 4096;

/// As many requests as are in flight where there are several.
const DEPTH: usize = 64;

/// The extents of one reply.
const EXTENTS: usize = 16;

const CONTEXT: &str = "base:allocation";

/// What a path does once.
type Pass = fn(&mut Pair) -> Outcome<()>;

/// One path through the core, under its name.
struct Path {
    name: &'static str,
    /// Structured replies are agreed on.
    structured: bool,
    pass: Pass,
}

const PATHS: [Path; 6] = [
    Path { name: "read-simple", structured: false, pass: |pair| pair.reads(1) },
    Path { name: "read", structured: true, pass: |pair| pair.reads(1) },
    Path { name: "read-64", structured: true, pass: |pair| pair.reads(DEPTH) },
    Path { name: "write", structured: true, pass: Pair::write },
    Path { name: "block-status", structured: true, pass: Pair::block_status },
    Path { name: "handshake", structured: true, pass: Pair::shake_hands_again },
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-bench-core: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the path that is named first as many times as the second word says.
fn run(words: &[String]) -> Outcome<()> {
    let [name, count] = words else { return Err("usage: nbd-bench-core PATH COUNT".into()) };
    let path = PATHS
        .iter()
        .find(|path| path.name == name)
        .ok_or_else(|| format!("{name} is none of {}", PATHS.map(|path| path.name).join(", ")))?;
    let mut pair = Pair::new(path.structured)?;
    for _ in 0..count.parse::<u32>()? {
        (path.pass)(&mut pair)?;
    }
    Ok(())
}

/// A client and a server that have agreed.
struct Pair {
    client: Client,
    server: Server,
    context: Option<ContextId>,
    wire: Vec<u8>,
    memory: Memory,
}

/// Payload of every request, in the same place.
struct Memory(Vec<u8>);

impl PayloadSink for Memory {
    fn region(&mut self, _: RequestId, _: usize, len: usize) -> &mut [u8] {
        &mut self.0[..len]
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, _: RequestId, _: usize, len: usize) -> &[u8] {
        &self.0[..len]
    }
}

impl Pair {
    fn new(structured: bool) -> Outcome<Self> {
        let mut wire = Vec::new();
        let (client, server) = shake_hands(structured, &mut wire)?;
        let context = client.context(CONTEXT);
        Ok(Self { client, server, context, wire, memory: Memory(vec![7; LENGTH as usize]) })
    }

    fn shake_hands_again(&mut self) -> Outcome<()> {
        (self.client, self.server) = shake_hands(true, &mut self.wire)?;
        Ok(())
    }

    fn reads(&mut self, depth: usize) -> Outcome<()> {
        for _ in 0..depth {
            self.client.submit(Command::read(0, LENGTH))?;
        }
        self.exchange(|server, id| Ok(server.reply_data(id)?))?;
        self.settle(depth)
    }

    fn write(&mut self) -> Outcome<()> {
        self.client.submit(Command::write(0, LENGTH))?;
        self.exchange(|server, id| Ok(server.reply(id, Ok(()))?))?;
        self.settle(1)
    }

    fn block_status(&mut self) -> Outcome<()> {
        let context = self.context.ok_or("no context was granted")?;
        self.client.submit(Command::block_status(0, u64::from(LENGTH)))?;
        let length = u64::from(LENGTH) / EXTENTS as u64;
        let extents: [Extent; EXTENTS] =
            std::array::from_fn(|index| Extent { length, status: index as u64 % 2 });
        self.exchange(|server, id| {
            server.send_extents(id, context, &extents, true)?;
            Ok(())
        })?;
        self.settle(1)
    }

    /// Carries requests to the server and its answers back.
    fn exchange(&mut self, answer: impl Fn(&mut Server, RequestId) -> Outcome<()>) -> Outcome<()> {
        self.wire.clear();
        self.client.drain(&mut self.wire, &self.memory)?;
        self.server.feed(&self.wire, &mut self.memory)?;
        while let Some(event) = self.server.poll_event() {
            if let ServerEvent::Request { id, .. } = event {
                answer(&mut self.server, id)?;
            }
        }
        self.wire.clear();
        self.server.drain(&mut self.wire, &self.memory)?;
        self.client.feed(&self.wire, &mut self.memory)?;
        Ok(())
    }

    /// Takes the results, which are as many as were asked for.
    fn settle(&mut self, wanted: usize) -> Outcome<()> {
        let mut done = 0;
        while let Some((_, _, result)) = self.client.take_next() {
            result?;
            done += 1;
        }
        if done == wanted { Ok(()) } else { Err(format!("{done} of {wanted} are done").into()) }
    }
}

fn shake_hands(structured: bool, wire: &mut Vec<u8>) -> Outcome<(Client, Server)> {
    let config = ClientConfig::new().structured_replies(structured);
    let config = if structured { config.meta_context(CONTEXT) } else { config };
    let mut client = Negotiation::new(config)?;
    let mut server = ServerNegotiation::new(ServerConfig::new());
    while client.phase() != Phase::Established {
        wire.clear();
        server.drain(wire, &Discard)?;
        client.feed(wire, &mut Discard)?;
        wire.clear();
        client.drain(wire, &Discard)?;
        server.feed(wire, &mut Discard)?;
        match server.question() {
            Some(Question::Go(_)) => {
                server.describe(ExportInfo::new(1 << 30, TransmissionFlags::HAS_FLAGS))?;
            }
            Some(Question::SetMetaContext(_)) => {
                server.send_context(CONTEXT)?;
                server.acknowledge()?;
            }
            _ => {}
        }
    }
    let client = client.finish().map_err(|_| "the client has not agreed")?;
    let server = server.finish().map_err(|_| "the server has not agreed")?;
    Ok((client, server))
}
