//! The story: time passes, and things go wrong.

use std::time::{Duration, Instant};

use nbd_proto::{ClientConfig, Disconnect, ExportInfo, Limits, ServerConfig, TransmissionFlags};
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, Event, Limit, Target};

use super::Report;
use super::application::Application;
use super::member::{Dialled, Member, Stream};
use crate::link::{Drive, Link};
use crate::pipe::{Schedule, pipe};
use crate::recovery::Check;
use crate::recovery::disk::VolatileDisk;
use crate::recovery::server::ServerSide;
use crate::rng::Rng;

/// Bytes of the disk: few, so that ranges overlap.
const SIZE: usize = 1024;
/// Steps that no story needs.
const MAX_STEPS: u64 = 500_000;
/// A server that owes an answer may be silent for so long.
const SILENCE: Duration = Duration::from_secs(30);
/// The same, with all that may come to it: it was looked at late, or had said something before.
const MOST_SILENCE: Duration = Duration::from_secs(43);
/// A server that is asked whether it is there may be silent for so long, likewise.
const MOST_UNASKED: Duration = Duration::from_secs(60);
/// After so long the system says that nobody is there.
const DEAD_NETWORK: Duration = Duration::from_secs(60);
/// Longer than all limits together.
const FOR_EVER: Duration = Duration::from_secs(400);

/// Everything that has a connection's other end.
struct Site {
    disk: VolatileDisk,
    export: ExportInfo,
    fail_one_in: usize,
    /// Things that are still to go wrong.
    faults: usize,
    last_fault: Instant,
}

pub(super) struct World {
    rng: Rng,
    start: Instant,
    now: Instant,
    site: Site,
    all: Vec<Member>,
    app: Application,
    commands: u64,
    resizes: bool,
    /// Whether there is a limit of silence, and whether servers are asked.
    limited: bool,
    asks: bool,
    /// Steps in which nothing has moved.
    still: usize,
    moves: u64,
}

impl Site {
    /// Somebody connects.
    fn dial(&mut self, rng: &mut Rng, again: bool, now: Instant) -> Dialled {
        let mut schedules = [Schedule::random(rng), Schedule::random(rng)];
        if self.faults > 0 && rng.one_in(if again { 3 } else { 20 }) {
            self.fault(now);
            match rng.below(4) {
                0 => return Dialled::Refused,
                1 => return Dialled::Never,
                _ => {
                    let reach = rng.pick(&[200, 2000, 10_000]);
                    schedules[rng.below(2)].eof_at = Some(rng.below(reach) as u64);
                }
            }
        }
        let [to_server, to_client] = schedules;
        let (ours, theirs) = pipe(rng, to_server, to_client);
        let link = Link::new(theirs, Drive::random(rng));
        let export = self.export.clone();
        let server = ServerSide::new(link, ServerConfig::new(), export, self.fail_one_in);
        Dialled::Done(ours, Box::new(server))
    }

    const fn fault(&mut self, now: Instant) {
        self.faults -= 1;
        self.last_fault = now;
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        use TransmissionFlags as Flag;
        let mut rng = Rng::new(seed);
        let mut initial = vec![0; SIZE];
        rng.fill(&mut initial);
        let flags = Flag::HAS_FLAGS
            | Flag::SEND_TRIM
            | Flag::SEND_WRITE_ZEROES
            | Flag::SEND_CACHE
            | Flag::SEND_FLUSH
            | Flag::SEND_FUA
            | Flag::CAN_MULTI_CONN;
        let size = rng.pick(&[1, 1, 2, 2, 3]);
        let lasts = !rng.one_in(5);
        let keeps = lasts && rng.one_in(2);
        let mut policy = Reconnect::new().allow_growth(rng.one_in(2));
        if keeps {
            policy = policy.keep_unflushed(rng.pick(&[0, 300, 3000, 1 << 30]));
        }
        let limits = Limits::default().max_in_flight(rng.pick(&[2, 16]));
        let second = Duration::from_secs(1);
        let limited = !rng.one_in(4);
        let asks = rng.one_in(2);
        let options = ConnectOptions::new()
            .config(ClientConfig::new().block_sizes(false).limits(limits))
            .target(Target::Dialler)
            .connect_timeout(10 * second)
            .silence(limited.then_some(SILENCE))
            .request_timeout(rng.pick(&[None, None, Some(5 * second)]))
            .keep_alive(asks.then_some(20 * second))
            .reconnect(lasts.then_some(policy));
        // Its value shows nowhere.
        let now = Instant::now();
        let all = (0..size).map(|_| Member::new(options.clone(), &mut rng, now)).collect();
        let app = Application::new(&mut rng, &initial, keeps, lasts && size == 1, size);
        Self {
            start: now,
            now,
            site: Site {
                disk: VolatileDisk::new(initial),
                export: ExportInfo::new(SIZE as u64, flags),
                // A repetition that fails is the end, and not what is looked for here.
                fail_one_in: if keeps { 0 } else { rng.pick(&[0, 0, 20]) },
                faults: rng.below(7),
                last_fault: now,
            },
            all,
            app,
            commands: rng.pick(&[20, 60, 150]),
            resizes: rng.one_in(6),
            limited,
            asks,
            still: 0,
            moves: 0,
            rng,
        }
    }

