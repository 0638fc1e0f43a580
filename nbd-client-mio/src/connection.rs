//! A connection: the event source, and what can be asked of it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Interest, Registry, Token, Waker};
use nbd_proto::{Buffers, ClientConfig, Disconnect, RequestId};
use nbd_session::{
    ConnectOptions, Error, Limit, OptionReply, OptionRequest, Session, State, Target, Ticket,
};

use crate::completion::OnDone;
use crate::registration::Registration;
use crate::submitter::{Submission, Submitter};
use crate::wire::{Dialler, Wire};

/// A connection to an export, as an event source.
///
/// Register it: it follows what it waits for by itself, over any number of sockets, with as few
/// calls to the registry as there are changes. The poller tells of each readiness once; so call
/// [`drive`](Self::drive) after every event, after submitting, and as long as
/// [`needs_drive`](Self::needs_drive).
///
/// Buffers are given up on submission and come back with the completion: `Vec<u8>`,
/// `Box<[u8]>`, or anything else that is bytes. Those of a
/// [`BufferPool`](nbd_session::BufferPool) have no memory while they wait. Offsets and lengths
/// are in bytes from the start of the export.
///
/// Dropping it closes the connection abruptly; [`disconnect`](Self::disconnect) does
/// it in good order.
pub struct Connection<B> {
    pub(crate) session: Session,
    pub(crate) wire: Wire,
    pub(crate) buffers: Buffers<B>,
    /// Commands of other threads that are in flight.
    pub(crate) remote: Buffers<OnDone<B>>,
    /// Those that wait for room.
    pub(crate) waiting: HashMap<Ticket, Submission<B>>,
    pub(crate) submissions: Receiver<Submission<B>>,
    pub(crate) submitter: Submitter<B>,
    /// Commands that nobody waits for any more, and who says so.
    pub(crate) withdrawn: (Sender<RequestId>, Receiver<RequestId>),
    pub(crate) registration: Option<Registration>,
    pub(crate) dialler: Option<Dialler>,
    /// The poller has told that the peer will send no more.
    pub(crate) peer_is_done: bool,
    /// There is something to do before the next poll, of which the session does not know.
    pub(crate) again: bool,
    /// Why it is over has been told.
    pub(crate) told: bool,
}

impl<B> Connection<B> {
    /// Begins to connect, as told. Nothing waits: addresses and Unix sockets are connected to
    /// without waiting, programs are started; only for a name that has to be resolved is there
    /// a helper thread until it is, since the system's resolver knows no other way.
    ///
    /// ```no_run
    /// use nbd_client_mio::{ConnectOptions, Connection};
    ///
    /// let disk = Connection::<Vec<u8>>::connect("nbd://localhost/disk")?;
    /// let options: ConnectOptions = "nbd://localhost/other".parse()?;
    /// let other = Connection::<Vec<u8>>::connect(options.meta_context("base:allocation"))?;
    /// # Ok::<(), nbd_client_mio::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, a name is too long or contains NUL, or there is nobody to connect to.
    #[doc(alias("nbd_aio_connect_uri", "nbd_aio_connect_tcp", "nbd_aio_connect_unix"))]
    #[doc(alias("nbd_aio_connect_vsock", "nbd_aio_connect_command"))]
    #[doc(alias("nbd_aio_connect_systemd_socket_activation"))]
    pub fn connect<O>(to: O) -> Result<Self, Error>
    where
        O: TryInto<ConnectOptions>,
        Error: From<O::Error>,
    {
        Self::new(to.try_into()?, None)
    }

