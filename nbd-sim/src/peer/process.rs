//! A child process with everything it started, and its sure end.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpgid,
};

use super::PeerError;
use super::error::while_doing;

/// How long a process may take to obey SIGTERM. qemu-nbd can lose one that
/// arrives while it starts, so SIGKILL has to follow.
const GRACE: Duration = Duration::from_secs(2);

/// How long the threads of a stopped process may take until the last of them stands still.
const FREEZING: Duration = Duration::from_secs(60);

/// How often a condition is looked at again while waiting for it.
const INTERVAL: Duration = Duration::from_millis(2);

/// The leader of a process group of its own. Signals go to the group, so that
/// the shells a server runs and the children it forks are reached too.
#[derive(Debug)]
pub(super) struct Process {
    program: String,
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` as the leader of a new group.
    pub(super) fn spawn(program: &str, command: &mut Command) -> Result<Self, PeerError> {
        let child = command.process_group(0).spawn().map_err(starting(program))?;
        Self::adopt(program, child.id())
    }

    /// Starts a command that asks to be killed when its parent ends.
    ///
    /// The kernel means the parent *thread*. A test thread may end while the
    /// server lives on in a shared variable, so such children are started from
    /// one thread that stays as long as the process.
    pub(super) fn spawn_lasting(program: &str, mut command: Command) -> Result<Self, PeerError> {
        type Order = (Command, mpsc::Sender<io::Result<Child>>);
        static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
        let spawner = SPAWNER.get_or_init(|| {
            let (orders, inbox) = mpsc::channel::<Order>();
            thread::spawn(move || {
                for (mut command, answer) in inbox {
                    // The asker waits for the answer; it cannot have gone away.
                    let _ = answer.send(command.spawn());
                }
            });
            orders
        });
        command.process_group(0);
        let (answer, child) = mpsc::channel();
        spawner
            .send((command, answer))
            .ok()
            .and_then(|()| child.recv().ok())
            .unwrap_or_else(|| Err(io::Error::other("the spawning thread is gone")))
            .map_err(starting(program))
            .and_then(|child| Self::adopt(program, child.id()))
    }

    /// Takes charge of the group led by `pid`, a child of this process.
    pub(super) fn adopt(program: &str, pid: u32) -> Result<Self, PeerError> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other(format!("{pid} is no process id")))
            .map_err(starting(program))?;
        Ok(Self { program: program.to_owned(), pid, status: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Sends a signal to the whole group.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), PeerError> {
        kill_process_group(self.pid, signal)
            .map_err(|errno| while_doing(format!("signalling `{}`", self.program))(errno.into()))
    }

    /// Stops the group, and waits until every thread of the leader stands still: the signal
    /// alone leaves them time for some answers.
    pub(super) fn freeze(&self) -> Result<(), PeerError> {
        self.signal(Signal::STOP)?;
        let failed = |error| while_doing(format!("stopping `{}`", self.program))(error);
        let tasks = format!("/proc/{}/task", self.pid.as_raw_nonzero());
        let end = Instant::now() + FREEZING;
        loop {
            let mut still = true;
            for task in std::fs::read_dir(&tasks).map_err(failed)? {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                let stat = match stat {
                    Ok(stat) => stat,
                    // A thread that ended after the directory was read.
                    Err(error) if has_gone(&error) => continue,
                    Err(error) => return Err(failed(error)),
                };
                // The state follows the name, which is in parentheses and may hold any.
                let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                still &= state.starts_with('T');
            }
            if still {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            thread::yield_now();
        }
    }

    /// How the leader ended, if it has. Whatever it left running is killed.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() && self.has_ended() {
            self.status = Some(self.bury());
        }
        self.status
    }

    /// Waits until the leader ends or `limit` has passed.
    pub(super) fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_until(limit, || self.try_wait())
    }

    /// Kills the group at once and reaps it.
    pub(super) fn kill(&mut self) -> ExitStatus {
        let status = self.status.unwrap_or_else(|| self.bury());
        self.status = Some(status);
        status
    }

    /// Looks without reaping: while the dead leader is there, its number cannot
    /// belong to another group.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None) | Err(Errno::INTR))
    }

    /// Kills what is left of the group and reaps every member that is ours.
    fn bury(&self) -> ExitStatus {
        // An error means that there is nobody left, which is what we want.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let mut leader = ExitStatus::default();
        loop {
            match waitpgid(self.pid, WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == self.pid => {
                    leader = ExitStatus::from_raw(status.as_raw());
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return leader,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_some() {
            return;
        }
        // A stopped process acts on SIGTERM only once it goes on.
        let asked = self.signal(Signal::TERM).and_then(|()| self.signal(Signal::CONT));
        if asked.is_err() || self.wait_within(GRACE).is_none() {
            self.kill();
        }
    }
}

/// Asks again until there is an answer or `limit` has passed.
pub(super) fn wait_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        thread::sleep(INTERVAL);
    }
}

/// Whether what was to be read in `/proc` belonged to something that is not there any more.
fn has_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

fn starting(program: &str) -> impl FnOnce(io::Error) -> PeerError {
    while_doing(format!("starting `{program}`"))
}