    pub(super) fn run(&mut self) -> Result<Report, String> {
        self.go_on(|world| world.app.report.submitted >= world.commands && world.app.is_idle())?;
        let flushed = self.check_remains()?;
        self.say_goodbye(flushed)?;
        let mut report = self.app.report;
        report.seconds = (self.now - self.start).as_secs();
        report.connections = self.all.iter().map(|member| member.session.stats().connections).sum();
        Ok(report)
    }

    /// Until it is so, or all sessions are over and everybody was told.
    fn go_on(&mut self, until: impl Fn(&Self) -> bool) -> Check {
        let begun = self.now;
        for _ in 0..MAX_STEPS {
            let over = self.all.iter().all(|member| member.session.is_over());
            if until(self) || over && self.app.is_idle() {
                return Ok(());
            }
            self.step()?;
            let since = self.site.last_fault.max(begun);
            if self.now > since + FOR_EVER && self.app.report.submitted >= self.commands {
                return Err("a call is held for ever".to_owned());
            }
        }
        Err(format!("no end after {MAX_STEPS} steps"))
    }

    fn step(&mut self) -> Check {
        let Self { rng, all, app, now, .. } = self;
        if app.report.submitted < self.commands && rng.one_in(3) {
            let frozen =
                |member: &Member| member.stream.as_ref().is_some_and(|it| it.frozen.is_some());
            let plain = all.iter().any(frozen);
            app.ask(all, plain, rng, *now)?;
        }
        app.withdraw_some(all, rng, *now);
        if self.site.faults > 0 && self.rng.one_in(150) {
            self.site.fault(self.now);
            self.strike();
        }
        let at = self.rng.below(self.all.len());
        if self.rng.one_in(2) {
            if let Some(Stream { server: Some(server), frozen: None, .. }) =
                &mut self.all[at].stream
            {
                server.lenient = self.app.has_strays;
                server.step(&mut self.rng, &mut self.site.disk)?;
            }
        } else {
            self.turn(at)?;
        }
        self.pass_time()
    }

    fn turn(&mut self, at: usize) -> Check {
        let Self { rng, all, app, now, site, .. } = self;
        let closed = all[at].turn(*now, |rng, again| site.dial(rng, again, *now), rng)?;
        for server in closed {
            server.leave(rng, &mut site.disk);
        }
        app.is_told_of_a_loss = false;
        while let Some(event) = all[at].session.next_event() {
            if let Event::Lost { .. } = event {
                app.losses += 1;
                app.model.lose(false);
                app.is_told_of_a_loss = true;
            }
        }
        app.let_join(all, *now);
        app.take(all, at, rng, *now)?;
        app.count_out(all);
        Ok(())
    }

    /// A little, or up to the next deadline when nothing moves.
    fn pass_time(&mut self) -> Check {
        let moves = self.all.iter().map(Member::moves).sum::<u64>() + self.app.report.submitted;
        self.still = if moves == self.moves { self.still + 1 } else { 0 };
        self.moves = moves;
        if self.still > 40 * self.all.len() {
            self.still = 0;
            let deadlines = self.all.iter().filter_map(|member| member.session.next_deadline());
            let next = deadlines.min().unwrap_or(self.now + Duration::from_secs(1));
            self.now = self.now.max(next);
        } else if self.rng.one_in(20) {
            self.now += Duration::from_millis(self.rng.below(20) as u64);
        }
        self.look_at_silence()
    }

