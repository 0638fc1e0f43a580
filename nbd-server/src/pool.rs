//! Threads in which requests wait for their export, and clients to hear which there are.

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

/// Something that may wait. It does not panic.
pub(crate) trait Work: Send + 'static {
    /// Does it, however long it takes.
    fn run(self);
}

/// As many threads as there are tasks that wait, up to a limit.
#[derive(Debug)]
pub(crate) struct Pool<W> {
    state: Arc<State<W>>,
    most: usize,
}

#[derive(Debug)]
struct State<W> {
    queue: Mutex<Queue<W>>,
    more: Condvar,
}

struct Queue<W> {
    tasks: VecDeque<W>,
    /// Threads there are.
    threads: usize,
    /// Threads that wait for a task.
    idle: usize,
    closed: bool,
}

impl<W: Work> Pool<W> {
    /// A pool of at most `most` threads, and none at first.
    pub(crate) fn new(most: usize) -> Self {
        let queue = Queue { tasks: VecDeque::new(), threads: 0, idle: 0, closed: false };
        let state = State { queue: Mutex::new(queue), more: Condvar::new() };
        Self { state: Arc::new(state), most: most.max(1) }
    }

    /// Has it done.
    ///
    /// # Errors
    /// Gives it back when no thread can be had.
    pub(crate) fn add(&self, task: W) -> Result<(), W> {
        let mut queue = self.state.queue();
        if queue.idle <= queue.tasks.len() && queue.threads < self.most {
            let state = Arc::clone(&self.state);
            let thread = thread::Builder::new().name("worker".to_owned());
            match thread.spawn(move || state.work()) {
                Ok(_) => queue.threads += 1,
                // Where there are some, they come to it.
                Err(_) if queue.threads > 0 => {}
                Err(_) => return Err(task),
            }
        }
        queue.tasks.push_back(task);
        drop(queue);
        self.state.more.notify_one();
        Ok(())
    }
}

impl<W: Work> State<W> {
    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                drop(queue);
                task.run();
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

/// A request, where its export is and where it goes back.
#[derive(Debug)]
pub(crate) struct Request {
    job: Job,
    export: AnyExport,
    mailbox: Arc<Mailbox>,
}

impl Execute for Pool<Request> {
    fn execute(
        &self,
        job: Job,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>> {
        self.add(Request { job, export: export.clone(), mailbox: Arc::clone(mailbox) })
            .map_err(|request| Box::new(request.job))
    }
}

impl Work for Request {
    fn run(self) {
        let Self { mut job, export, mailbox } = self;
        match &export {
            AnyExport::Blocking(export) => job.run(&**export),
            AnyExport::Async(export) => block_on(&mut job, &**export),
        }
        mailbox.put(job);
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

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.state.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.state.more.notify_all();
    }
}

impl<W> std::fmt::Debug for Queue<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("tasks", &self.tasks.len())
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}
