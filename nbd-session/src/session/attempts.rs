//! How a session comes to its next connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_proto::{ClientConfig, HeaderStyle, Negotiated, TlsPolicy};
use nbd_transport::Endpoint;
use nbd_transport::tls::TlsConnector;

use super::choosing::OptionReply;
use super::step::{Connect, Step};
use crate::error::{Error, broken};
use crate::event::Event;
use crate::options::{ConnectOptions, Credentials, Target};
use crate::replay::Reconnect;
use crate::trace::Trace;

/// Events that are kept for whoever asks; older ones give way.
const MAX_EVENTS: usize = 64;

/// Everything that is of no use while a connection works.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) options: ConnectOptions,
    pub(super) trace: Trace,
    /// What is asked for; from the second connection on, what was agreed on before.
    pub(super) config: ClientConfig,
    connector: Option<TlsConnector>,
    /// Index of the endpoint that is connected to, or will be.
    at: usize,
    /// What failed in this round.
    failures: Vec<Error>,
    pub(super) generation: u64,
    /// What the stream is good at.
    pub(super) mode: IoMode,
    /// When this attempt began, and when it has to be done.
    pub(super) began: Instant,
    pub(super) by: Option<Instant>,
    /// When the first connection has to be ready.
    first_by: Option<Instant>,
    steps: VecDeque<Step>,
    events: VecDeque<Event>,
    seed: u64,
    /// What became of the option that was asked for.
    pub(super) option: Option<Result<OptionReply, Error>>,
}

/// What comes next after an attempt that failed.
pub(super) enum Next {
    /// The next endpoint, at once.
    Endpoint,
    /// All have been tried.
    Round(Vec<Error>),
}

