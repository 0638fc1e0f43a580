//! What a seed stands for.

use nbd_proto::{
    BlockSizes, ClientConfig, Disconnect, ExportInfo, HandshakeFlags, Limits, ServerConfig,
    TlsPolicy, TransmissionFlags,
};

use crate::disk::Disk;
use crate::link::Drive;
use crate::pipe::Schedule;
use crate::rng::Rng;

/// What goes wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// One side sees the end after so many bytes.
    End {
        /// It is the client that does.
        at_client: bool,
        /// Bytes before the end.
        after: u64,
    },
    /// Bits of one byte are flipped.
    Flip {
        /// On the way to the client.
        to_client: bool,
        /// The byte.
        at: u64,
        /// The bits.
        bits: u8,
    },
}

/// One planned session.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// What goes wrong.
    pub fault: Fault,
    /// How the client's machine is driven.
    pub client_drive: Drive,
    /// How the server's machine is driven.
    pub server_drive: Drive,
    /// The client's configuration.
    pub client: ClientConfig,
    /// The server's configuration.
    pub server: ServerConfig,
    /// The oldstyle protocol: nothing is negotiated.
    pub oldstyle: bool,
    /// The export as the server describes it.
    pub export: ExportInfo,
    /// The disk when the session begins.
    pub disk: Disk,
    /// Commands the client submits.
    pub commands: usize,
    /// Most commands in flight.
    pub depth: u32,
    /// Longest read or write, in bytes.
    pub longest: usize,
    /// One command in so many is abandoned; 0 for none.
    pub abandon_one_in: usize,
    /// One command in so many is answered with an error; 0 for none.
    pub fail_one_in: usize,
    /// How the client leaves.
    pub disconnect: Disconnect,
    /// After how many of the commands it does.
    pub leave_after: usize,
    to_server: Schedule,
    to_client: Schedule,
}

impl Plan {
    /// The session that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let size = rng.between(8, 64) * 1024;
        let disk = Disk::random(&mut rng, size);
        let depth = rng.pick(&[1, 2, 7, 32]) as u32;
        let commands = rng.pick(&[0, 5, 20, 60]);
        let tls = rng.one_in(8);
        Self {
            seed,
            fault: fault(&mut rng),
            client_drive: Drive::random(&mut rng),
            server_drive: Drive::random(&mut rng),
            client: client_config(&mut rng, depth, tls),
            server: server_config(&mut rng, tls),
            oldstyle: !tls && rng.one_in(20),
            export: export(&mut rng, size as u64),
            disk,
            commands,
            depth,
            longest: rng.pick(&[512, 2048, 8192]),
            abandon_one_in: rng.pick(&[0, 0, 5]),
            fail_one_in: rng.pick(&[0, 4, 20]),
            disconnect: rng.pick(&[
                Disconnect::AfterReplies,
                Disconnect::AfterReplies,
                Disconnect::AfterRequests,
                Disconnect::AbandonUnsent,
            ]),
            leave_after: rng.pick(&[commands, commands, commands / 2]),
            to_server: Schedule::random(&mut rng),
            to_client: Schedule::random(&mut rng),
        }
    }

    /// A session without faults over a pipe that cuts and blocks nothing.
    #[must_use]
    pub fn smooth(mut self) -> Self {
        self.fault = Fault::None;
        self.to_server = Schedule::SMOOTH;
        self.to_client = Schedule::SMOOTH;
        self
    }

    /// The two directions of the pipe, faults included: to the server, to the client.
    pub(super) fn schedules(&self) -> (Schedule, Schedule) {
        let (mut to_server, mut to_client) = (self.to_server.clone(), self.to_client.clone());
        match self.fault {
            Fault::None => {}
            Fault::End { at_client, after } => {
                let flow = if at_client { &mut to_client } else { &mut to_server };
                flow.eof_at = Some(after);
            }
            Fault::Flip { to_client: client, at, bits } => {
                let flow = if client { &mut to_client } else { &mut to_server };
                flow.flip = Some((at, bits));
            }
        }
        (to_server, to_client)
    }
}

