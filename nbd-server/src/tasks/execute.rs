//! Where tasks have requests carried out.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::connection::ConnectionError;
use crate::connection::handshake::Handshake;
use crate::connection::job::Job;
use crate::connection::mailbox::Mailbox;
use crate::connection::session::Execute;
use crate::export::{AnyExport, AsyncExport};
use crate::pool::{Pool, Request, Work};

/// Threads for exports that may block, tasks for those that do not.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub(super) pool: Arc<Pool<Request>>,
    pub(super) exports_queries: Arc<Pool<ExportsQuery>>,
    pub(super) runtime: Handle,
    /// Held until nothing is done any more.
    pub(super) present: mpsc::Sender<()>,
}

impl Execute for Executor {
    fn execute(
        &self,
        job: Job,
        queue: u64,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>> {
        match export {
            AnyExport::Blocking(_) => self.pool.execute(job, queue, export, mailbox),
            AnyExport::Async(export) => {
                let (export, mailbox) = (Arc::clone(export), Arc::clone(mailbox));
                let present = self.present.clone();
                self.runtime.spawn(async move {
                    run(job, export, mailbox).await;
                    drop(present);
                });
                Ok(())
            }
        }
    }
}

/// A client that waits for what the exports say.
#[derive(Debug)]
pub(super) struct ExportsQuery {
    pub(super) handshake: Box<Handshake>,
    pub(super) answer: oneshot::Sender<(Box<Handshake>, Result<(), ConnectionError>)>,
}

impl Work for ExportsQuery {
    fn queue(&self) -> u64 {
        self.handshake.queue()
    }

    fn run(self) {
        let Self { mut handshake, answer } = self;
        let answered = handshake.answer();
        // If the runtime is gone, so is the client.
        let _ = answer.send((handshake, answered));
    }
}

async fn run(job: Job, export: Arc<dyn AsyncExport>, mailbox: Arc<Mailbox>) {
    // Whatever becomes of the future, the request comes back.
    let mut out = ReturnedOnDrop { job: Some(job), mailbox };
    if let Some(job) = &mut out.job {
        job.give_up();
        job.run_async(&*export).await;
    }
}

/// A request that comes back when this is dropped.
struct ReturnedOnDrop {
    job: Option<Job>,
    mailbox: Arc<Mailbox>,
}

impl Drop for ReturnedOnDrop {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.mailbox.put(job);
        }
    }
}