impl Attempts {
    pub(super) fn new(options: ConnectOptions, seed: u64, now: Instant) -> Self {
        Self {
            config: options.config.clone(),
            trace: Trace::new(options.given_name()),
            connector: None,
            at: 0,
            failures: Vec::new(),
            generation: 0,
            mode: IoMode::Vectored,
            began: now,
            by: None,
            first_by: options.connect_timeout.and_then(|limit| now.checked_add(limit)),
            steps: VecDeque::new(),
            events: VecDeque::new(),
            seed,
            option: None,
            options,
        }
    }

    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    pub(super) fn has_step(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(super) fn ask(&mut self, step: Step) {
        self.steps.push_back(step);
    }

    /// The stream, or the making of one, is of no use any more.
    pub(super) fn close(&mut self, last_word: Vec<u8>) {
        // What was not even begun need not be stopped.
        let asked = |step: &Step| matches!(step, Step::Credentials(_) | Step::Connect(_));
        self.steps.retain(|step| !asked(step) && !matches!(step, Step::Shutdown { .. }));
        self.ask(Step::Close { generation: self.generation, last_word });
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.options.reconnect.is_none() {
            return;
        }
        self.trace.happened(&event);
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The server, by the name that the options have for it.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.options.endpoints.get(self.at)
    }

    /// Whether this connection is the one that was handed over. Servers are the way back.
    const fn is_given(&self) -> bool {
        self.options.given && self.generation == 1
    }

    /// Begins to connect; `last` is when patience ends, after a loss. Returns whether
    /// credentials have to be read first.
    pub(super) fn begin(&mut self, again: bool, last: Option<Instant>, now: Instant) -> bool {
        self.generation += 1;
        self.began = now;
        self.by = if again {
            let limit = self.options.connect_timeout.unwrap_or(Reconnect::LONGEST_ATTEMPT);
            now.checked_add(limit).into_iter().chain(last).min()
        } else {
            self.share(now)
        };
        match &self.options.tls {
            Credentials::Config(config)
                if self.connector.is_none()
                    && self.wants_tls()
                    && !self.options.late_credentials =>
            {
                let step = Step::Credentials(config.clone());
                self.ask(step);
                true
            }
            Credentials::Config(_) | Credentials::None => {
                self.connect();
                false
            }
            Credentials::Ready(connector) => {
                self.connector = Some(connector.clone());
                self.connect();
                false
            }
        }
    }

    /// Of the time for the first connection, each endpoint that is left has its share: the first
    /// that says nothing must not use up all of it.
    fn share(&self, now: Instant) -> Option<Instant> {
        let end = self.first_by?;
        let left = self.options.ways().saturating_sub(self.at).max(1);
        let time = end.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        now.checked_add(time)
    }

    /// In option mode TLS may be asked for by hand.
    fn wants_tls(&self) -> bool {
        self.config.tls_policy() != TlsPolicy::Disable || self.config.stops_for_options()
    }

    pub(super) fn take_credentials(&mut self, connector: TlsConnector) {
        self.connector = Some(connector);
        self.connect();
    }

    /// A server has agreed to TLS, and the credentials were not read yet.
    pub(super) fn ask_for_credentials(&mut self) {
        if let Credentials::Config(config) = &self.options.tls {
            let step = Step::Credentials(config.clone());
            self.ask(step);
        }
    }

    /// What was read for this connection is good for later ones.
    pub(super) fn keep_credentials(&mut self, connector: TlsConnector) {
        self.connector = Some(connector);
    }

    /// Whether credentials are read when a server has agreed to TLS.
    pub(super) fn has_late_credentials(&self) -> bool {
        self.options.late_credentials && matches!(self.options.tls, Credentials::Config(_))
    }

    fn connect(&mut self) {
        let target = match self.endpoint() {
            _ if self.is_given() => Target::Given,
            _ if self.options.dialled => Target::Dialler,
            Some(endpoint) => Target::Endpoint(endpoint.clone()),
            None => return broken("there is nobody to connect to"),
        };
        let tcp_keep_alive = self.options.tcp_probes();
        let (generation, by) = (self.generation, self.by);
        self.ask(Step::Connect(Connect { generation, target, by, tcp_keep_alive }));
    }

    pub(super) fn connector(&self) -> Option<&TlsConnector> {
        self.connector.as_ref()
    }

    /// The name with which a server's certificate is compared.
    pub(super) fn host(&self) -> Option<String> {
        self.endpoint()?.host()
    }

    /// How long this attempt has taken, if that is too long.
    pub(super) fn expired(&self, now: Instant) -> Option<Duration> {
        let by = self.by.filter(|by| *by <= now)?;
        Some(by.saturating_duration_since(self.began))
    }

    /// An attempt came to nothing.
    pub(super) fn failed(&mut self, cause: Error) -> Next {
        self.failures.push(cause);
        if self.is_given() {
            return Next::Round(std::mem::take(&mut self.failures));
        }
        let ways = self.options.ways().max(1);
        self.at = (self.at + 1) % ways;
        if self.failures.len() < ways {
            return Next::Endpoint;
        }
        Next::Round(std::mem::take(&mut self.failures))
    }

    /// There is a connection: from now on, the same is asked for.
    pub(super) fn opened(&mut self, config: &ClientConfig, export: &str, facts: &Negotiated) {
        self.failures.clear();
        self.by = None;
        let mut config = config
            .clone()
            .export(export)
            .option_mode(false)
            .structured_replies(facts.headers != HeaderStyle::Simple)
            .extended_headers(facts.headers == HeaderStyle::Extended)
            .clear_meta_contexts()
            .request_meta_contexts(true);
        // By their full names: a query may find others another time.
        for context in &facts.contexts {
            config = config.meta_context(&context.name);
        }
        if facts.tls {
            config = config.tls(TlsPolicy::Require);
        }
        self.config = config;
    }

    /// How long to wait before the next attempt.
    pub(super) fn delay(&mut self, policy: &Reconnect, attempts: u32) -> Duration {
        policy.delay(attempts, self.random())
    }

    /// The session has no chance of its own but what it was given (splitmix64).
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