/// Half of the runs are sound; of the faults, most strike where headers are dense.
fn fault(rng: &mut Rng) -> Fault {
    let reach = rng.pick(&[64, 400, 4000, 60_000]);
    let at = rng.below(reach) as u64;
    match rng.below(8) {
        0 => Fault::End { at_client: true, after: at },
        1 => Fault::End { at_client: false, after: at },
        2 | 3 => Fault::Flip { to_client: true, at, bits: 1 << rng.below(8) },
        4 => Fault::Flip { to_client: false, at, bits: 1 << rng.below(8) },
        _ => Fault::None,
    }
}

fn limits(rng: &mut Rng) -> Limits {
    Limits::default().scratch_len(16 << 10).direct_min(rng.pick(&[
        0,
        1,
        512,
        4096,
        32 << 10,
        usize::MAX,
    ]))
}

fn client_config(rng: &mut Rng, depth: u32, tls: bool) -> ClientConfig {
    let mut config = ClientConfig::new()
        .export(rng.pick(&["", "disk"]))
        .structured_replies(!rng.one_in(4))
        .extended_headers(rng.one_in(2))
        .block_sizes(rng.one_in(2))
        .full_info(rng.one_in(3))
        .option_mode(rng.one_in(4))
        .strict_peer(rng.one_in(2))
        .limits(limits(rng).max_in_flight(depth));
    if rng.one_in(6) {
        config = config.handshake_flags(HandshakeFlags::FIXED_NEWSTYLE);
    }
    if rng.one_in(2) {
        config = config.meta_context("base:allocation");
    }
    if rng.one_in(3) {
        config = config.meta_context("sim:stripes");
    }
    if tls {
        config = config.tls(rng.pick(&[TlsPolicy::Allow, TlsPolicy::Require]));
    }
    config
}

fn server_config(rng: &mut Rng, tls: bool) -> ServerConfig {
    let mut config = ServerConfig::new()
        .structured_replies(!rng.one_in(5))
        .extended_headers(!rng.one_in(3))
        .limits(limits(rng).max_in_flight(rng.pick(&[1, 3, 256]) as u32));
    if !tls && rng.one_in(8) {
        config = config.handshake_flags(rng.pick(&[
            HandshakeFlags::empty(),
            HandshakeFlags::NO_ZEROES,
            HandshakeFlags::FIXED_NEWSTYLE,
        ]));
    }
    if tls {
        config = config.tls(rng.pick(&[TlsPolicy::Disable, TlsPolicy::Allow, TlsPolicy::Require]));
    }
    config
}

fn export(rng: &mut Rng, size: u64) -> ExportInfo {
    use TransmissionFlags as Flag;
    let mut flags = Flag::HAS_FLAGS;
    for flag in [
        Flag::SEND_FLUSH,
        Flag::SEND_FUA,
        Flag::SEND_TRIM,
        Flag::SEND_WRITE_ZEROES,
        Flag::SEND_DF,
        Flag::SEND_CACHE,
        Flag::SEND_FAST_ZERO,
        Flag::BLOCK_STATUS_PAYLOAD,
    ] {
        flags.set(flag, !rng.one_in(4));
    }
    flags.set(Flag::READ_ONLY, rng.one_in(10));
    if !flags.contains(Flag::SEND_WRITE_ZEROES) {
        flags.remove(Flag::SEND_FAST_ZERO);
    }
    let mut export = ExportInfo::new(size, flags);
    if rng.one_in(3) {
        export.block_sizes = Some(BlockSizes {
            minimum: rng.pick(&[1, 512]) as u32,
            preferred: 4096,
            maximum: 1 << 20,
        });
        export.canonical_name = Some("the disk".to_owned());
        export.description = Some("made of noise".to_owned());
    }
    export
}
