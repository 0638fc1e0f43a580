//! What the suite asks of an adapter, in the shape of calls that wait.

mod asynchronous;
pub(crate) mod beyond;
mod blocking;
mod host;
mod mio;
mod mio_options;

use std::time::Duration;

use nbd_proto::{
    ClientConfig, Command, CommandFlags, ContextId, ExportEntry, Extent, MetaContext, Negotiated,
    TlsPolicy,
};
use nbd_session::ConnectOptions;
use nbd_transport::UriPolicy;
use nbd_transport::tls::{TlsConnector, TlsInfo};

use crate::outcome::{Op, Outcome, Reply};
use asynchronous::Asynchronous;
use blocking::Blocking;
use host::{CurrentThread, MultiThread, OnAsyncStd, OnCompio, OnSmol};
use mio::Mio;

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// `nbd-client-blocking`.
    Blocking,
    /// `nbd-client-mio`.
    Mio,
    /// `nbd-client-tokio` on a runtime of one thread.
    TokioCurrentThread,
    /// `nbd-client-tokio` on a runtime of two threads.
    TokioMultiThread,
    /// `nbd-client-futures` on async-std.
    AsyncStd,
    /// `nbd-client-futures` on smol.
    Smol,
    /// `nbd-client-compio` on whatever the system has.
    Compio,
    /// `nbd-client-compio` where there is no io_uring.
    CompioPolling,
}

impl Adapter {
    pub(crate) fn subject(self) -> Box<dyn Subject> {
        match self {
            Self::Blocking => Box::new(Blocking),
            Self::Mio => Box::new(Mio),
            Self::TokioCurrentThread => Box::new(Asynchronous(CurrentThread::new())),
            Self::TokioMultiThread => Box::new(Asynchronous(MultiThread::new())),
            Self::AsyncStd => Box::new(Asynchronous(OnAsyncStd)),
            Self::Smol => Box::new(Asynchronous(OnSmol)),
            Self::Compio => Box::new(Asynchronous(OnCompio::new())),
            Self::CompioPolling => Box::new(Asynchronous(OnCompio::polling())),
        }
    }
}

/// How to connect, and to what.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) uri: String,
    /// What the rest is added to.
    pub(crate) base: ConnectOptions,
    pub(crate) config: ClientConfig,
    /// TLS by the program's own choice, in place of the URI's.
    pub(crate) tls: Option<(TlsPolicy, TlsConnector)>,
    pub(crate) timeout: Duration,
}

impl How {
    fn options(&self) -> Outcome<ConnectOptions> {
        let options = self.base.clone().config(self.config.clone()).uri_policy(POLICY);
        let options = options.connect_timeout(self.timeout).request_timeout(self.timeout);
        let options = match &self.tls {
            Some((policy, connector)) => options.tls_connector(*policy, connector.clone()),
            None => options,
        };
        Ok(options.uri(&self.uri)?)
    }
}

/// The tests' URIs name the files of their credentials.
const POLICY: UriPolicy = UriPolicy::new().local_files(true);

/// An adapter.
pub(crate) trait Subject {
    /// Whether a long read or write becomes as many commands as it takes.
    fn splits(&self) -> bool;

    /// Connects and negotiates.
    fn connect(&self, how: &How) -> Outcome<Box<dyn Session>>;

    /// Connects and stops to ask and choose.
    fn negotiate(&self, how: &How) -> Outcome<Box<dyn Choosing>>;
}

/// A connection to an export.
pub(crate) trait Session {
    /// What was negotiated.
    fn facts(&self) -> Negotiated;

    fn tls_info(&self) -> Option<TlsInfo>;

    fn read(&mut self, offset: u64, length: usize) -> Outcome<Vec<u8>>;

    fn write(&mut self, offset: u64, data: &[u8], flags: CommandFlags) -> Outcome;

    /// One command without payload, or one with payload that is to be refused.
    fn run(&mut self, command: Command) -> Outcome;

    fn flush(&mut self) -> Outcome {
        self.run(Command::flush())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> Outcome {
        self.run(Command::write_zeroes(offset, length))
    }

    fn status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Outcome<Vec<(ContextId, Extent)>>;

    /// Many commands at the same time. `meanwhile` is called once all that there is room
    /// for have been submitted, and before anything is waited for.
    fn batch(&mut self, ops: Vec<Op>, meanwhile: &mut dyn FnMut()) -> Vec<Outcome<Reply>>;

    /// Longest time for each call from now on.
    fn set_timeout(&mut self, timeout: Duration) -> Outcome;

    /// Ends in good order. What is left can still be called, unless there is nothing left
    /// because the compiler forbids it.
    fn disconnect(self: Box<Self>) -> Outcome<Option<Box<dyn Session>>>;
}

/// A connection whose export is not chosen yet.
pub(crate) trait Choosing {
    fn list(&mut self) -> Outcome<Vec<ExportEntry>>;

    fn info(&mut self) -> Outcome<Negotiated>;

    fn list_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>>;

    fn set_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>>;

    fn set_export_name(&mut self, name: &str) -> Outcome;

    /// Chooses. A refusal gives the connection back.
    fn go(self: Box<Self>) -> Result<Box<dyn Session>, Refused>;

    /// Ends in good order.
    fn abort(self: Box<Self>) -> Outcome;
}

/// The choice failed; what is left, to choose something else.
pub(crate) struct Refused {
    pub(crate) failure: crate::outcome::Failure,
    pub(crate) rest: Option<Box<dyn Choosing>>,
}
