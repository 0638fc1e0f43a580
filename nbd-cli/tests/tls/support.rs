//! Servers behind TLS, and running the programs that meet them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbd_sim::peer::{Finished, PeerError, Scratch, run_within};
use nbd_sim::rng::Rng;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) type TestResult = Result<(), PeerError>;

/// The program under test.
pub(crate) const NBD: &str = env!("CARGO_BIN_EXE_nbd");

/// Longer than anything here takes, so that a hang is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// What is copied, in bytes: more than any buffer on the way holds.
pub(crate) const LENGTH: usize = 12 << 20;

/// A running `nbd serve`, which is killed and reaped at the end.
pub(crate) struct Serving {
    child: Child,
    uri: String,
    scratch: Scratch,
}

impl Serving {
    /// Serves memory on a Unix socket.
    pub(crate) fn unix(args: &[&str]) -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        let socket = scratch.join("s").to_string_lossy().into_owned();
        Self::start(scratch, &["--unix", &socket], args)
    }

    /// Serves memory on a TCP port.
    pub(crate) fn tcp(args: &[&str]) -> Self {
        let scratch = Scratch::new().expect("a directory is made");
        Self::start(scratch, &["--tcp", "127.0.0.1:0"], args)
    }

    fn start(scratch: Scratch, place: &[&str], args: &[&str]) -> Self {
        let log = File::create(scratch.join("log")).expect("a log is made");
        let mut command = Command::new(NBD);
        command.args(["serve", "--memory", "12M"]).args(place).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut serving = Self { child, uri: String::new(), scratch };
        BufReader::new(stdout).read_line(&mut serving.uri).expect("it prints text");
        serving.uri.truncate(serving.uri.trim_end().len());
        assert!(serving.uri.starts_with("nbds"), "{} {}", serving.uri, serving.log());
        serving
    }

    /// The URI that the server printed.
    pub(crate) fn printed(&self) -> &str {
        &self.uri
    }

    /// The URI with parameters, such as `tls-hostname=localhost`.
    pub(crate) fn uri(&self, parameters: &[&str]) -> String {
        let sign = if self.uri.contains('?') { '&' } else { '?' };
        match parameters {
            [] => self.uri.clone(),
            _ => format!("{}{sign}{}", self.uri, parameters.join("&")),
        }
    }

    /// The URI for a client with the credentials in `dir`.
    pub(crate) fn with(&self, dir: &Path) -> String {
        self.uri(&[&format!("tls-certificates={}", dir.display())])
    }

    /// The URI for a client that does not know of TLS.
    pub(crate) fn plain(&self) -> String {
        self.uri.replacen("nbds", "nbd", 1)
    }

    /// The Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.join("s")
    }

    /// The server as QEMU's block layer describes it, with the credentials of object `t`.
    pub(crate) fn node(&self) -> String {
        let place = format!("server.type=unix,file.server.path={}", self.socket().display());
        format!("driver=raw,file.driver=nbd,file.tls-creds=t,file.{place}")
    }

    /// Asks the server to stop.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it has not ended by itself");
    }

    /// Asks the server to read its credentials again.
    pub(crate) fn reload(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::HUP).expect("it has not ended by itself");
    }

    /// What the server has said on standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).expect("the log can be read")
    }

    /// Waits until the server has said so many lines, and returns them.
    pub(crate) fn said(&self, lines: usize) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let log = self.log();
            if log.lines().count() >= lines && log.ends_with('\n') {
                return log.lines().map(str::to_owned).collect();
            }
            assert!(Instant::now() < deadline, "not {lines} lines: {log}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already; then a test has failed for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `nbd` to its end, well or not.
pub(crate) fn nbd(args: &[&str]) -> Result<Finished, PeerError> {
    run_within(LIMIT, Command::new(NBD).args(args))
}

/// The standard output of a run of `nbd` that succeeds.
pub(crate) fn succeed(args: &[&str]) -> Result<String, PeerError> {
    nbd(args)?.success()
}

/// The one line that a run of `nbd` which fails prints.
pub(crate) fn fail(args: &[&str]) -> Result<String, PeerError> {
    let finished = nbd(args)?;
    let text = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "nbd {args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "nbd {args:?}: {text}");
    Ok(text.trim_end().to_owned())
}

/// A file with bytes that do not repeat, and zeroes between them.
pub(crate) fn image(scratch: &Scratch) -> PathBuf {
    let mut bytes = vec![0; LENGTH];
    let mut rng = Rng::new(1);
    for (i, piece) in bytes.chunks_mut(70_001).enumerate() {
        if i % 5 != 3 {
            rng.fill(piece);
        }
    }
    let path = scratch.join("image");
    fs::write(&path, bytes).expect("it is written");
    path
}

/// Makes sure that two files are the same.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| fs::read(path).expect("it can be read"));
    assert!(a == b, "{} and {} bytes that differ", a.len(), b.len());
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
