//! Command-line tools that run and end: nbdinfo, nbdsh, qemu-img, fio, ...

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::PeerError;
use super::error::while_doing;
use super::process::Process;
use super::program;

/// How long [`run`] lets a tool work.
const LIMIT: Duration = Duration::from_secs(120);

/// A command for an installed tool, with nothing on its standard input and the
/// system's directories first in its `PATH`.
///
/// # Errors
///
/// [`PeerError::Missing`], naming the Debian package.
pub fn tool(name: &str) -> Result<Command, PeerError> {
    let mut command = Command::new(program::find(name)?);
    command.env("PATH", program::search_path()).stdin(Stdio::null());
    Ok(command)
}

/// A tool that has ended, well or not.
#[derive(Debug)]
pub struct Finished {
    program: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// The standard output of a tool that succeeded, without the last newline.
    ///
    /// # Errors
    ///
    /// [`PeerError::Failed`] with both outputs when the exit status is not 0.
    pub fn success(self) -> Result<String, PeerError> {
        if !self.status.success() {
            let output = both(&self.stdout, &self.stderr);
            return Err(PeerError::Failed { program: self.program, status: self.status, output });
        }
        let mut text = String::from_utf8_lossy(&self.stdout).into_owned();
        text.truncate(text.trim_end_matches('\n').len());
        Ok(text)
    }
}

/// Runs a command to its end, for at most two minutes. Its outputs are captured.
///
/// # Errors
///
/// [`PeerError::Io`] when it cannot be started, [`PeerError::TimedOut`] when it
/// had to be killed. A failing exit status is no error here: see
/// [`Finished::success`].
pub fn run(command: &mut Command) -> Result<Finished, PeerError> {
    run_within(LIMIT, command)
}

/// [`run`] with another limit.
///
/// # Errors
///
/// Those of [`run`].
pub fn run_within(limit: Duration, command: &mut Command) -> Result<Finished, PeerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let capturing = || while_doing(format!("capturing the output of `{program}`"));
    // Files, not pipes: a tool that prints much cannot block, and what it
    // printed is there however it ended.
    let (mut stdout, for_stdout) = output_file().map_err(capturing())?;
    let (mut stderr, for_stderr) = output_file().map_err(capturing())?;
    command.stdout(for_stdout).stderr(for_stderr);

    let mut process = Process::spawn(&program, command)?;
    let ended = process.wait_within(limit);
    let status = ended.unwrap_or_else(|| process.kill());
    let stdout = read_back(&mut stdout).map_err(capturing())?;
    let stderr = read_back(&mut stderr).map_err(capturing())?;
    if ended.is_none() {
        return Err(PeerError::TimedOut { program, limit, output: both(&stdout, &stderr) });
    }
    Ok(Finished { program, status, stdout, stderr })
}

fn output_file() -> io::Result<(File, Stdio)> {
    let file = tempfile::tempfile()?;
    let copy = file.try_clone()?;
    Ok((file, copy.into()))
}

fn read_back(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn both(stdout: &[u8], stderr: &[u8]) -> String {
    [stdout, stderr].map(String::from_utf8_lossy).concat()
}
