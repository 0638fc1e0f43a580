//! An export as a file, in the terms of futures-io and of tokio.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::ExportFile;

/// How much is read ahead of a caller that asks for a buffer, in bytes.
const AHEAD: usize = 64 << 10;

/// What both say in the same words, but for how they call the end.
macro_rules! file {
    ($terms:path, $close:ident) => {
        use $terms as terms;

        impl terms::AsyncBufRead for ExportFile {
            fn poll_fill_buf(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<&[u8]>> {
                self.get_mut().poll_fill(cx, AHEAD)
            }

            fn consume(mut self: Pin<&mut Self>, count: usize) {
                self.view.consume(count);
            }
        }

        impl terms::AsyncWrite for ExportFile {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.poll_put(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_sync(cx)
            }

            fn $close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_sync(cx)
            }
        }
    };
}

mod of_futures {
    use super::*;

    file!(futures_io, poll_close);

    impl terms::AsyncRead for ExportFile {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let bytes = ready!(self.poll_fill(cx, buf.len()))?;
            let count = bytes.len();
            if let Some(to) = buf.get_mut(..count) {
                to.copy_from_slice(bytes);
            }
            self.view.consume(count);
            Poll::Ready(Ok(count))
        }
    }

    impl terms::AsyncSeek for ExportFile {
        fn poll_seek(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            to: SeekFrom,
        ) -> Poll<io::Result<u64>> {
            Poll::Ready(self.seek(to))
        }
    }
}

#[cfg(feature = "tokio")]
mod of_tokio {
    use super::*;

    file!(tokio::io, poll_shutdown);

    impl terms::AsyncRead for ExportFile {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut terms::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let bytes = ready!(self.poll_fill(cx, buf.remaining()))?;
            buf.put_slice(bytes);
            let count = bytes.len();
            self.view.consume(count);
            Poll::Ready(Ok(()))
        }
    }

    impl terms::AsyncSeek for ExportFile {
        fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
            self.seek(to).map(drop)
        }

        fn poll_complete(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
            Poll::Ready(self.seek(SeekFrom::Current(0)))
        }
    }
}
