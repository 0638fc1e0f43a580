//! Threads in which requests wait for their export, and clients to hear which there are.

use std::collections::{HashMap, VecDeque};
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

/// Queues that are empty are remembered up to this many, so that nothing is allocated for each
/// request.
const REMEMBERED: usize = 64;

/// Something that may wait.
pub(crate) trait Work: Send + 'static {
    /// In which queue it waits for its turn.
    fn queue(&self) -> u64;

    /// Does it, however long it takes.
    fn run(self);
}

/// As many threads as there are tasks that wait, up to a limit.
///
/// No queue has more than half of the threads that the others leave, so that one whose tasks do
/// not come back leaves some to the others.
#[derive(Debug)]
pub(crate) struct Pool<W> {
    state: Arc<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    most: usize,
    tasks: Mutex<Tasks<W>>,
    more: Condvar,
    /// There is no task left.
    done: Condvar,
}

struct Tasks<W> {
    queues: HashMap<u64, Queue<W>>,
    /// The queues in which a task waits, in the order in which they have their turn.
    turns: VecDeque<u64>,
    /// Tasks under way.
    running: usize,
    /// Tasks that wait.
    waiting: usize,
    /// Threads there are.
    threads: usize,
    /// Threads that wait for a task.
    idle: usize,
    /// Of these, threads that have been told to come.
    told: usize,
    /// Threads that have been started and have not come.
    starting: usize,
    closed: bool,
}

struct Queue<W> {
    waiting: VecDeque<W>,
    /// Tasks under way.
    running: usize,
}

impl<W: Work> Pool<W> {
    /// A pool of at most `most` threads, and none at first.
    pub(crate) fn new(most: usize) -> Self {
        let tasks = Tasks {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            running: 0,
            waiting: 0,
            threads: 0,
            idle: 0,
            told: 0,
            starting: 0,
            closed: false,
        };
        let (more, done) = Default::default();
        Self { state: Arc::new(State { most: most.max(1), tasks: Mutex::new(tasks), more, done }) }
    }

    /// Has it done.
    ///
    /// # Errors
    /// Gives it back when no thread can be had.
    pub(crate) fn add(&self, task: W) -> Result<(), W> {
        let mut tasks = self.state.tasks();
        let may_begin = tasks.may_begin(task.queue(), self.state.most);
        // Where there are some threads, they come to it.
        if may_begin && !self.state.call(&mut tasks) && tasks.threads == 0 {
            return Err(task);
        }
        tasks.put(task);
        Ok(())
    }

    /// Waits until there is no task left, `limit` at most. Tells how many there are then.
    pub(crate) fn wait(&self, limit: Duration) -> usize {
        let (tasks, _) = self
            .state
            .done
            .wait_timeout_while(self.state.tasks(), limit, |tasks| tasks.left() > 0)
            .unwrap_or_else(PoisonError::into_inner);
        tasks.left()
    }
}

impl<W: Work> State<W> {
    fn tasks(&self) -> MutexGuard<'_, Tasks<W>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one more thread come. False when there is none.
    fn call(self: &Arc<Self>, tasks: &mut Tasks<W>) -> bool {
        if tasks.idle > tasks.told {
            tasks.told += 1;
            self.more.notify_one();
            return true;
        }
        if tasks.threads >= self.most {
            return false;
        }
        let state = Arc::clone(self);
        let thread = thread::Builder::new().name("worker".to_owned());
        let started = thread.spawn(move || state.work()).is_ok();
        if started {
            tasks.threads += 1;
            tasks.starting += 1;
        }
        started
    }

    fn work(self: &Arc<Self>) {
        let mut tasks = self.tasks();
        tasks.starting -= 1;
        loop {
            if let Some(task) = tasks.take(self.most) {
                let queue = task.queue();
                // The end of one task may let two others begin.
                if tasks.told + tasks.starting == 0 && tasks.next(self.most).is_some() {
                    self.call(&mut tasks);
                }
                drop(tasks);
                // Its thread serves others, too, and has told what it was.
                let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
                tasks = self.tasks();
                tasks.finish(queue);
                if tasks.left() == 0 {
                    self.done.notify_all();
                }
                continue;
            }
            if tasks.closed {
                break;
            }
            tasks.idle += 1;
            let (woken, waited) =
                self.more.wait_timeout(tasks, IDLE).unwrap_or_else(PoisonError::into_inner);
            tasks = woken;
            tasks.idle -= 1;
            tasks.told = tasks.told.saturating_sub(1);
            if waited.timed_out() && tasks.next(self.most).is_none() {
                break;
            }
        }
        tasks.threads -= 1;
    }
}

impl<W: Work> Tasks<W> {
    fn put(&mut self, task: W) {
        let key = task.queue();
        if self.queues.len() >= REMEMBERED && !self.queues.contains_key(&key) {
            self.queues.retain(|_, queue| queue.running > 0 || !queue.waiting.is_empty());
        }
        let empty = || Queue { waiting: VecDeque::new(), running: 0 };
        let queue = self.queues.entry(key).or_insert_with(empty);
        if queue.waiting.is_empty() {
            self.turns.push_back(key);
        }
        queue.waiting.push_back(task);
        self.waiting += 1;
    }