    /// As [`connect`](Self::connect), in the caller's own way, whatever servers the options name.
    /// `dial` is called for each connection, in the loop's thread, and must not wait.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(
        options: ConnectOptions,
        dial: impl FnMut(&nbd_session::Connect) -> Result<nbd_transport::Connection, Error>
        + Send
        + 'static,
    ) -> Result<Self, Error> {
        Self::new(options.target(Target::Dialler), Some(Box::new(dial)))
    }

    /// Takes over a connection that is there already. When it is lost and to be made
    /// [again](ConnectOptions::reconnect), what the options connect to is connected to.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); and when the connection is to be made again and the options
    /// do not say to whom.
    #[doc(alias("nbd_aio_connect", "nbd_aio_connect_socket"))]
    pub fn connect_over(
        options: ConnectOptions,
        connection: nbd_transport::Connection,
    ) -> Result<Self, Error> {
        let mut given = Some(connection);
        let once = move |_: &_| given.take().ok_or_else(Error::stopped);
        Self::new(options.target(Target::Given), Some(Box::new(once)))
    }

    pub(crate) fn new(options: ConnectOptions, dialler: Option<Dialler>) -> Result<Self, Error> {
        // Another one in each session, so that many that are lost at once do not come back in
        // step.
        let (line, submissions) = channel();
        let seed = RandomState::new().hash_one(());
        let mut this = Self {
            session: Session::new(options, seed, Instant::now())?,
            wire: Wire::default(),
            buffers: Buffers::new(),
            remote: Buffers::new(),
            waiting: HashMap::new(),
            submissions,
            submitter: Submitter { line, rung: Arc::default(), waker: None },
            withdrawn: channel(),
            registration: None,
            dialler,
            peer_is_done: false,
            again: true,
            told: false,
        };
        // For there to be something to register.
        this.take_steps(Instant::now());
        Ok(this)
    }

    /// The session: for questions about the export ([`export`](Session::export)), what was
    /// negotiated, also for TLS ([`tls_info`](Session::tls_info)), and the commands in flight.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// What it is doing.
    #[must_use]
    #[doc(alias("nbd_aio_is_ready", "nbd_aio_is_connecting", "nbd_aio_is_negotiating"))]
    #[doc(alias("nbd_aio_is_closed"))]
    pub fn state(&self) -> State {
        self.session.state()
    }

    /// Why the connection ended, once it is [`State::Closed`]; `None` for one that has ended
    /// in good order. Writes that were acknowledged and not flushed may be lost then, and
    /// what was under way has failed.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.session.error().cloned()
    }

    /// What happened to the connection since the last call, if it is one that reconnects.
    pub fn next_event(&mut self) -> Option<nbd_session::Event> {
        self.session.next_event()
    }

    /// Notes what the poller told. A call to [`drive`](Self::drive) is to follow.
    pub fn handle_event(&mut self, event: &Event) {
        // A lookup and a program that is awaited hang up as well, and mean nothing by it.
        let is_peer = self.wire.connection().is_some();
        self.peer_is_done |= is_peer && (event.is_read_closed() || event.is_error());
        self.again = true;
        if let Some(registration) = &mut self.registration {
            // It is listened to.
            registration.unasked = 0;
        }
    }

    /// Whether there is something to do right now: an event was noted, something was
    /// submitted, the last drive ended with its budget, other threads have commands in
    /// line, or replies have come so fast that the poller was left out. Drive it before polling
    /// again, or poll with no timeout.
    #[must_use]
    pub fn needs_drive(&self) -> bool {
        self.again || self.session.needs_drive() || self.submitter.rung.load(Ordering::Acquire) != 0
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before:
    /// poll no longer than until then.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # fn example(disk: &nbd_client_mio::Connection<Vec<u8>>, poll: &mut mio::Poll,
    /// #     events: &mut mio::Events) -> std::io::Result<()> {
    /// let left = disk.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
    /// poll.poll(events, left)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.session.next_deadline().into_iter().chain(self.wire.next_deadline()).min()
    }

    /// Does what is due: a command that has taken too long is finished, without harm to the
    /// others; a server that has been silent for too long is a lost connection; the next
    /// attempt to connect is made. Finding nothing to do is no fault. A call to
    /// [`drive`](Self::drive) is to follow.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
        self.again = true;
    }

    /// A handle to submit commands from other threads. `waker` is that of the poll this
    /// connection is registered with; after its event, drive every connection that
    /// [needs it](Self::needs_drive).
    #[must_use]
    pub fn submitter(&self, waker: Arc<Waker>) -> Submitter<B> {
        Submitter { waker: Some(waker), ..self.submitter.clone() }
    }

    /// In option mode ([`ClientConfig::option_mode`]), once it is [`State::Choosing`]: asks the
    /// server for something. [`take_option`](Self::take_option) has the answer, which may take
    /// some drives.
    ///
    /// # Errors
    /// In any other state, when the server cannot be asked, and for a bad name.
    #[doc(alias("nbd_aio_opt_go", "nbd_aio_opt_info", "nbd_aio_opt_list", "nbd_aio_opt_abort"))]
    #[doc(alias("nbd_aio_opt_list_meta_context"))]
    pub fn request_option(&mut self, request: OptionRequest, limit: Limit) -> Result<(), Error> {
        self.again = true;
        self.session.request_option(request, limit, Instant::now())
    }

    /// What became of the option that was asked for, once that is known.
    pub fn take_option(&mut self) -> Option<Result<OptionReply, Error>> {
        self.session.take_option()
    }

    /// Asks for another export from now on, in [`State::Choosing`].
    ///
    /// # Errors
    /// In any other state, and when the name is too long or contains NUL.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        self.session.set_export_name(name)
    }

    /// Changes what is asked for from now on, in [`State::Choosing`].
    ///
    /// # Errors
    /// In any other state, and when a name is too long or contains NUL.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        self.session.reconfigure(change)
    }

    /// How long commands may take that are submitted from now on, in place of
    /// [`ConnectOptions::request_timeout`].
    pub fn set_request_timeout(&mut self, limit: impl Into<Option<Duration>>) {
        self.session.set_request_timeout(limit);
    }

    /// Ends the session in good order: no command is accepted from now on, and once
    /// the last reply has come the server is asked to close. Drive until
    /// [`State::Closed`]; the last drive, or [`error`](Self::error), tells whether it went well.
    #[doc(alias = "nbd_aio_disconnect")]
    pub fn disconnect(&mut self, limit: Limit) {
        self.again = true;
        self.session.disconnect(Disconnect::AfterReplies, limit, Instant::now());
    }

    /// A URI that leads to the same export.
    ///
    /// # Errors
    /// When the server has no address.
    #[doc(alias = "nbd_get_uri")]
    pub fn to_uri(&self) -> Result<nbd_transport::NbdUri, nbd_transport::UriError> {
        let peer = self.wire.connection().and_then(|connection| connection.stream.peer());
        self.session.to_uri(peer.as_ref())
    }
}

/// It follows what it waits for; the interest that is given makes no difference. Between two
/// connections there is nothing to watch.
impl<B> Source for Connection<B> {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        let mut registration = Registration::new(token);
        let direction = self.session.direction();
        registration.follow(registry, false, |watch| self.wire.watched(direction, watch))?;
        self.registration = Some(registration);
        Ok(())
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.deregister(registry)?;
        self.register(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let Some(mut registration) = self.registration.take() else { return Ok(()) };
        registration.leave(registry, |watch| self.wire.watched(self.session.direction(), watch))
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("session", &self.session)
            .field("registration", &self.registration)
            .finish_non_exhaustive()
    }
}
