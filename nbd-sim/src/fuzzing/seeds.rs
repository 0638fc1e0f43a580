//! Where a fuzzer starts: the recorded sessions, in the form the targets take.

use std::path::{Path, PathBuf};

use nbd_proto::CommandType;

use crate::hostile::bytes::opt;
use crate::oracle::{Message, Oracle, Style};
use crate::replay::{Action, ClientScript, Item};
use crate::rng::Rng;
use crate::transcript::{Side, Transcript, TranscriptError, all, vectors};

/// One input to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The target it is for.
    pub target: &'static str,
    /// Where it comes from.
    pub name: String,
    /// What the target takes.
    pub bytes: Vec<u8>,
}

/// Longest seed; longer ones slow a fuzzer down.
const LONGEST: usize = 4096;

/// Where the seeds are kept: a directory for each target.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus-seeds")
}

/// The seeds that come from recorded sessions, golden vectors and noise.
///
/// # Errors
/// When a recorded session cannot be read.
pub fn recorded() -> Result<Vec<Seed>, TranscriptError> {
    let mut seeds = Vec::new();
    for transcript in all()? {
        let mut add = |target, mut bytes: Vec<u8>| {
            bytes.truncate(LONGEST);
            seeds.push(Seed { target, name: transcript.name.clone(), bytes });
        };
        if let Some(session) = Session::new(&transcript) {
            add("negotiate_client", session.negotiate_client());
            add("negotiate_server", session.negotiate_server());
            if session.submits().next().is_some() {
                add("client_bytes", session.client_bytes());
                add("server_bytes", session.server_bytes());
            }
        }
    }
    for vector in vectors()? {
        seeds.push(Seed { target: "wire_roundtrip", name: vector.name, bytes: vector.bytes });
    }
    // Nobody has recorded calls: noise makes them, of which every byte is one.
    for (setup, seed) in [(0, 1), (1, 2), (2, 3), (34, 4)] {
        let mut bytes = vec![setup; 400];
        Rng::new(seed).fill(&mut bytes[1..]);
        seeds.push(Seed { target: "pair_ops", name: format!("noise-{setup}"), bytes });
    }
    seeds.extend(tls_sessions());
    Ok(seeds)
}

/// Sessions of TLS for each kind of credentials: a handshake that is cut, data both ways, an end;
/// and what befalls the bytes on the way, by chance.
fn tls_sessions() -> Vec<Seed> {
    let seed = |name: String, bytes| Seed { target: "tls_stage", name, bytes };
    let calm: Vec<u8> = [
        // The handshake, whole or in pieces; data; bytes in ones; the end.
        [0, 255, 8, 255, 0, 255, 8, 255, 2, 255, 0, 220, 0, 255, 10, 90, 8, 5, 8, 255, 3, 0, 11, 0],
        [0, 50, 8, 200, 0, 150, 8, 255, 0, 99, 0, 255, 15, 3, 2, 230, 0, 255, 15, 255, 0, 1, 3, 0],
    ]
    .concat();
    let mut seeds = Vec::new();
    for kind in 0..3_u8 {
        seeds.push(seed(format!("calm-{kind}"), [&[kind], &calm[..]].concat()));
        let mut bytes = vec![kind; 81];
        Rng::new(u64::from(kind)).fill(&mut bytes[1..]);
        seeds.push(seed(format!("noise-{kind}"), bytes));
        // The handshake goes well, and then it begins.
        let handshake = [kind, 0, 255, 8, 255, 0, 255, 8, 255];
        let mut bytes = vec![0; 600];
        Rng::new(u64::from(kind) + 7).fill(&mut bytes);
        seeds.push(seed(format!("later-{kind}"), [&handshake[..], &bytes].concat()));
    }
    seeds
}

/// A recorded session, cut where the data phase begins.
struct Session {
    script: ClientScript,
    /// The set-up byte of the data phase.
    setup: u8,
    /// The client's bytes: negotiation, data phase.
    asked: [Vec<u8>; 2],
    /// The server's bytes, likewise, with the cookies of a client of ours.
    answered: [Vec<u8>; 2],
}