    /// Whether a task of this queue may begin, if there is a thread.
    fn may_begin(&self, key: u64, most: usize) -> bool {
        let own = self.queues.get(&key).map_or(0, |queue| queue.running);
        let left = most.saturating_sub(self.running - own);
        own < (left / 2).max(1)
    }

    /// Whose turn it is, as a place among the turns.
    fn next(&self, most: usize) -> Option<usize> {
        self.turns.iter().position(|key| self.may_begin(*key, most))
    }

    /// Takes the next task, which begins.
    fn take(&mut self, most: usize) -> Option<W> {
        let key = self.turns.remove(self.next(most)?)?;
        let queue = self.queues.get_mut(&key)?;
        let task = queue.waiting.pop_front()?;
        queue.running += 1;
        if !queue.waiting.is_empty() {
            self.turns.push_back(key);
        }
        self.running += 1;
        self.waiting -= 1;
        Some(task)
    }

    fn finish(&mut self, key: u64) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.running -= 1;
            self.running -= 1;
        }
    }
}

impl<W> Tasks<W> {
    const fn left(&self) -> usize {
        self.running + self.waiting
    }
}

/// A request, where its export is and where it goes back.
#[derive(Debug)]
pub(crate) struct Request {
    job: Job,
    queue: u64,
    export: AnyExport,
    mailbox: Arc<Mailbox>,
}

impl Execute for Pool<Request> {
    fn execute(
        &self,
        job: Job,
        queue: u64,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>> {
        self.add(Request { job, queue, export: export.clone(), mailbox: Arc::clone(mailbox) })
            .map_err(|request| Box::new(request.job))
    }
}

impl Work for Request {
    fn queue(&self) -> u64 {
        self.queue
    }

    fn run(self) {
        let Self { mut job, export, mailbox, .. } = self;
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
        self.state.tasks.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.state.more.notify_all();
    }
}

impl<W> std::fmt::Debug for Tasks<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running)
            .field("waiting", &self.waiting)
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A task that says that it has begun, and ends when it may.
    struct Task {
        queue: u64,
        begun: Sender<u64>,
        end: Receiver<()>,
    }

    impl Work for Task {
        fn queue(&self) -> u64 {
            self.queue
        }

        fn run(self) {
            let _ = self.begun.send(self.queue);
            let _ = self.end.recv();
            assert_ne!(self.queue, PANICS, "as it was told");
        }
    }

    const LIMIT: Duration = Duration::from_secs(60);

    /// The queue of tasks that panic.
    const PANICS: u64 = 13;

    #[test]
    fn a_task_that_panics_takes_no_thread_along() {
        let pool = Pool::new(2);
        let (begin, all) = channel();
        drop(add(&pool, PANICS, 10, &begin));
        assert_eq!(begun(10, &all), [PANICS; 10]);
        drop(add(&pool, 1, 1, &begin));
        assert_eq!(begun(1, &all), [1]);
        assert_eq!(pool.wait(LIMIT), 0);
    }

    /// Adds so many tasks of a queue, which end when what comes back is dropped.
    fn add(pool: &Pool<Task>, queue: u64, count: usize, begun: &Sender<u64>) -> Vec<Sender<()>> {
        let task = |_| {
            let (end, ended) = channel();
            let task = Task { queue, begun: begun.clone(), end: ended };
            assert!(pool.add(task).is_ok(), "there are threads");
            end
        };
        (0..count).map(task).collect()
    }

    fn begun(count: usize, all: &Receiver<u64>) -> Vec<u64> {
        (0..count).map(|_| all.recv_timeout(LIMIT).expect("it does not begin")).collect()
    }

    #[test]
    fn a_queue_whose_tasks_do_not_end_leaves_threads_to_others() {
        let pool = Pool::new(16);
        let (begin, all) = channel();
        let first = add(&pool, 1, 100, &begin);
        assert_eq!(begun(8, &all), [1; 8]);
        let second = add(&pool, 2, 100, &begin);
        assert_eq!(begun(4, &all), [2; 4]);
        let third = add(&pool, 3, 1, &begin);
        assert_eq!(begun(1, &all), [3]);
        drop(third);
        // Half of what the others leave is more when they leave more, and all have their turn.
        drop(second);
        assert_eq!(begun(96, &all), [2; 96]);
        drop(first);
        assert_eq!(begun(92, &all), [1; 92]);
        assert_eq!(pool.wait(LIMIT), 0);
    }

    #[test]
    fn what_has_not_ended_is_told() {
        let pool = Pool::new(2);
        let (begin, all) = channel();
        let ends = add(&pool, 1, 3, &begin);
        begun(1, &all);
        assert_eq!(pool.wait(Duration::ZERO), 3);
        drop(ends);
        assert_eq!(pool.wait(LIMIT), 0);
    }
}
