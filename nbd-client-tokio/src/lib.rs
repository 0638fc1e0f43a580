//! A Network Block Device client for tokio.
//!
//! A [`Client`] is a handle that any number of tasks clone and use at the same time.
//! One task per connection moves the bytes. Futures may be dropped at any time.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), nbd_client_tokio::Error> {
//! let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
//! let reads = (0..64).map(|index| {
//!     let client = client.clone();
//!     tokio::spawn(async move { client.read_at(index << 20, 4096).await })
//! });
//! for read in reads.collect::<Vec<_>>() {
//!     println!("{} bytes", read.await.expect("no panic")?.len());
//! }
//! client.disconnect().await?;
//! # Ok(()) }
//! ```
//!
//! | to | use |
//! |---|---|
//! | connect | [`connect`], [`Builder`] |
//! | read, write and the rest | [`Client`] |
//! | see the export as a file | [`ExportFile`] |
//! | walk over its extents | [`Extents`] |
//! | ask before choosing an export | [`Options`] |
//! | use several connections | [`Pool`] |
//! | bring a stream of your own | [`Compat`] |
//!
//! The runtime must have its IO driver enabled ([`enable_io`]), and its timers
//! ([`enable_time`]) where there are timeouts or connections are made again: otherwise
//! connecting fails, or the connection does as soon as a timer is needed. One is needed too
//! to end a session in good order when its last handle is dropped;
//! [`disconnect`](Client::disconnect) needs none. Tokio itself prints a panic then, which is
//! caught.
//!
//! [`enable_io`]: tokio::runtime::Builder::enable_io
//! [`enable_time`]: tokio::runtime::Builder::enable_time

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod compat;
mod file;
mod runtime;

pub use compat::Compat;
pub use file::ExportFile;
pub use nbd_client_async::{
    Client, CommandFailure, ConnectionState, Driver, Error, Extents, GoError, Options,
    PlacedExtent, Pool, Reconnect, proto, transport,
};
pub use runtime::Tokio;

/// Settings of a connection, then the connection itself, on the runtime it is used in.
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_tokio::Error> {
/// use nbd_client_tokio::Builder;
///
/// let builder = Builder::new().timeout(std::time::Duration::from_secs(30));
/// let client = builder.connect_uri("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
pub type Builder = nbd_client_async::Builder<Tokio>;

/// Connects to a URI with the defaults of [`Builder`].
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_tokio::Error> {
/// let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the URI is malformed or forbidden, nobody answers, or the server refuses.
pub async fn connect(uri: &str) -> Result<Client, Error> {
    Builder::new().connect_uri(uri).await
}