impl Session {
    /// `None` for the old style, which no target begins with.
    fn new(transcript: &Transcript) -> Option<Self> {
        let script = ClientScript::new(transcript).ok()?;
        if script.summary.style == Some(Style::Oldstyle) {
            return None;
        }
        let mut session = Self {
            setup: match (script.summary.extended, script.summary.structured) {
                (true, _) => 2,
                (false, true) => 1,
                (false, false) => 0,
            },
            asked: Default::default(),
            answered: Default::default(),
            script,
        };
        let mut oracle = Oracle::new();
        for (side, bytes) in &transcript.bursts {
            let before = oracle.messages().len();
            match side {
                Side::Client => oracle.client_bytes(bytes).ok()?,
                Side::Server => oracle.server_bytes(bytes).ok()?,
            }
            let request = |message: &Message| matches!(message, Message::Request(_));
            let data = oracle.messages()[before..].iter().any(request);
            if *side == Side::Client {
                session.asked[usize::from(data)].extend(bytes);
            }
        }
        let mut phase = 0;
        for item in &session.script.items {
            match item {
                Item::Act(Action::Submit(..) | Action::Disconnect) => phase = 1,
                Item::Act(_) => {}
                Item::Arrive(bytes) => session.answered[phase].extend(bytes),
            }
        }
        Some(session)
    }

    fn submits(&self) -> impl Iterator<Item = &Action> {
        self.script.items.iter().filter_map(|item| match item {
            Item::Act(action @ Action::Submit(..)) => Some(action),
            Item::Act(_) | Item::Arrive(_) => None,
        })
    }

    fn client_bytes(&self) -> Vec<u8> {
        let mut commands = Vec::new();
        let mut count = 0;
        for action in self.submits().take(16) {
            if let Action::Submit(command, contexts, _) = action {
                let filtered = command.kind == CommandType::BlockStatus && !contexts.is_empty();
                commands.push(command.kind.to_wire() as u8 | u8::from(filtered) << 3);
                commands.push(command.flags.bits() as u8 & 0x1f);
                commands.extend((command.offset as u32).to_be_bytes());
                commands.extend((command.length as u32).to_be_bytes());
                count += 1;
            }
        }
        // No cuts: the fuzzer finds those by itself.
        [&[self.setup, count], &commands[..], &[0], &self.answered[1]].concat()
    }

    fn server_bytes(&self) -> Vec<u8> {
        [&[self.setup, 0], &self.asked[1][..]].concat()
    }

    fn negotiate_client(&self) -> Vec<u8> {
        let mut wishes = Vec::new();
        for item in &self.script.items {
            wishes.extend(match item {
                Item::Act(Action::Option(opt::LIST)) => Some(2),
                Item::Act(Action::Option(opt::STARTTLS)) => Some(7),
                Item::Act(Action::Option(opt::STRUCTURED_REPLY)) => Some(5),
                Item::Act(Action::Option(opt::EXTENDED_HEADERS)) => Some(6),
                Item::Act(Action::Option(_)) => Some(9),
                Item::Act(Action::Export { go, .. }) => Some(u8::from(!go)),
                Item::Act(Action::Contexts { set, .. }) => Some(3 + u8::from(*set)),
                Item::Act(Action::Submit(..) | Action::Disconnect) | Item::Arrive(_) => None,
            });
        }
        wishes.truncate(16);
        // Option mode, block sizes and names; nothing is asked for by itself.
        let head = [0b1_1100, 0, wishes.len() as u8];
        [&head, &wishes[..], &[0], &self.answered[0]].concat()
    }

    fn negotiate_server(&self) -> Vec<u8> {
        // Structured and extended; TLS is allowed; everything is granted.
        [&[0b1011, 0, 0], &self.asked[0][..]].concat()
    }
}
