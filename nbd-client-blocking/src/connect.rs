//! The ways to a connection.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use nbd_session::{ConnectOptions, Error, Event, Target};
use nbd_transport::Connection;

use crate::client::Client;
use crate::dial::{Function, Source};
use crate::driver::Driver;
use crate::options::Options;

impl Client {
    /// Connects to a URI, such as `nbd://host/export` or
    /// `nbd+unix:///export?socket=/path`, or as [`ConnectOptions`] say.
    ///
    /// ```no_run
    /// use nbd_client_blocking::{Client, ConnectOptions};
    /// use std::time::Duration;
    ///
    /// println!("{} bytes", Client::connect("nbd://localhost/disk")?.size());
    /// let options: ConnectOptions = "nbd://localhost/disk".parse()?;
    /// let options = options
    ///     .meta_context("base:allocation")
    ///     .connect_timeout(Duration::from_secs(10))
    ///     .request_timeout(Duration::from_secs(30));
    /// println!("{} bytes", Client::connect(options)?.size());
    /// # Ok::<(), nbd_client_blocking::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    #[doc(alias("nbd_connect_uri", "nbd_with_handle", "nbd_aio_connect_uri"))]
    pub fn connect<O>(to: O) -> Result<Self, Error>
    where
        O: TryInto<ConnectOptions, Error: Into<Error>>,
    {
        let options = to.try_into().map_err(Into::into)?;
        Self::new(begin(options, Source::None, false, None)?)
    }

    /// As [`connect`](Self::connect), unless `stop` has something to read, or is at its end,
    /// before that is done.
    pub(crate) fn connect_unless(
        options: &ConnectOptions,
        stop: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        Self::new(begin(options.clone(), Source::None, false, Some(stop))?)
    }

    /// Negotiates over a connection that is there already. When it is lost and to be made
    /// [again](ConnectOptions::reconnect), what the options connect to is connected to.
    ///
    /// # Errors
    /// When the server refuses, or the connection is to be made again and the options do not
    /// say to whom.
    #[doc(alias("nbd_connect_socket", "nbd_aio_connect_socket"))]
    pub fn connect_over(options: ConnectOptions, connection: Connection) -> Result<Self, Error> {
        let (options, source) = given(options, connection);
        Self::new(begin(options, source, false, None)?)
    }

    /// Connects by `dial`, whatever servers the options name, which is called with the time by which it has to be done, and once
    /// more for each attempt to make the connection again, from a thread that ends with the
    /// attempt. Nothing else than that time ends `dial`; a client that is dropped leaves it
    /// behind.
    ///
    /// # Errors
    /// When `dial` says so, or the server refuses.
    pub fn connect_with(
        options: ConnectOptions,
        dial: impl Fn(Option<Instant>) -> Result<Connection, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let options = options.target(Target::Dialler);
        Self::new(begin(options, Source::Dialler(Function(Arc::new(dial))), false, None)?)
    }

    /// Has somebody told when the connection is lost, and what becomes of it. Called in the
    /// middle of the client's calls, on whose thread it is.
    pub fn on_event(&mut self, observe: impl Fn(&Event) + Send + Sync + 'static) {
        self.driver.observer = Some(Function(Arc::new(observe)));
    }
}

impl Options {
    /// Connects as [`Client::connect`] does and stops for the caller to ask and choose, if the
    /// server knows how to.
    ///
    /// # Errors
    /// As [`Client::connect`].
    #[doc(alias("nbd_set_opt_mode", "nbd_get_opt_mode"))]
    pub fn connect<O>(to: O) -> Result<Self, Error>
    where
        O: TryInto<ConnectOptions, Error: Into<Error>>,
    {
        let options = to.try_into().map_err(Into::into)?;
        Ok(Self { driver: begin(options, Source::None, true, None)? })
    }

    /// Negotiates over a connection that is there already, and stops for the caller to ask
    /// and choose.
    ///
    /// # Errors
    /// As [`Client::connect_over`].
    #[doc(alias("nbd_set_opt_mode", "nbd_get_opt_mode"))]
    pub fn connect_over(options: ConnectOptions, connection: Connection) -> Result<Self, Error> {
        let (options, source) = given(options, connection);
        Ok(Self { driver: begin(options, source, true, None)? })
    }
}

fn given(options: ConnectOptions, connection: Connection) -> (ConnectOptions, Source) {
    (options.target(Target::Given), Source::Given(Some(Box::new(connection))))
}

fn begin(
    options: ConnectOptions,
    source: Source,
    pause: bool,
    stop: Option<BorrowedFd<'_>>,
) -> Result<Driver, Error> {
    let config = options.negotiation().clone().option_mode(pause);
    Driver::connect(options.config(config), source, stop)
}
