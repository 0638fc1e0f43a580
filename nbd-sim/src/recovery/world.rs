//! The story: connections come and go.

use nbd_proto::io::DriveError;
use nbd_proto::{
    Client, ClientConfig, Command, Discard, ExportInfo, Limits, Negotiated, Negotiation, Phase,
    ServerConfig, TransmissionFlags,
};
use nbd_session::replay::Reconnect;

use super::client::App;
use super::disk::VolatileDisk;
use super::server::ServerSide;
use super::{Check, Report};
use crate::link::{Drive, Link};
use crate::pipe::{Schedule, pipe};
use crate::rng::Rng;

/// Bytes of the disk: few, so that ranges overlap.
const SIZE: usize = 1024;
/// Steps that no story needs.
const MAX_STEPS: u64 = 2_000_000;

/// The client's end of a connection.
enum Line {
    Down,
    Haggling(Box<Negotiation>, Link),
    Up(Box<Client>, Link),
}

pub(super) struct World {
    rng: Rng,
    disk: VolatileDisk,
    app: Option<App>,
    initial: Vec<u8>,
    line: Line,
    server: Option<ServerSide>,
    policy: Reconnect,
    flags: TransmissionFlags,
    depth: u32,
    fail_one_in: usize,
    cancel_one_in: usize,
    /// Connections that are still to be lost.
    losses: usize,
    /// The server crashed since the client last noticed a loss.
    crashed: bool,
    commands: u64,
    crashes: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        use TransmissionFlags as Flag;
        let mut rng = Rng::new(seed);
        let mut initial = vec![0; SIZE];
        rng.fill(&mut initial);
        let mut flags = Flag::HAS_FLAGS
            | Flag::SEND_TRIM
            | Flag::SEND_WRITE_ZEROES
            | Flag::SEND_CACHE
            | Flag::SEND_FLUSH
            | Flag::SEND_FUA;
        if rng.one_in(8) {
            flags.remove(rng.pick(&[Flag::SEND_FUA, Flag::SEND_FLUSH]));
        }
        let mut policy = Reconnect::new();
        if rng.one_in(2) {
            policy = policy.keep_unflushed(rng.pick(&[0, 300, 3000, 1 << 30]));
        }
        Self {
            disk: VolatileDisk::new(initial.clone()),
            initial,
            app: None,
            line: Line::Down,
            server: None,
            policy,
            flags,
            depth: rng.pick(&[1, 3, 16]),
            // A repetition that fails is the end, and not what is looked for here.
            fail_one_in: if policy.kept_bytes().is_none() { rng.pick(&[0, 0, 10]) } else { 0 },
            cancel_one_in: rng.pick(&[0, 0, 0, 20]),
            losses: rng.below(7),
            crashed: false,
            commands: rng.pick(&[20, 60, 150]),
            crashes: 0,
            rng,
        }
    }

    pub(super) fn run(&mut self) -> Result<Report, String> {
        let mut steps = 0;
        while !self.is_done() {
            steps += 1;
            if steps > MAX_STEPS {
                return Err(format!("no end after {MAX_STEPS} steps"));
            }
            self.step()?;
        }
        self.check_remains()
    }

    fn is_done(&self) -> bool {
        self.app.as_ref().is_some_and(|app| app.report.submitted >= self.commands && app.is_idle())
    }

    fn step(&mut self) -> Check {
        if let Some(app) = &mut self.app
            && app.report.submitted < self.commands
            && self.rng.one_in(3)
        {
            app.submit_random()?;
        }
        if self.losses > 0 && self.server.is_some() && self.rng.one_in(150) {
            self.losses -= 1;
            self.strike();
        }
        if self.rng.one_in(2) {
            if let Some(server) = &mut self.server {
                server.lenient = self.app.as_ref().is_some_and(|app| app.cancelled);
                server.step(&mut self.rng, &mut self.disk)?;
            }
            return Ok(());
        }
        match std::mem::replace(&mut self.line, Line::Down) {
            Line::Down => {
                // Some things are asked for while nobody is there.
                if self.rng.one_in(10) {
                    self.dial();
                }
                Ok(())
            }
            Line::Haggling(negotiation, link) => self.haggle(negotiation, link),
            Line::Up(client, link) => self.talk(client, link),
        }
    }

    /// The server crashes, or begins to shut down.
    fn strike(&mut self) {
        if self.rng.one_in(3)
            && let Some(server) = &mut self.server
        {
            server.shutting_down = true;
            return;
        }
        self.server = None;
        self.crash();
    }

    fn crash(&mut self) {
        self.disk.crash(&mut self.rng);
        self.crashed = true;
        self.crashes += 1;
    }

    fn dial(&mut self) {
        let rng = &mut self.rng;
        let mut schedules = [Schedule::random(rng), Schedule::random(rng)];
        if self.losses > 0 && rng.one_in(2) {
            self.losses -= 1;
            let reach = rng.pick(&[200, 2000, 10_000]);
            schedules[rng.below(2)].eof_at = Some(rng.below(reach) as u64);
        }
        let [to_server, to_client] = schedules;
        let (a, b) = pipe(rng, to_server, to_client);
        let (ours, theirs) = (Drive::random(rng), Drive::random(rng));
        let config = ServerConfig::new().structured_replies(!rng.one_in(5));
        // What was agreed on once must be agreed on again.
        let config = if self.app.is_some() { ServerConfig::new() } else { config };
        let export = ExportInfo::new(SIZE as u64, self.flags);
        let server = ServerSide::new(Link::new(b, theirs), config, export, self.fail_one_in);
        self.server = Some(server);
        let limits = Limits::default().max_in_flight(self.depth);
        let config = ClientConfig::new().block_sizes(false).limits(limits);
        let negotiation = Negotiation::new(config).expect("there is no name in it");
        self.line = Line::Haggling(Box::new(negotiation), Link::new(a, ours));
    }

    fn haggle(&mut self, mut negotiation: Box<Negotiation>, mut link: Link) -> Check {
        let wrote = link.write(&mut *negotiation, &Discard);
        let result = wrote.and_then(|()| link.read(&mut *negotiation, &mut Discard));
        while negotiation.poll_event().is_some() {}
        match result {
            Err(DriveError::Protocol(error)) if !error.is_transient() => {
                return Err(format!("the negotiation failed: {error}"));
            }
            Err(_) => return self.lose(None),
            Ok(()) if negotiation.phase() != Phase::Established => {
                self.line = Line::Haggling(negotiation, link);
                return Ok(());
            }
            Ok(()) => {}
        }
        match negotiation.finish() {
            Ok(client) => {
                self.welcome(client.negotiated())?;
                self.line = Line::Up(Box::new(client), link);
            }
            Err(unfinished) => self.line = Line::Haggling(unfinished, link),
        }
        Ok(())
    }

    fn welcome(&mut self, facts: &Negotiated) -> Check {
        match &mut self.app {
            Some(app) => app.resume(facts),
            None => {
                let (rng, depth) = (self.rng.fork(), self.depth as usize);
                let mut app = App::new(rng, &self.policy, facts, depth, &self.initial);
                app.cancel_one_in = self.cancel_one_in;
                self.app = Some(app);
                Ok(())
            }
        }
    }

    fn talk(&mut self, mut client: Box<Client>, mut link: Link) -> Check {
        let Some(app) = &mut self.app else {
            return Ok(());
        };
        app.cancel_some(Some(&mut client));
        if app.step(&mut client, &mut link)? {
            return self.lose(Some(client));
        }
        self.line = Line::Up(client, link);
        Ok(())
    }

    /// The client has noticed that its connection is gone, or leaves it.
    fn lose(&mut self, client: Option<Box<Client>>) -> Check {
        if let Some(server) = self.server.take() {
            let stopping = server.shutting_down;
            server.leave(&mut self.rng, &mut self.disk);
            if stopping && self.rng.one_in(2) {
                self.crash();
            }
        }
        let crashed = std::mem::take(&mut self.crashed);
        match &mut self.app {
            Some(app) if client.is_some() => app.lose(client, crashed),
            // The application knows of no connection that was never made; what a crash has
            // taken meanwhile it is to expect all the same.
            Some(app) if crashed => {
                app.model.lose(true);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After a flush nothing acknowledged is lost, whatever happens.
    fn check_remains(&mut self) -> Result<Report, String> {
        let mut flushed = !self.flags.contains(TransmissionFlags::SEND_FLUSH);
        for _ in 0..20 {
            if flushed {
                break;
            }
            flushed = self.flush()?;
        }
        let Some(app) = &mut self.app else {
            return Err("nobody was there".to_owned());
        };
        let durable = self.flags.contains(TransmissionFlags::SEND_FLUSH)
            || self.policy.kept_bytes().is_some();
        if !flushed {
            return Err("twenty flushes have failed".to_owned());
        }
        if durable {
            self.disk.crash(&mut self.rng);
            let remains = self.disk.read(0..SIZE);
            if let Some(at) = app.model.check_remains(remains) {
                return Err(format!("byte {at} was flushed, and lost"));
            }
        }
        app.report.crashes = self.crashes;
        Ok(app.report)
    }

    /// One flush, until it is over.
    fn flush(&mut self) -> Result<bool, String> {
        let Some(app) = &mut self.app else {
            return Ok(false);
        };
        let before = app.report.succeeded;
        app.submit(Command::flush())?;
        app.cancel_one_in = 0;
        let mut steps = 0;
        while !self.is_done() {
            steps += 1;
            if steps > MAX_STEPS {
                return Err("a flush without end".to_owned());
            }
            self.step()?;
        }
        Ok(self.app.as_ref().is_some_and(|app| app.report.succeeded > before))
    }
}
