//! Where the payload of one command lands, or comes from.

use nbd_proto::{PayloadSink, PayloadSource, RequestId, part, part_mut};

/// The memory behind the one command a caller waits for.
pub(crate) struct Single<'a> {
    pub(crate) id: RequestId,
    pub(crate) read: &'a mut [u8],
    pub(crate) write: &'a [u8],
}

impl PayloadSink for Single<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if id == self.id { part_mut(self.read, at, len) } else { &mut [] }
    }
}

impl PayloadSource for Single<'_> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        if id == self.id { part(self.write, at, len) } else { &[] }
    }
}

/// A slice of the caller's as the buffer of one command, to read into or to write from: for a
/// [`Pipeline`](crate::Pipeline) whose buffers are not its own.
///
/// ```no_run
/// # let mut client = nbd_client_blocking::Client::connect("nbd://localhost")?;
/// use nbd_client_blocking::Borrowed;
///
/// let (label, mut sector) = ([7; 512], [0; 512]);
/// let mut pipeline = client.pipeline::<Borrowed<'_>>();
/// pipeline.write(label.as_slice().into(), 0)?;
/// pipeline.read(sector.as_mut_slice().into(), 512)?;
/// while let Some(done) = pipeline.wait() {
///     done.result?;
/// }
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Borrowed<'a> {
    /// To read into, or to write from.
    Mut(&'a mut [u8]),
    /// To write from. Nothing can be read into it.
    Shared(&'a [u8]),
}

impl AsRef<[u8]> for Borrowed<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mut(buffer) => buffer,
            Self::Shared(buffer) => buffer,
        }
    }
}

impl AsMut<[u8]> for Borrowed<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mut(buffer) => buffer,
            Self::Shared(_) => &mut [],
        }
    }
}

impl<'a> From<&'a mut [u8]> for Borrowed<'a> {
    fn from(buffer: &'a mut [u8]) -> Self {
        Self::Mut(buffer)
    }
}

impl<'a> From<&'a [u8]> for Borrowed<'a> {
    fn from(buffer: &'a [u8]) -> Self {
        Self::Shared(buffer)
    }
}
