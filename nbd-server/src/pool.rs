//! Threads in which requests wait for their export.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::connection::job::Job;
use crate::connection::mailbox::Mailbox;
use crate::connection::session::Execute;
use crate::export::{AnyExport, AsyncExport};

/// A thread that has had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// As many threads as there are requests that wait, up to a limit.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Arc<State>,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Threads there are.
    threads: usize,
    /// Threads that wait for a task.
    idle: usize,
    closed: bool,
}

struct Task {
    job: Job,
    export: AnyExport,
    mailbox: Arc<Mailbox>,
}

impl Pool {
    /// A pool of at most `most` threads, and none at first.
    pub(crate) fn new(most: usize) -> Self {
        Self { state: Arc::default(), most: most.max(1) }
    }
}

impl Execute for Pool {
    fn execute(
        &self,
        job: Job,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>> {
        let mut queue = self.state.queue();
        if queue.idle <= queue.tasks.len() && queue.threads < self.most {
            let state = Arc::clone(&self.state);
            let thread = thread::Builder::new().name("worker".to_owned());
            match thread.spawn(move || state.work()) {
                Ok(_) => queue.threads += 1,
                // Where there are some, they come to it.
                Err(_) if queue.threads > 0 => {}
                Err(_) => return Err(Box::new(job)),
            }
        }
        let task = Task { job, export: export.clone(), mailbox: Arc::clone(mailbox) };
        queue.tasks.push_back(task);
        drop(queue);
        self.state.more.notify_one();
        Ok(())
    }
}

impl State {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(Task { mut job, export, mailbox }) = queue.tasks.pop_front() {
                drop(queue);
                match &export {
                    AnyExport::Blocking(export) => job.run(&**export),
                    AnyExport::Async(export) => block_on(&mut job, &**export),
                }
                mailbox.put(job);
                queue = self.queue();
                continue;
            }
            if queue.closed {
                break;
            }
            queue.idle += 1;
            let (woken, waited) =
                self.more.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.tasks.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
    }
}

/// Runs the futures of a request in this thread.
fn block_on(job: &mut Job, export: &dyn AsyncExport) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut running = pin!(job.run_async(export));
        let mut context = Context::from_waker(&waker);
        while running.as_mut().poll(&mut context).is_pending() {
            thread::park();
        }
    }));
    if done.is_err() {
        // The thread has told what it was.
        job.give_up();
    }
}

/// Wakes a thread that has parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.state.queue().closed = true;
        self.state.more.notify_all();
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("tasks", &self.tasks.len())
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}
