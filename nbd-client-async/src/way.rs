//! How a connection comes to a stream, once and again.

use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nbd_session::{Connect, Error};
use nbd_transport::tls::{TlsConfig, TlsConfigError, TlsConnector};

use crate::dial::Dialling;
use crate::into_stream::{IntoStream, Kind, Stream};
use crate::runtime::{Runtime, Unblocked, unblock};

/// A stream that takes its time.
type Later = Pin<Box<dyn Future<Output = Result<Stream, Error>> + Send>>;

/// Where streams come from, but for those to servers that the options name.
pub(crate) type Source = Box<dyn FnMut() -> Later + Send>;

/// The caller has a stream, good for once, or none.
pub(crate) fn given(mut stream: Option<Stream>) -> Source {
    let nobody = || io::Error::new(io::ErrorKind::NotConnected, "no stream was given");
    Box::new(move || Box::pin(ready(stream.take().ok_or_else(|| nobody().into()))))
}

/// The caller knows how to get streams.
pub(crate) fn dialler<F, S, T>(dial: impl Fn() -> F + Send + 'static) -> Source
where
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: IntoStream<T>,
{
    Box::new(move || {
        let stream = dial();
        Box::pin(async move { stream.await?.into_stream() })
    })
}

/// What a session has asked for, and takes its time.
pub(crate) enum Errand {
    Credentials(Unblocked<Result<TlsConnector, TlsConfigError>>),
    Dial(Connect, Box<Dialling>),
    Source(Connect, Later),
}

/// What came of an errand.
pub(crate) enum Outcome {
    Credentials(Result<TlsConnector, TlsConfigError>),
    Connected(Connect, Result<Stream, Error>),
    /// The runtime has ended.
    Stopped,
}

impl Errand {
    pub(crate) fn credentials(runtime: &dyn Runtime, config: Box<TlsConfig>) -> io::Result<Self> {
        Ok(Self::Credentials(unblock(runtime, move || config.connector())?))
    }

    pub(crate) fn connect(
        runtime: &Arc<dyn Runtime>,
        connect: Connect,
        source: &mut Source,
    ) -> Self {
        match connect.dial() {
            Some(dial) => {
                let dialling = Dialling::new(Arc::clone(runtime), dial);
                Self::Dial(connect, Box::new(dialling))
            }
            None => Self::Source(connect, source()),
        }
    }

    /// Whether it is for this connection, or an older one.
    pub(crate) const fn is_of(&self, generation: u64) -> bool {
        match self {
            Self::Credentials(_) => true,
            Self::Dial(connect, _) | Self::Source(connect, _) => connect.generation <= generation,
        }
    }

    /// Goes on with it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self {
            Self::Credentials(read) => Pin::new(read)
                .poll(cx)
                .map(|read| read.map_or(Outcome::Stopped, Outcome::Credentials)),
            Self::Dial(connect, dialling) => dialling.poll(cx).map(|made| {
                let stream = made.map(|connection| Stream(Kind::Os(connection)));
                Outcome::Connected(connect.clone(), stream.map_err(Error::from))
            }),
            Self::Source(connect, stream) => {
                stream.as_mut().poll(cx).map(|made| Outcome::Connected(connect.clone(), made))
            }
        }
    }
}
