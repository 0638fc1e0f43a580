//! An export as a file: a position, bytes of any length, no alignment to mind.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use bytes::{Bytes, BytesMut};
use nbd_proto::{ApiMisuse, CommandType};
use nbd_session::Error;
use nbd_session::file::{FileView, Next, Send};

use crate::completion::Outcome;
use crate::connection::Connection;

/// A position in an export, for [`Connection::file`].
///
/// It has one command under way at a time, which does not show in
/// [`Connection::next_completion`]; that has to be called all the same. Dropping it loses
/// nothing that was accepted; a write that was still under way may take place.
#[derive(Debug)]
pub struct ExportView<B> {
    view: FileView,
    under_way: Option<Receiver<Outcome<B>>>,
}

/// A connection and a position, as [`Read`], [`Write`] and [`Seek`].
///
/// [`flush`](Write::flush) makes durable what was written through the view: it is the export's
/// flush, where the server has one.
///
/// They are [`WouldBlock`](io::ErrorKind::WouldBlock) while the server is waited for: drive the
/// connection, and make the same call again. Until then a write has accepted nothing; it has
/// once the server has acknowledged it.
///
/// Ranges that do not fall on the export's minimum block size are read as whole blocks, and
/// written by reading the blocks around them first. Reading ends, and writing stops, at the end
/// of the export. For reading and writing at an offset there is the connection itself.
#[derive(Debug)]
pub struct ExportFile<'a, B> {
    disk: &'a mut Connection<B>,
    view: &'a mut ExportView<B>,
}

impl<B> Connection<B> {
    /// A view of the export as a file, which starts at offset 0.
    ///
    /// # Errors
    /// When the connection is not ready.
    pub fn view(&self) -> Result<ExportView<B>, Error> {
        let export = self.session.export().ok_or(ApiMisuse::WrongState)?.clone();
        let view = FileView::new(export, self.session.max_request());
        Ok(ExportView { view, under_way: None })
    }

    /// The export as a file, at the position of a view that this connection has made.
    ///
    /// ```no_run
    /// # use std::io::{ErrorKind, Read};
    /// # fn turn(_: &mut nbd_client_mio::Connection<Vec<u8>>) {}
    /// # fn example(mut disk: nbd_client_mio::Connection<Vec<u8>>) -> std::io::Result<()> {
    /// let (mut view, mut signature) = (disk.view()?, [0; 2]);
    /// let count = loop {
    ///     match disk.file(&mut view).read(&mut signature) {
    ///         Err(error) if error.kind() == ErrorKind::WouldBlock => turn(&mut disk),
    ///         other => break other?,
    ///     }
    /// };
    /// # Ok(()) }
    /// ```
    pub const fn file<'a>(&'a mut self, view: &'a mut ExportView<B>) -> ExportFile<'a, B> {
        ExportFile { disk: self, view }
    }
}

impl<B: From<Vec<u8>> + Into<Vec<u8>> + std::marker::Send + 'static> ExportFile<'_, B> {
    fn go_on<T>(
        &mut self,
        mut step: impl FnMut(&mut FileView) -> Result<Next<T>, Error>,
    ) -> io::Result<T> {
        loop {
            if let Some(under_way) = &self.view.under_way {
                let (result, buffer) = match under_way.try_recv() {
                    Ok(Ok(done)) => (done.result, done.buffer),
                    Ok(Err(rejected)) => (Err(rejected.error), None),
                    Err(TryRecvError::Empty) => return Err(io::ErrorKind::WouldBlock.into()),
                    Err(TryRecvError::Disconnected) => (Err(Error::stopped()), None),
                };
                self.view.under_way = None;
                let data = Bytes::from(buffer.map(Into::into).unwrap_or_default());
                if let Some(send) = self.view.view.completed(result, BytesMut::from(data)) {
                    self.send(send);
                    continue;
                }
            }
            match step(&mut self.view.view)? {
                Next::Ready(told) => return Ok(told),
                Next::Send(send) => self.send(send),
                _ => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn send(&mut self, send: Send) {
        let buffer = match (send.command.kind, send.payload) {
            (CommandType::Read, _) => Some(vec![0; send.command.length as usize].into()),
            (_, payload) => payload.map(|payload| Vec::from(payload).into()),
        };
        let (tell, told) = channel();
        // The connection is there: it takes it.
        let _ = self.disk.submitter.submit(send.command, buffer, move |outcome| {
            // A view that is gone has nobody to tell.
            let _ = tell.send(outcome);
        });
        self.view.under_way = Some(told);
    }
}

impl<B: From<Vec<u8>> + Into<Vec<u8>> + std::marker::Send + 'static> Read for ExportFile<'_, B> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.go_on(|view| view.read(buf.len()))?;
        let ahead = self.view.view.ahead(buf.len());
        let count = ahead.len();
        buf[..count].copy_from_slice(ahead);
        self.view.view.consume(count);
        Ok(count)
    }
}

impl<B: From<Vec<u8>> + Into<Vec<u8>> + std::marker::Send + 'static> Write for ExportFile<'_, B> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.go_on(|view| view.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.go_on(FileView::flush)
    }
}

impl<B> Seek for ExportFile<'_, B> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.view.view.seek(to)
    }
}
