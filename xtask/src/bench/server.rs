//! Servers that programs are measured against.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use super::data::Sample;
use crate::Outcome;
use crate::silence::{self, family};

/// The size of the disk. Small enough to stay in memory, large enough not to
/// stay in the processor's caches.
pub(super) const DISK: &str = "256M";

/// A directory that nobody else uses, removed when dropped.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn fresh(name: &str) -> Outcome<Self> {
        let dir = env::temp_dir().join(format!("nbd-bench-{name}-{}", process::id()));
        fs::create_dir(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Failing means that there is nothing to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server at a Unix socket, killed when dropped.
pub(super) struct Server {
    process: Process,
    socket: PathBuf,
    export: &'static str,
}

enum Process {
    Child(Child),
    /// It left the process that was started, and has this number.
    Daemon(u32),
}

/// Ticks of /proc/PID/stat in a second; Linux tells everybody the same.
const TICKS: f64 = 100.0;

/// How long something may take that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Starts a server that is told to listen at a socket, and waits until somebody listens there.
    pub(super) fn start(program: &mut Command, socket: &Path) -> Outcome<Self> {
        let name = program.get_program().display().to_string();
        // It may be left from a run that was killed.
        let _ = fs::remove_file(socket);
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start `{name}`: {error}"))?;
        let process = Process::Child(child);
        let mut server = Self { process, socket: socket.to_owned(), export: "" };
        wait_until(&format!("`{name}` did not listen"), || match &mut server.process {
            Process::Child(child) => match child.try_wait() {
                Ok(Some(status)) => {
                    Err(format!("`{name}` ended with {status}, and did not listen"))
                }
                _ => is_listening(socket),
            },
            Process::Daemon(_) => is_listening(socket),
        })?;
        Ok(server)
    }

    /// nbd-server with a file. It always goes to the background.
    pub(super) fn nbd_server(directory: &Path, file: &Path) -> Outcome<Self> {
        let at = |name: &str| directory.join(name);
        let (socket, config, pid) = (at("nbd-server"), at("nbd-server.conf"), at("nbd-server.pid"));
        let text = format!(
            "[generic]\nunixsock = {}\nallowlist = true\n[disk]\nexportname = {}\n",
            socket.display(),
            file.display()
        );
        fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let _ = fs::remove_file(&pid);
        let mut program = Command::new("nbd-server");
        let status = program.arg("-C").arg(&config).arg("-p").arg(&pid).stdin(Stdio::null());
        let status =
            status.status().map_err(|error| format!("cannot start nbd-server: {error}"))?;
        if !status.success() {
            return Err(format!("nbd-server ended with {status}"));
        }
        let number = || fs::read_to_string(&pid).ok()?.trim().parse().ok();
        wait_until("nbd-server did not tell its number", || Ok(number().is_some()))?;
        let process = Process::Daemon(number().ok_or("nbd-server has no number")?);
        let server = Self { process, socket, export: "disk" };
        wait_until("nbd-server did not listen", || is_listening(&server.socket))?;
        Ok(server)
    }

    /// nbdkit with a disk in memory.
    pub(super) fn memory(directory: &Path) -> Outcome<Self> {
        let socket = directory.join("s");
        Self::start(nbdkit(&socket).args(["memory", DISK]), &socket)
    }

    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Daemon(number) => *number,
        }
    }

    /// Seconds of processors so far, of the user and of the system, those of processes that have
    /// served a client and have ended included.
    pub(super) fn processors(&self) -> Outcome<[f64; 2]> {
        // nbd-server has one for each client.
        wait_until("a client is still served", || Ok(family(self.id()).len() == 1))?;
        let path = format!("/proc/{}/stat", self.id());
        let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        processor_times(&stat).ok_or_else(|| format!("{path} tells no times"))
    }

    /// KiB of memory that belong to it and to those that it has started.
    pub(super) fn memory_held(&self) -> Outcome<u64> {
        memory_of(self.id())
    }

    /// The most KiB that it has ever had.
    pub(super) fn peak(&self) -> Outcome<u64> {
        in_kib(&format!("/proc/{}/status", self.id()), "VmHWM:")
    }
}

/// Adds what the server took meanwhile to what a client has measured.
pub(super) fn with_server(
    server: &Server,
    measure: impl FnOnce() -> Outcome<Sample>,
) -> Outcome<Sample> {
    let before = server.processors()?;
    let mut sample = measure()?;
    let after = server.processors()?;
    sample.insert("server_user_s".to_owned(), after[0] - before[0]);
    sample.insert("server_system_s".to_owned(), after[1] - before[1]);
    Ok(sample)
}

/// KiB of memory of a process and its descendants; what they share is counted once.
pub(super) fn memory_of(process: u32) -> Outcome<u64> {
    let one = |pid| in_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    family(process).into_iter().map(one).sum()
}

fn in_kib(path: &str, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.ok_or_else(|| format!("{path} has no {name}"))
}

/// User's and system's time from the text of /proc/PID/stat, with those of its children.
fn processor_times(stat: &str) -> Option<[f64; 2]> {
    // The name, in parentheses, may hold anything; the state is the third field.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let time = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some([(time(14)? + time(16)?) / TICKS, (time(15)? + time(17)?) / TICKS])
}

/// Waits for what is to happen at once.
pub(super) fn wait_until(what: &str, mut happened: impl FnMut() -> Outcome<bool>) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !happened()? {
        if Instant::now() > deadline {
            return Err(format!("{what} within {} s", PATIENCE.as_secs()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Unmounts what a program has mounted here, if it is: root does so by himself, for others there
/// is fusermount3.
pub(super) fn unmount(place: &Path) {
    let done = |command: &mut Command| {
        let quiet = command.arg(place).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let _ = done(&mut Command::new("umount")) || done(Command::new("fusermount3").arg("-u"));
}

/// Whether somebody listens at a Unix socket. Whoever connects to see has been a client.
fn is_listening(socket: &Path) -> Outcome<bool> {
    const LISTENING: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix");
    let sockets = sockets.map_err(|error| format!("/proc/net/unix: {error}"))?;
    let path = socket.display().to_string();
    Ok(sockets.lines().any(|line| {
        let flags = line.split_whitespace().nth(3);
        flags == Some(LISTENING) && line.ends_with(&path)
    }))
}

/// The start of nbdkit's command line.
pub(super) fn nbdkit(socket: &Path) -> Command {
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["-f", "--exit-with-parent", "-U"]).arg(socket);
    nbdkit
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failing means that it has ended already, or that there is nothing to remove.
        match &mut self.process {
            Process::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Daemon(number) => silence::kill(*number),
        }
        let _ = fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::processor_times;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 110 220 330 440 20 0 1 0";
        assert_eq!(processor_times(stat), Some([4.4, 6.6]));
        assert_eq!(processor_times("7 (x) S"), None);
    }
}
