//! Option mode: asking a server before choosing an export.

use std::time::Instant;

use nbd_proto::{ClientConfig, Discard, ExportEntry, MetaContext, Negotiated, Negotiation};
use nbd_session::{Error, Limit, OptionReply, OptionRequest, Session, State};

use crate::client::Client;
use crate::driver::Driver;

/// A connection whose export is not chosen yet.
///
/// ```no_run
/// use nbd_client_blocking::Options;
///
/// let mut options = Options::connect("nbd://localhost")?;
/// for export in options.list()? {
///     println!("{} {}", export.name, export.description);
/// }
/// options.set_export_name("disk")?;
/// let client = options.go().map_err(|failed| failed.error)?;
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Debug)]
pub struct Options {
    pub(crate) driver: Driver,
}

/// [`Options::go`] failed. Converts into the [`Error`] alone.
pub type GoError = nbd_session::GoError<Options>;

impl Options {
    /// What is behind the connection: where it stands, what was agreed on, also for TLS
    /// ([`tls_info`](Session::tls_info)), what is asked for.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.driver.session
    }

    /// Where the connection stands.
    #[must_use]
    #[doc(alias("nbd_aio_is_connecting", "nbd_aio_is_negotiating"))]
    pub fn state(&self) -> State {
        self.session().state()
    }

    /// Whether the server can be asked. One that speaks an older protocol cannot, and
    /// only [`go`](Self::go) is left.
    #[must_use]
    #[doc(alias = "nbd_aio_is_negotiating")]
    pub fn is_negotiating(&self) -> bool {
        self.session().takes_options()
    }

    /// Name of the connection, see [`Client::name`].
    #[must_use]
    #[doc(alias = "nbd_get_handle_name")]
    pub fn name(&self) -> &str {
        self.session().name()
    }

    /// What is asked for.
    #[must_use]
    #[doc(alias("nbd_get_nr_meta_contexts", "nbd_get_meta_context"))]
    pub fn config(&self) -> ClientConfig {
        self.session().negotiation().map(|asked| asked.config().clone()).unwrap_or_default()
    }

    /// What has been agreed on, and what is known of the export after
    /// [`info`](Self::info).
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.session().negotiation().map(|asked| asked.negotiated().clone()).unwrap_or_default()
    }

    /// The name of the export that is asked for.
    #[must_use]
    #[doc(alias = "nbd_get_export_name")]
    pub fn export_name(&self) -> &str {
        self.session().negotiation().map_or("", Negotiation::export_name)
    }

    /// All exports with their descriptions.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_list", "nbd_aio_opt_list"))]
    pub fn list(&mut self) -> Result<Vec<ExportEntry>, Error> {
        Ok(self.ask(OptionRequest::List)?.into_exports())
    }

    /// What the export is like, without choosing it.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_info", "nbd_aio_opt_info"))]
    pub fn info(&mut self) -> Result<Negotiated, Error> {
        self.ask(OptionRequest::Info)?;
        Ok(self.negotiated())
    }

    /// The meta contexts that match the queries; all of them if there are none.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_list_meta_context_queries", "nbd_aio_opt_list_meta_context_queries"))]
    pub fn list_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionRequest::ListMetaContexts(owned(queries)))
    }

    /// The meta contexts that match those of
    /// [`ClientConfig::meta_context`]; all there are if there are none.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_list_meta_context", "nbd_aio_opt_list_meta_context"))]
    pub fn list_configured_meta_contexts(&mut self) -> Result<Vec<MetaContext>, Error> {
        let queries = self.config().meta_contexts().to_vec();
        self.contexts(OptionRequest::ListMetaContexts(queries))
    }

    /// Selects the meta contexts of [`ClientConfig::meta_context`], here and now; see
    /// [`set_meta_contexts`](Self::set_meta_contexts).
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_set_meta_context", "nbd_aio_opt_set_meta_context"))]
    pub fn set_configured_meta_contexts(&mut self) -> Result<Vec<MetaContext>, Error> {
        let queries = self.config().meta_contexts().to_vec();
        self.contexts(OptionRequest::SetMetaContexts(queries))
    }

    /// Selects meta contexts in place of those selected before; returns those that
    /// were granted. The selection survives [`go`](Self::go) only if
    /// [`ClientConfig::request_meta_contexts`] is off.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_set_meta_context_queries", "nbd_aio_opt_set_meta_context_queries"))]
    pub fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionRequest::SetMetaContexts(owned(queries)))
    }

    /// Asks for TLS; true if granted, and then the connection is encrypted and all is
    /// forgotten that was agreed on in clear. Takes the credentials of
    /// [`ConnectOptions::tls`](nbd_session::ConnectOptions::tls), whatever their policy.
    ///
    /// # Errors
    /// When the server cannot be asked, the TLS handshake fails, or the connection fails.
    #[doc(alias("nbd_opt_starttls", "nbd_aio_opt_starttls"))]
    pub fn start_tls(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::StartTls)?.is_granted())
    }

    /// Asks for structured replies; true if granted.
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_structured_reply", "nbd_aio_opt_structured_reply"))]
    pub fn structured_replies(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::StructuredReplies)?.is_granted())
    }

    /// Asks for extended headers; true if granted.
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    #[doc(alias("nbd_opt_extended_headers", "nbd_aio_opt_extended_headers"))]
    pub fn extended_headers(&mut self) -> Result<bool, Error> {
        Ok(self.ask(OptionRequest::ExtendedHeaders)?.is_granted())
    }

    /// Asks for another export from now on.
    ///
    /// # Errors
    /// When the name is too long or contains NUL.
    #[doc(alias = "nbd_set_export_name")]
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        self.driver.session.set_export_name(name)
    }

    /// Changes what is asked for from now on.
    ///
    /// # Errors
    /// When a name is too long or contains NUL.
    #[doc(alias = "nbd_clear_meta_contexts")]
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        self.driver.session.reconfigure(change)
    }

    /// Chooses the export. A refusal gives the connection back, to choose another one.
    ///
    /// # Errors
    /// When the server refuses or the connection fails.
    #[doc(alias("nbd_opt_go", "nbd_aio_opt_go"))]
    pub fn go(mut self) -> Result<Client, GoError> {
        let went = self.ask(OptionRequest::Go);
        match went {
            Ok(_) => Client::new(self.driver).map_err(|error| GoError { error, options: None }),
            Err(error) => {
                let options = (self.state() == State::Choosing).then(|| Box::new(self));
                Err(GoError { error, options })
            }
        }
    }

    /// Ends the connection in good order.
    ///
    /// # Errors
    /// When the connection fails.
    #[doc(alias("nbd_opt_abort", "nbd_close", "nbd_aio_opt_abort"))]
    pub fn abort(mut self) -> Result<(), Error> {
        self.ask(OptionRequest::Abort).map(drop)
    }

    fn contexts(&mut self, request: OptionRequest) -> Result<Vec<MetaContext>, Error> {
        Ok(self.ask(request)?.into_meta_contexts())
    }

    /// Asks for an option and waits for the answer, which is of the kind that was asked for.
    fn ask(&mut self, request: OptionRequest) -> Result<OptionReply, Error> {
        self.driver.session.request_option(request, Limit::Default, Instant::now())?;
        loop {
            if let Some(answer) = self.driver.session.take_option() {
                return answer;
            }
            if self.driver.session.is_over() {
                return Err(self.driver.end());
            }
            self.driver.wait(&mut Discard, None, None);
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
