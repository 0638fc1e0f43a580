//! What is known of the export, and of the connection to it.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use nbd_proto::{ContextId, ExportInfo, Negotiated, TransmissionFlags};
use nbd_session::{Error, SessionStats, State};
use nbd_transport::tls::TlsInfo;
use nbd_transport::{NbdUri, UriError};

use super::Client;
use crate::state::Watching;

impl Client {
    /// Size of the export in bytes. It may be another one after a loss, where the
    /// [policy](nbd_session::replay::Reconnect::allow_growth) lets exports grow.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} MiB", client.size() >> 20);
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "nbd_get_size")]
    pub fn size(&self) -> u64 {
        self.shared().lock().session.export().map_or(0, |export| export.size)
    }

    /// What the export can do.
    ///
    /// ```
    /// # use nbd_client_async::proto::TransmissionFlags;
    /// # fn example(client: &nbd_client_async::Client) {
    /// let can_trim = client.flags().contains(TransmissionFlags::SEND_TRIM);
    /// # }
    /// ```
    #[must_use]
    pub fn flags(&self) -> TransmissionFlags {
        self.export().flags
    }

    /// Whether writes are refused.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(!client.is_read_only());
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "nbd_is_read_only")]
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(TransmissionFlags::READ_ONLY)
    }

    /// Everything that was negotiated: style, TLS, contexts, block sizes, names.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{}", client.negotiated().protocol.name());
    /// # }
    /// ```
    #[must_use]
    pub fn negotiated(&self) -> Arc<Negotiated> {
        self.shared().lock().session.negotiated().cloned().unwrap_or_default()
    }

    /// The export.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("can flush: {}", client.export().can_flush());
    /// # }
    /// ```
    #[must_use]
    pub fn export(&self) -> ExportInfo {
        let none = || ExportInfo::new(0, TransmissionFlags::empty());
        self.shared().lock().session.export().cloned().unwrap_or_else(none)
    }

    /// A URI that leads to the same export, with the same credentials for TLS as long as those
    /// came from a URI.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// match client.to_uri() {
    ///     Ok(uri) => println!("connected to {uri}"),
    ///     Err(error) => println!("connected to what has no URI: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UriError::NoUri`] when the server has no address.
    #[doc(alias = "nbd_get_uri")]
    pub fn to_uri(&self) -> Result<NbdUri, UriError> {
        let state = self.shared().lock();
        state.session.to_uri(state.peer.as_ref().and_then(|peer| peer.endpoint.as_ref()))
    }

    /// What was agreed on for TLS, and who the server is; `None` in clear.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// match client.tls_info() {
    ///     Some(info) => println!("{info}"),
    ///     None => println!("in clear"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn tls_info(&self) -> Option<TlsInfo> {
        self.shared().lock().session.tls_info().cloned()
    }

    /// The number of a meta context, if it was asked for and granted.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(client.context("base:allocation").is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        self.shared().lock().session.context(name)
    }

    /// The longest read or write sent as one command, in bytes. Longer ones are split.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// let piece = client.max_request().min(256 << 10);
    /// # }
    /// ```
    #[must_use]
    pub fn max_request(&self) -> usize {
        self.shared().lock().session.max_request()
    }

    /// What has been done so far, on all connections together.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} bytes received", client.stats().wire.bytes_received);
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "nbd_stats_bytes_received")]
    pub fn stats(&self) -> SessionStats {
        self.shared().lock().session.stats()
    }

    /// Calls under way on all handles of this connection, those in line included.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert_eq!(client.in_flight(), 0);
    /// # }
    /// ```
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared().lock().load()
    }

    /// Whether the connection is over. Every call fails then.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(!client.is_closed());
    /// # }
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().lock().session.is_over()
    }

    /// The id of the process behind the connection, if there is one and the connection
    /// is not over. The process ends with the connection.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("served by process {:?}", client.peer_pid());
    /// # }
    /// ```
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let state = self.shared().lock();
        Some(state.peer.as_ref()?.process.as_ref()?.pid())
    }

    /// What the connection is doing. Without
    /// [`ConnectOptions::reconnect`](nbd_session::ConnectOptions::reconnect) it is never made
    /// again.
    ///
    /// ```
    /// # use nbd_client_async::{Client, State};
    /// # fn example(client: &Client) {
    /// if client.state() == State::Reconnecting {
    ///     println!("this may take a while");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> State {
        self.shared().lock().session.state()
    }

    /// Waits until [`state`](Self::state) is another one than `known`, and returns it. One that
    /// lasts only a moment may be missed; see [`stats`](Self::stats).
    ///
    /// ```
    /// # use nbd_client_async::{Client, State};
    /// async fn report(client: Client) {
    ///     let mut state = client.state();
    ///     while state != State::Closed {
    ///         state = client.state_change(state).await;
    ///         println!("{state:?}, connected again {} times", client.stats().reconnects());
    ///     }
    /// }
    /// ```
    pub async fn state_change(&self, known: State) -> State {
        let mut watching = Watching::new(self.shared());
        poll_fn(|cx| match watching.poll(cx.waker()) {
            state if state == known => Poll::Pending,
            state => Poll::Ready(state),
        })
        .await
    }

    /// Why the connection is over, if it is.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// if let Some(error) = client.end() {
    ///     eprintln!("{error}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn end(&self) -> Option<Error> {
        self.shared().lock().session.end().cloned()
    }

    /// Has the driver do something beside its own work, as long as there is a connection.
    pub(crate) fn do_beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared().with(|state, _| state.do_beside(Box::pin(work)));
    }
}
