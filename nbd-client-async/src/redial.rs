//! Making a connection again that was lost.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_session::replay::Reconnect;
use nbd_session::{Link, OldError as Error};

use crate::end::End;
use crate::options::Options;
use crate::runtime::Runtime;
use crate::state::{Outage, Wire};

/// Something that takes its time.
pub(crate) type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connection on its way, or why there will be none.
pub(crate) type Dialling = Later<Result<Dialled, End>>;

/// A connection that was made again.
pub(crate) struct Dialled {
    pub(crate) core: nbd_proto::Client,
    pub(crate) link: Link,
    pub(crate) wire: Wire,
    /// How many attempts it took since the last connection that was of use.
    pub(crate) attempts: u32,
}

/// Connects to the same server, and negotiates for the same export.
#[derive(Clone)]
pub(crate) struct Redial(Arc<dyn Fn(Instant) -> Later<Result<Options, Error>> + Send + Sync>);

impl Redial {
    /// `connect` makes one attempt, until a deadline.
    pub(crate) fn new(
        connect: impl Fn(Instant) -> Later<Result<Options, Error>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(connect))
    }

    /// Tries until it succeeds, or the time is over, or what happened would happen again.
    pub(crate) fn dial(
        self,
        runtime: Arc<dyn Runtime>,
        outage: Outage,
        policy: Reconnect,
    ) -> Dialling {
        Box::pin(async move {
            let Outage { since, mut cause, mut attempts } = outage;
            let give_up = since.checked_add(policy.patience());
            let give_up = give_up.unwrap_or_else(|| Instant::now() + FOR_EVER);
            loop {
                let at = Instant::now() + policy.delay(attempts, random()).min(FOR_EVER);
                runtime
                    .sleep_until(at.min(give_up))
                    .await
                    .map_err(|error| End::Io(error.into()))?;
                let now = Instant::now();
                if now >= give_up {
                    return Err(End::NotReconnected { after: since.elapsed(), cause });
                }
                attempts = attempts.saturating_add(1);
                let outcome = (self.0)(give_up.min(now + Reconnect::LONGEST_ATTEMPT)).await;
                match outcome.and_then(Options::into_parts) {
                    Ok((core, link, wire)) => return Ok(Dialled { core, link, wire, attempts }),
                    Err(error) => {
                        let lasting = !error.is_transient();
                        cause = Arc::new(error);
                        if lasting {
                            return Err(End::NotReconnected { after: since.elapsed(), cause });
                        }
                    }
                }
            }
        })
    }
}

/// Longer than anybody waits, and short enough to be added to the present.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Different each time, and in each process.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
