//! Which exports there are.

use std::io;
use std::sync::Arc;

use nbd_proto::ExportInfo;

use crate::access::{Access, ReadOnly};
use crate::connection::describe::describe;
use crate::export::{AnyExport, AsyncExport, Export};
use crate::peer::Peer;

/// Longer ones do not travel, in bytes (proto.md, "Conventions").
const LONGEST_DESCRIPTION: usize = 4096;

/// Looks exports up by name while the server runs, for the client that asks.
///
/// [`ExportList`] is one whose exports are known from the start.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not look exports up by name",
    note = "make an `ExportList` of exports that are known from the start, or implement `Exports`",
    note = "one export alone goes to `Server::new`"
)]
pub trait Exports: Send + Sync {
    /// What this client is told there is.
    ///
    /// # Errors
    /// Whatever keeps it from being told.
    fn list(&self, peer: &Peer) -> io::Result<Vec<Listed>>;

    /// Opens the export that a client asks for; the empty name asks for the default. Called each
    /// time it is described or used, so what costs much is kept by the implementor.
    ///
    /// # Errors
    /// What the client is refused with, in the words of the error:
    /// [`NotFound`](io::ErrorKind::NotFound) when there is none,
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) when it is not for this client,
    /// others when it cannot be used at the moment. It is an
    /// [`Event::Refused`](crate::Event::Refused).
    fn open(&self, name: &str, peer: &Peer) -> io::Result<Opened>;
}

impl<E: Exports + ?Sized> Exports for Arc<E> {
    fn list(&self, peer: &Peer) -> io::Result<Vec<Listed>> {
        (**self).list(peer)
    }

    fn open(&self, name: &str, peer: &Peer) -> io::Result<Opened> {
        (**self).open(name, peer)
    }
}

/// An export in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is, for people; may be empty.
    pub description: String,
}

impl Listed {
    /// An export without a description.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), description: String::new() }
    }

    /// What clients are told it is. One of more than 4096 bytes, or with a NUL, cannot travel.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }
}

/// An export that a client may use.
#[derive(Clone)]
#[non_exhaustive]
pub struct Opened {
    /// Its name, which may be another than was asked for.
    pub name: String,
    /// What is served.
    pub(crate) export: AnyExport,
    /// What it is, for people, if not what the export itself says.
    pub description: Option<String>,
    /// Whether this client may not change it, whatever the export allows.
    pub read_only: bool,
}

impl Opened {
    /// An export under its name, with all that it allows.
    #[must_use]
    pub fn new(name: impl Into<String>, export: Arc<dyn Export>) -> Self {
        Self::any(name.into(), AnyExport::Blocking(export))
    }

    /// An export of the asynchronous form, with all that it allows. A server in threads runs its
    /// futures, too, if they need nothing of a runtime.
    #[must_use]
    pub fn new_async(name: impl Into<String>, export: Arc<dyn AsyncExport>) -> Self {
        Self::any(name.into(), AnyExport::Async(export))
    }

    const fn any(name: String, export: AnyExport) -> Self {
        Self { name, export, description: None, read_only: false }
    }

    /// What clients are told it is (default: what the export itself says).
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// How it is described to a client that may send `max_payload` bytes in one request: for who
    /// negotiates by other means, see [`ServerHandle::serve_negotiated`].
    ///
    /// [`ServerHandle::serve_negotiated`]: crate::ServerHandle::serve_negotiated
    #[must_use]
    pub fn info(&self, max_payload: u32) -> ExportInfo {
        describe(self, max_payload)
    }

    /// What clients are told it is, if it can travel.
    pub(crate) fn description(&self) -> Option<String> {
        let description = self.description.clone().or_else(|| self.export.description());
        description.and_then(travelling)
    }

    /// Whether this client may not change it (default: it may what the export allows).
    #[must_use]
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("name", &self.name)
            .field("size", &self.export.size())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// A description, if it can travel (proto.md, "Conventions").
pub(crate) fn travelling(description: String) -> Option<String> {
    let travels = description.len() <= LONGEST_DESCRIPTION && !description.contains('\0');
    travels.then_some(description)
}

/// Refuses an export that clients cannot address: many count with a sign.
pub(crate) fn check_size(size: u64) -> io::Result<()> {
    if i64::try_from(size).is_ok() {
        return Ok(());
    }
    let text = format!("the export has {size} bytes, and clients can address 2^63 - 1 at most");
    Err(io::Error::other(text))
}

/// Exports with names, known from the start.
///
/// ```
/// use nbd_server::{ExportList, MemoryExport};
///
/// let exports = ExportList::new()
///     .export("small", MemoryExport::new(1 << 20))
///     .export("large", MemoryExport::new(1 << 40));
/// ```
#[derive(Debug, Default)]
pub struct ExportList {
    /// Without access rules it is for everybody.
    exports: Vec<(Opened, Option<Access>)>,
}

impl ExportList {
    /// No exports.
    #[must_use]
    pub const fn new() -> Self {
        Self { exports: Vec::new() }
    }

    /// Adds an export. The first one is the default, which clients get that ask for no name. One
    /// whose name has more than 4096 bytes, or a NUL, cannot be asked for and is in no list.
    #[must_use]
    pub fn export(self, name: impl Into<String>, export: impl Export + 'static) -> Self {
        self.opened(Opened::new(name, Arc::new(export)))
    }

    /// Adds an export of the asynchronous form. See [`AsyncExport`] for how its futures are run.
    #[must_use]
    pub fn async_export(self, name: impl Into<String>, export: impl AsyncExport + 'static) -> Self {
        self.opened(Opened::new_async(name, Arc::new(export)))
    }

    /// Adds an export with more to say about it.
    #[must_use]
    pub fn opened(mut self, export: Opened) -> Self {
        self.exports.push((export, None));
        self
    }

    /// Adds an export that is not for everybody. Others are not told that it is there.
    #[must_use]
    pub fn restricted(mut self, export: Opened, access: Access) -> Self {
        self.exports.push((export, Some(access)));
        self
    }

    /// What a client may use, as it may use it.
    fn allowed(&self, peer: &Peer) -> impl Iterator<Item = Opened> {
        self.exports.iter().filter_map(|(opened, access)| {
            let opened = opened.clone();
            match access {
                None => Some(opened),
                Some(access) => {
                    let ReadOnly(read_only) = access.of(peer)?;
                    let read_only = read_only || opened.read_only;
                    Some(opened.read_only(read_only))
                }
            }
        })
    }
}

impl Exports for ExportList {
    fn list(&self, peer: &Peer) -> io::Result<Vec<Listed>> {
        let listed = |opened: Opened| {
            let description = opened.description().unwrap_or_default();
            Listed::new(opened.name).described(description)
        };
        Ok(self.allowed(peer).map(listed).collect())
    }

    fn open(&self, name: &str, peer: &Peer) -> io::Result<Opened> {
        let called = self.allowed(peer).find(|opened| opened.name == name);
        // The default of a client is the first that it may use.
        let default = || self.allowed(peer).next().filter(|_| name.is_empty());
        called.or_else(default).ok_or_else(unknown_export)
    }
}

/// There is no export of that name.
pub(crate) fn unknown_export() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "there is no export of that name")
}
