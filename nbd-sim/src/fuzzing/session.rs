//! A client and a server that have agreed.

use nbd_proto::{
    Client, ClientConfig, Discard, ExportInfo, HeaderStyle, Limits, Machine, Negotiation, Phase,
    Question, Server, ServerConfig, ServerNegotiation, StrictMode, TransmissionFlags,
};

/// Size of the export.
pub(super) const SIZE: u64 = 1 << 20;

/// How the data phase is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) headers: HeaderStyle,
    pub(super) strict_peer: bool,
    pub(super) direct_min: usize,
    pub(super) max_in_flight: u32,
}

impl Setup {
    /// What one byte decides.
    pub(super) const fn new(byte: u8) -> Self {
        Self {
            headers: match byte & 3 {
                0 => HeaderStyle::Simple,
                1 => HeaderStyle::Structured,
                _ => HeaderStyle::Extended,
            },
            strict_peer: byte & 4 != 0,
            direct_min: match byte >> 3 & 3 {
                0 => 0,
                1 => 64,
                2 => 32 << 10,
                _ => usize::MAX,
            },
            max_in_flight: if byte & 0x20 != 0 { 2 } else { 16 },
        }
    }

    fn limits(self) -> Limits {
        Limits::default()
            .scratch_len(0)
            .direct_min(self.direct_min)
            .max_in_flight(self.max_in_flight)
    }

    /// Both ends of a connection in the data phase. The client sends what it is told
    /// to, sensible or not.
    pub(super) fn establish(self) -> (Client, Server) {
        let client = ClientConfig::new()
            .structured_replies(self.headers >= HeaderStyle::Structured)
            .extended_headers(self.headers == HeaderStyle::Extended)
            .meta_context("base:allocation")
            .meta_context("sim:stripes")
            .strict(StrictMode::AUTO_FLAG)
            .strict_peer(self.strict_peer)
            .limits(self.limits());
        let server = ServerConfig::new().limits(self.limits());
        let mut client = Negotiation::new(client).expect("the names are sound");
        let mut server = ServerNegotiation::new(server);
        while client.phase() != Phase::Established {
            answer(&mut server);
            let (mut sent, mut back) = (Vec::new(), Vec::new());
            server.drain(&mut back, &Discard).expect("no payload is due");
            client.feed(&back, &mut Discard).expect("our server is sound");
            client.drain(&mut sent, &Discard).expect("no payload is due");
            server.feed(&sent, &mut Discard).expect("our client is sound");
        }
        let client = client.finish().expect("established");
        let server = server.finish().expect("established on both sides");
        (client, server)
    }
}

/// The export: everything is offered.
pub(super) const fn export() -> ExportInfo {
    let flags = TransmissionFlags::all()
        .difference(TransmissionFlags::READ_ONLY)
        .difference(TransmissionFlags::SEND_RESIZE);
    ExportInfo::new(SIZE, flags)
}

fn answer(server: &mut ServerNegotiation) {
    match server.question().cloned() {
        Some(Question::SetMetaContext(request)) => {
            for query in &request.queries {
                server.send_context(query).expect("a query is a name here");
            }
            server.acknowledge().expect("asked");
        }
        Some(_) => server.describe(export()).expect("only GO is asked besides"),
        None => {}
    }
}

/// The byte that every disk here has at `at`.
pub(super) const fn pattern(at: u64) -> u8 {
    (at ^ at >> 7) as u8
}

/// What lies in a range of the disk.
pub(super) fn pattern_of(offset: u64, length: u64) -> Vec<u8> {
    (offset..offset.saturating_add(length)).map(pattern).collect()
}
