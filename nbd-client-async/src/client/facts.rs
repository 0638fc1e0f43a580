//! What is known of the export, and of the connection to it.

use std::future::{Future, poll_fn};

use nbd_proto::{ContextId, Negotiated, Stats, TransmissionFlags};
use nbd_transport::tls::TlsInfo;

use super::Client;
use crate::state::{ConnectionState, Watching};

/// The longest payload sent in one command when the server tells no maximum, in bytes.
const MAX_REQUEST: u64 = 32 << 20;

impl Client {
    /// Size of the export in bytes.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} MiB", client.size() >> 20);
    /// # }
    /// ```
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared().export.size
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
        self.shared().export.flags
    }

    /// Whether writes are refused.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(!client.is_read_only());
    /// # }
    /// ```
    #[must_use]
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
    pub fn negotiated(&self) -> &Negotiated {
        &self.shared().negotiated
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
        self.shared().lock().tls_info().cloned()
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
        let contexts = &self.negotiated().contexts;
        let context = contexts.iter().find(|context| context.name == name)?;
        Some(ContextId(context.id))
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
        let export = &self.shared().export;
        let maximum = export
            .block_sizes
            .map_or(MAX_REQUEST, |sizes| u64::from(sizes.maximum).min(MAX_REQUEST));
        // Whole blocks, so that what follows a piece stays aligned.
        let block = u64::from(export.minimum_block());
        (maximum - maximum % block).max(block) as usize
    }

    pub(crate) fn minimum_block(&self) -> u32 {
        self.shared().export.minimum_block()
    }

    /// Counters of the protocol, from the beginning of the present connection.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} bytes received", client.stats().bytes_received);
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        *nbd_proto::Machine::stats(&self.shared().lock().core)
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
        self.shared().lock().is_over()
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
        self.shared().lock().peer_pid()
    }

    /// Whether there is a connection at the moment. Without
    /// [`Builder::reconnect`](crate::Builder::reconnect) it is never made again.
    ///
    /// ```
    /// # use nbd_client_async::{Client, ConnectionState};
    /// # fn example(client: &Client) {
    /// if client.connection_state() == ConnectionState::Reconnecting {
    ///     println!("this may take a while");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.shared().lock().connection()
    }

    /// Waits until [`connection_state`](Self::connection_state) is another one than `known`,
    /// and returns it. One that lasts only a moment may be missed; see
    /// [`reconnects`](Self::reconnects).
    ///
    /// ```
    /// # use nbd_client_async::{Client, ConnectionState};
    /// async fn report(client: Client) {
    ///     let mut state = client.connection_state();
    ///     while state != ConnectionState::Closed {
    ///         state = client.connection_change(state).await;
    ///         println!("{state:?}, connected again {} times", client.reconnects());
    ///     }
    /// }
    /// ```
    pub async fn connection_change(&self, known: ConnectionState) -> ConnectionState {
        let mut watching = Watching::new(self.shared());
        poll_fn(|cx| watching.poll_change(known, cx)).await
    }

    /// How often the connection was lost and made again.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("connected again {} times", client.reconnects());
    /// # }
    /// ```
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.shared().lock().reconnects
    }

    /// Whether acknowledged writes have not been flushed, so that they may be lost with the
    /// server.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.shared().lock().is_unflushed()
    }

    /// Somebody was told that they may be lost, on a connection that is over.
    pub(crate) fn settle(&self) {
        self.shared().lock().settle();
    }

    /// Has the driver do something beside its own work, as long as there is a connection.
    pub(crate) fn do_beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.shared().with(|state| state.do_beside(Box::pin(work))));
    }

    /// Whether acknowledged writes are kept, so that nobody else may write.
    pub(crate) fn keeps_unflushed(&self) -> bool {
        self.shared().lock().keeps_unflushed()
    }
}
