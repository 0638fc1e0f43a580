//! From options to a client, on a runtime.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nbd_session::{ConnectOptions, Error, Session, State, Target};

use crate::client::Client;
use crate::driver::Driver;
use crate::into_stream::IntoStream;
use crate::options::Options;
use crate::pool::Pool;
use crate::runtime::Runtime;
use crate::way::{Source, dialler, given};

/// Connects as [`ConnectOptions`] say, on a runtime.
///
/// The runtime is never blocked: connections are made without waiting, and names are looked up
/// and files read where the runtime lets work block.
///
/// ```
/// use nbd_client_async::{Client, ConnectOptions, Connector, Error, Runtime};
/// use std::time::Duration;
///
/// async fn connect<R: Runtime + Clone>(runtime: R) -> Result<Client, Error> {
///     let options: ConnectOptions = "nbd://localhost/disk".parse()?;
///     let options = options
///         .meta_context("base:allocation")
///         .connect_timeout(Duration::from_secs(10))
///         .request_timeout(Duration::from_secs(30));
///     Connector::on(runtime, options).connect().await
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Connector<R> {
    runtime: R,
    options: ConnectOptions,
}

impl<R: Runtime + Clone + Default> Connector<R> {
    /// With these options.
    ///
    /// ```
    /// # use nbd_client_async::{ConnectOptions, Connector, Error, Runtime};
    /// # fn example<Tokio: Runtime + Clone + Default>() -> Result<(), Error> {
    /// let connector = Connector::<Tokio>::new("nbd://localhost/disk".parse()?);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(options: ConnectOptions) -> Self {
        Self::on(R::default(), options)
    }
}

impl<R: Runtime + Clone> Connector<R> {
    /// The same for a given runtime.
    ///
    /// ```
    /// # use nbd_client_async::{ConnectOptions, Connector, Runtime};
    /// # fn example(runtime: impl Runtime + Clone, options: ConnectOptions) {
    /// let connector = Connector::on(runtime, options);
    /// # }
    /// ```
    #[must_use]
    pub const fn on(runtime: R, options: ConnectOptions) -> Self {
        Self { runtime, options }
    }

    /// What was asked for.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Runtime};
    /// # fn example(connector: Connector<impl Runtime + Clone>) {
    /// println!("{:?}", connector.options().endpoints());
    /// # }
    /// ```
    #[must_use]
    pub const fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Connects to what the options name.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, Runtime};
    /// # async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
    /// let client = connector.connect().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When nobody answers, the server refuses, or there is nobody to connect to.
    #[doc(alias = "nbd_connect_uri")]
    #[doc(alias = "nbd_connect_tcp")]
    #[doc(alias = "nbd_connect_unix")]
    #[doc(alias = "nbd_connect_command")]
    pub async fn connect(&self) -> Result<Client, Error> {
        self.open(self.options.clone(), given(None)).await
    }

    /// Negotiates over a connection that is there already. When it is lost and to be made
    /// [again](ConnectOptions::reconnect), what the options connect to is connected to; where only
    /// the caller can, see [`connect_with`](Self::connect_with).
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, Runtime};
    /// # async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
    /// let socket = std::os::unix::net::UnixStream::connect("/run/nbd.sock")?;
    /// let client = connector.connect_over(socket).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it fails, or the server refuses.
    #[doc(alias = "nbd_connect_socket")]
    pub async fn connect_over<T>(&self, stream: impl IntoStream<T>) -> Result<Client, Error> {
        self.open(self.over_given(), given(Some(stream.into_stream()?))).await
    }

    /// Negotiates over any stream, whatever servers the options name, and asks for another one
    /// whenever it is lost, if [`ConnectOptions::reconnect`] says so.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, IntoStream, Runtime};
    /// # async fn example<S: IntoStream<T> + 'static, T: 'static>(
    /// #     connector: Connector<impl Runtime + Clone>,
    /// #     tunnel: fn() -> S,
    /// # ) -> Result<(), Error> {
    /// let client = connector.connect_with(move || async move { Ok(tunnel()) }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When there is no stream, it fails, or the server refuses.
    pub async fn connect_with<F, S, T>(
        &self,
        dial: impl Fn() -> F + Send + 'static,
    ) -> Result<Client, Error>
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: IntoStream<T>,
    {
        let options = self.options.clone().target(Target::Dialler);
        self.open(options, dialler(dial)).await
    }

    /// Opens up to `size` connections. See [`Pool`]. The first is there when this returns; the
    /// others are made meanwhile.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, Runtime};
    /// # async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
    /// let pool = connector.connect_pool(4).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the first of them cannot be opened.
    pub async fn connect_pool(&self, size: usize) -> Result<Pool, Error> {
        let first = self.connect().await?;
        let connector = self.clone();
        Ok(Pool::growing(first, size, move |number| {
            let options = connector.options.for_member(number);
            let connector = Self { options, ..connector.clone() };
            async move { connector.connect().await }
        }))
    }

    /// Connects to what the options name, and stops for the caller to ask and choose, if the
    /// server knows how to.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, Runtime};
    /// # async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
    /// let mut options = connector.negotiate().await?;
    /// println!("{:?}", options.list().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    #[doc(alias = "nbd_set_opt_mode")]
    pub async fn negotiate(&self) -> Result<Options, Error> {
        self.choose(self.options.clone(), given(None)).await
    }

    /// Negotiates over a connection that is there already, and stops for the caller to
    /// ask and choose.
    ///
    /// ```
    /// # use nbd_client_async::{Connector, Error, IntoStream, Runtime};
    /// # async fn example<T>(
    /// #     connector: Connector<impl Runtime + Clone>,
    /// #     stream: impl IntoStream<T>,
    /// # ) -> Result<(), Error> {
    /// let options = connector.negotiate_over(stream).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it fails, or the server refuses.
    pub async fn negotiate_over<T>(&self, stream: impl IntoStream<T>) -> Result<Options, Error> {
        self.choose(self.over_given(), given(Some(stream.into_stream()?))).await
    }

    fn over_given(&self) -> ConnectOptions {
        self.options.clone().target(Target::Given)
    }

    async fn open(&self, options: ConnectOptions, source: Source) -> Result<Client, Error> {
        let mut driver = self.driver(options, source, false)?;
        driver.until(|session| session.is_ready().then_some(())).await?;
        driver.into_client()
    }

    async fn choose(&self, options: ConnectOptions, source: Source) -> Result<Options, Error> {
        let mut driver = self.driver(options, source, true)?;
        driver.until(|session| (session.state() == State::Choosing).then_some(())).await?;
        Ok(Options::new(driver))
    }

    fn driver(
        &self,
        options: ConnectOptions,
        source: Source,
        option_mode: bool,
    ) -> Result<Driver, Error> {
        let config = options.negotiation().clone().option_mode(option_mode);
        // Different in each session, and in each process.
        let seed = RandomState::new().hash_one(());
        let session = Session::new(options.config(config), seed, Instant::now())?;
        Ok(Driver::new(session, Arc::new(self.runtime.clone()), source))
    }
}
