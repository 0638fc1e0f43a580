//! Option mode: asking a server before choosing an export.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nbd_proto::{ClientConfig, ExportEntry, MetaContext, Negotiated};
use nbd_session::{Error, Limit, OptionReply, OptionRequest, Session, State};
use nbd_transport::tls::TlsInfo;

use crate::client::Client;
use crate::driver::Driver;
use crate::state::Shared;

/// A connection whose export is not chosen yet.
///
/// A future that is dropped leaves its option under way; the next one waits for that
/// first.
///
/// ```
/// # use nbd_client_async::{Connector, Error, Runtime};
/// async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
///     let mut options = connector.negotiate().await?;
///     for export in options.list().await? {
///         println!("{} {}", export.name, export.description);
///     }
///     options.set_export_name("disk")?;
///     let client = options.go().await?;
///     client.disconnect().await
/// }
/// ```
pub struct Options {
    shared: Arc<Shared>,
    /// Never locked: it makes this `Sync`, as errors have to be.
    driver: Mutex<Driver>,
}

/// [`Options::go`] failed. Converts into the [`Error`] alone.
///
/// ```
/// # use nbd_client_async::{Client, GoError, Options};
/// # async fn example(options: Options) -> Result<Client, GoError> {
/// let failed = match options.go().await {
///     Err(failed) => failed,
///     Ok(client) => return Ok(client),
/// };
/// match failed.options {
///     Some(options) => options.go().await,
///     None => Err(GoError { options: None, ..failed }),
/// }
/// # }
/// ```
pub type GoError = nbd_session::GoError<Options>;

impl Options {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { shared: Arc::clone(&driver.shared), driver: Mutex::new(driver) }
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server can be asked. One that speaks an older protocol cannot, and
    /// only [`go`](Self::go) is left.
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// assert!(options.is_negotiating());
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "nbd_aio_is_negotiating")]
    pub fn is_negotiating(&self) -> bool {
        self.shared.lock().session.takes_options()
    }

    /// What has been agreed on, and what is known of the export after
    /// [`info`](Self::info).
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// println!("{}", options.negotiated().protocol.name());
    /// # }
    /// ```
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        let session = &self.shared.lock().session;
        session.negotiation().map_or_else(Negotiated::default, |it| it.negotiated().clone())
    }

    /// What was agreed on for TLS, and who the server is; `None` in clear.
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// println!("secure: {}", options.tls_info().is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn tls_info(&self) -> Option<TlsInfo> {
        self.shared.lock().session.tls_info().cloned()
    }

    /// The name of the export that is asked for.
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// println!("{}", options.export_name());
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "nbd_get_export_name")]
    pub fn export_name(&self) -> String {
        let session = &self.shared.lock().session;
        session.negotiation().map(|it| it.export_name().to_owned()).unwrap_or_default()
    }

    /// All exports with their descriptions.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// println!("{} exports", options.list().await?.len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_list")]
    pub async fn list(&mut self) -> Result<Vec<ExportEntry>, Error> {
        Ok(self.ask(OptionRequest::List).await?.into_exports())
    }

    /// What the export is like, without choosing it.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// println!("{:?}", options.info().await?.export);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_info")]
    pub async fn info(&mut self) -> Result<Negotiated, Error> {
        self.ask(OptionRequest::Info).await?;
        Ok(self.negotiated())
    }

    /// The meta contexts that match the queries; all of them if there are none.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// for context in options.list_meta_contexts(&["base:"]).await? {
    ///     println!("{}", context.name);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_list_meta_context")]
    pub async fn list_meta_contexts(
        &mut self,
        queries: &[&str],
    ) -> Result<Vec<MetaContext>, Error> {
        let request = OptionRequest::ListMetaContexts(owned(queries));
        Ok(self.ask(request).await?.into_meta_contexts())
    }

    /// Selects meta contexts in place of those selected before; returns those that
    /// were granted. The selection survives [`go`](Self::go) only if
    /// [`ClientConfig::request_meta_contexts`] is off.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.set_meta_contexts(&["base:allocation"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_set_meta_context")]
    pub async fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        let request = OptionRequest::SetMetaContexts(owned(queries));
        Ok(self.ask(request).await?.into_meta_contexts())
    }

    /// Asks for TLS, with the credentials of the options; true if granted. All is forgotten
    /// then that was agreed on in clear.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// assert!(options.start_tls().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection or TLS fails.
    #[doc(alias = "nbd_opt_starttls")]
    pub async fn start_tls(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::StartTls).await?.is_granted())
    }

    /// Asks for structured replies; true if granted.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.structured_replies().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_structured_reply")]
    pub async fn structured_replies(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::StructuredReplies).await?.is_granted())
    }

    /// Asks for extended headers; true if granted.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.extended_headers().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    #[doc(alias = "nbd_opt_extended_headers")]
    pub async fn extended_headers(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::ExtendedHeaders).await?.is_granted())
    }

    /// Asks for another export from now on.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # fn example(options: &mut Options) -> Result<(), Error> {
    /// options.set_export_name("disk")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the name is too long or contains NUL, or an option is under way.
    #[doc(alias = "nbd_set_export_name")]
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        self.shared.lock().session.set_export_name(name)
    }

    /// Changes what is asked for from now on.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # fn example(options: &mut Options) -> Result<(), Error> {
    /// options.reconfigure(|config| config.full_info(true))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When a name is too long or contains NUL, or an option is under way.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        self.shared.lock().session.reconfigure(change)
    }

    /// Chooses the export. A refusal gives the connection back, to choose another one.
    ///
    /// ```
    /// # use nbd_client_async::{Client, GoError, Options};
    /// # async fn example(options: Options) -> Result<Client, GoError> {
    /// options.go().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the server refuses or the connection fails.
    #[doc(alias = "nbd_opt_go")]
    pub async fn go(mut self) -> Result<Client, GoError> {
        match self.ask(OptionRequest::Go).await {
            Ok(_) => {
                let driver = self.driver.into_inner().unwrap_or_else(PoisonError::into_inner);
                driver.into_client().map_err(|error| GoError { error, options: None })
            }
            Err(error) => {
                let options = self.is_negotiating().then(|| Box::new(self));
                Err(GoError { error, options })
            }
        }
    }

    /// Ends the connection in good order.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: Options) -> Result<(), Error> {
    /// options.abort().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the connection fails.
    #[doc(alias = "nbd_opt_abort")]
    pub async fn abort(mut self) -> Result<(), Error> {
        if self.is_negotiating() {
            self.ask(OptionRequest::Abort).await?;
        }
        Ok(())
    }

    /// Asks for an option and waits for its answer.
    async fn ask(&mut self, request: OptionRequest) -> Result<OptionReply, Error> {
        // An earlier future may have been dropped.
        self.driver().until(|session| (session.state() == State::Choosing).then_some(())).await?;
        let now = Instant::now();
        self.shared.lock().session.request_option(request, Limit::Default, now)?;
        self.driver().until(Session::take_option).await?
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("connection", &self.shared).finish()
    }
}
