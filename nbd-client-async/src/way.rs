//! How a connection comes to a stream, once and again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use nbd_session::{Connect, Error, Target};
use nbd_transport::TcpKeepAlive;
use nbd_transport::tls::{TlsConfig, TlsConfigError, TlsConnector};

use crate::dial::Dialling;
use crate::into_stream::{IntoStream, Kind, Stream};
use crate::runtime::{Runtime, Unblocked, unblock};

/// A stream that takes its time.
type Later = Pin<Box<dyn Future<Output = Result<Stream, Error>> + Send>>;

/// Where streams come from, but for those to servers that the options name.
pub(crate) enum Source {
    None,
    /// The caller has one, good for once.
    Given(Option<Stream>),
    /// The caller knows how to get one.
    Dialler(Box<dyn Fn() -> Later + Send>),
}

impl Source {
    pub(crate) fn dialler<F, S, T>(dial: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: IntoStream<T>,
    {
        Self::Dialler(Box::new(move || {
            let stream = dial();
            Box::pin(async move { stream.await?.into_stream() })
        }))
    }
}

/// What a session has asked for, and takes its time.
pub(crate) enum Errand {
    Credentials(Unblocked<Result<TlsConnector, TlsConfigError>>),
    Connect { generation: u64, by: Option<Instant>, attempt: Attempt },
}

pub(crate) enum Attempt {
    Dial(Box<Dialling>, Option<TcpKeepAlive>),
    Own(Later),
    Given(Option<Stream>),
}

/// What came of an errand.
pub(crate) enum Outcome {
    Credentials(Result<TlsConnector, TlsConfigError>),
    Connected(u64, Result<Stream, Error>),
    /// The runtime has ended.
    Stopped,
}

impl Errand {
    pub(crate) fn credentials(runtime: &dyn Runtime, config: Box<TlsConfig>) -> io::Result<Self> {
        Ok(Self::Credentials(unblock(runtime, move || config.connector())?))
    }

    pub(crate) fn connect(
        runtime: &Arc<dyn Runtime>,
        connect: &Connect,
        source: &mut Source,
    ) -> Self {
        let attempt = match (&connect.target, connect.dial(), source) {
            (Target::Endpoint(_), Some(dial), _) => {
                let dialling = Dialling::new(Arc::clone(runtime), dial);
                Attempt::Dial(Box::new(dialling), connect.tcp_keep_alive)
            }
            (Target::Dialler, _, Source::Dialler(dial)) => Attempt::Own(dial()),
            (Target::Given, _, Source::Given(stream)) => Attempt::Given(stream.take()),
            _ => Attempt::Given(None),
        };
        Self::Connect { generation: connect.generation, by: connect.by, attempt }
    }

    /// Whether it is for this connection, or an older one.
    pub(crate) fn is_of(&self, generation: u64) -> bool {
        match self {
            Self::Credentials(_) => true,
            Self::Connect { generation: own, .. } => *own <= generation,
        }
    }

    /// Goes on with it. `now` is what a timer says whose time has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Option<Instant>) -> Poll<Outcome> {
        match self {
            Self::Credentials(read) => Pin::new(read)
                .poll(cx)
                .map(|read| read.map_or(Outcome::Stopped, Outcome::Credentials)),
            Self::Connect { generation, by, attempt } => {
                let late = now.zip(*by).is_some_and(|(now, by)| by <= now);
                attempt.poll(cx, late).map(|result| Outcome::Connected(*generation, result))
            }
        }
    }
}

impl Attempt {
    fn poll(&mut self, cx: &mut Context<'_>, late: bool) -> Poll<Result<Stream, Error>> {
        match self {
            Self::Dial(dialling, keep_alive) => match dialling.poll(cx) {
                Poll::Pending if late => Poll::Ready(Err(dialling.timed_out().into())),
                poll => poll.map(|outcome| {
                    let connection = outcome?;
                    if let Some(keep_alive) = *keep_alive {
                        connection.set_tcp_keep_alive(keep_alive)?;
                    }
                    Ok(Stream(Kind::Os(connection)))
                }),
            },
            Self::Own(stream) => stream.as_mut().poll(cx),
            Self::Given(stream) => {
                let nobody = || io::Error::new(io::ErrorKind::NotConnected, "no stream was given");
                Poll::Ready(stream.take().ok_or_else(|| nobody().into()))
            }
        }
    }
}