    /// Whoever is not answered any more has to notice.
    fn look_at_silence(&mut self) -> Check {
        let now = self.now;
        for member in &mut self.all {
            let Some(stream) = &mut member.stream else { continue };
            let (Some(core), Some(frozen)) = (member.session.core(), stream.frozen) else {
                continue;
            };
            let outstanding = core.outstanding();
            // What finds it out, and how soon.
            let most = match outstanding.sent_operations() {
                0 if outstanding.transfers == 0 => None,
                0 if self.limited => Some(MOST_SILENCE),
                // That may take as long as it likes where nothing else is answered meanwhile.
                some if self.asks && some <= outstanding.overtaken => Some(MOST_UNASKED),
                _ => None,
            };
            match most {
                None => {
                    stream.owes = None;
                    if outstanding.all() > 0 && now > frozen + DEAD_NETWORK {
                        let dead = std::io::Error::from(std::io::ErrorKind::TimedOut);
                        member.session.fail(dead, now);
                    }
                }
                Some(most) => {
                    let (since, _) = *stream
                        .owes
                        .insert(stream.owes.filter(|(_, old)| *old == most).unwrap_or((now, most)));
                    if now > since + most {
                        return Err("a server that is silent is kept".to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn strike(&mut self) {
        let at = self.rng.below(self.all.len());
        match self.rng.below(7) {
            0 | 1 => self.crash(),
            2 => {
                let server = self.all[at].stream.as_mut().and_then(|it| it.server.take());
                if let Some(server) = server {
                    server.leave(&mut self.rng, &mut self.site.disk);
                }
            }
            3 | 4 => {
                self.all[at].freeze(self.now);
                self.app.report.silences += 1;
            }
            5 => {
                for stream in self.all.iter_mut().filter_map(|member| member.stream.as_mut()) {
                    if let Some(server) = &mut stream.server {
                        server.shutting_down = true;
                    }
                }
            }
            _ => self.jump(),
        }
    }

    /// The machine was asleep.
    fn jump(&mut self) {
        self.now += Duration::from_secs(self.rng.pick(&[8, 100, 3600]));
        self.site.last_fault = self.now;
        for stream in self.all.iter_mut().filter_map(|member| member.stream.as_mut()) {
            stream.owes = stream.owes.map(|(_, most)| (self.now, most));
        }
        self.app.report.jumps += 1;
    }

    /// The server dies, and is started again.
    fn crash(&mut self) {
        self.site.disk.crash(&mut self.rng);
        self.all.iter_mut().for_each(Member::crash);
        self.app.model.lose(true);
        if self.all.len() > 1 {
            self.app.model.lose_sight();
        }
        self.app.model.calm();
        self.app.has_strays = false;
        self.app.report.crashes += 1;
        if self.resizes {
            let size = self.rng.pick(&[2 * SIZE, SIZE / 2]);
            self.site.export.size = size as u64;
            self.site.disk.resize(size);
            self.app.model.grow(size);
            self.resizes = false;
        }
    }

    /// After a flush nothing acknowledged is lost, whatever happens. Returns whether there was
    /// one.
    fn check_remains(&mut self) -> Result<bool, String> {
        for _ in 0..20 {
            let before = self.app.report.succeeded;
            self.app.flush(&mut self.all, self.now)?;
            self.go_on(|world| world.app.is_idle())?;
            if self.app.report.succeeded > before {
                self.site.disk.crash(&mut self.rng);
                let size = (self.site.export.size as usize).min(SIZE);
                let remains = self.site.disk.read(0..size);
                if let Some(at) = self.app.model.check_remains(remains) {
                    return Err(format!("byte {at} was flushed, and lost"));
                }
                return Ok(true);
            }
            // A connection that is ending ends meanwhile.
            for _ in 0..1000 {
                self.step()?;
            }
        }
        match self.all.iter().all(|member| member.session.is_over()) {
            true => Ok(false),
            false => Err("twenty flushes have failed".to_owned()),
        }
    }

    fn say_goodbye(&mut self, flushed: bool) -> Check {
        let alive = |member: &Member| !member.session.is_over();
        let alive: Vec<_> = self.all.iter().map(|member| flushed && alive(member)).collect();
        let limit = Limit::within(Duration::from_secs(60), self.now);
        for member in &mut self.all {
            member.session.disconnect(Disconnect::AfterReplies, limit, self.now);
        }
        self.go_on(|world| world.all.iter().all(|member| member.session.is_over()))?;
        for (at, was_alive) in alive.into_iter().enumerate() {
            self.turn(at)?;
            let member = &self.all[at];
            if member.session.in_flight() > 0 || !member.lent.0.is_empty() {
                return Err(format!("something is kept for ever: {:?}", member.lent));
            }
            if let Err(error) = member.session.farewell()
                && was_alive
                && !error.is_timeout()
                && !self.app.has_strays
            {
                return Err(format!("a goodbye after a flush: {error}"));
            }
        }
        Ok(())
    }
}
