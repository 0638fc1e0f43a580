//! A process of its own for each device, which tells when the device is there.
//!
//! It is this program again, in the foreground of nobody: it writes the device to its standard
//! output, which is a pipe to us, and closes that. Whoever started it goes on then.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdout};

use super::device::Device;
use crate::failure::{Context, Failure, Result};
use crate::output;

/// The option by which such a process knows what it is.
pub(super) const OPTION: &str = "--background-process";

/// Starts a process with these words behind `nbd attach`, and waits until its device is there.
/// Returns what it has told: the device, in a line.
///
/// # Errors
///
/// When it ends without a device. It has said why, on the standard error that it has from us.
pub(super) fn start<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Result<String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("nbd").arg("attach").arg(OPTION).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("a process for the device")?;
    let mut told = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut told).context("the process of the device")?;
    }
    if !told.is_empty() {
        // It outlives this one.
        return Ok(told);
    }
    let status = child.wait().context("the process of the device")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0);
    match code {
        Some(code) => Err(Failure::silent(code)),
        None => Err(Failure::new(format!("the process of the device ended with {status}"))),
    }
}

/// In such a process: tells that the device is there, and leaves the terminal to others.
pub(super) fn announce(device: Device) -> Result<()> {
    output::print(&format!("{device}\n"))?;
    leave().context("the terminal")
}

fn leave() -> io::Result<()> {
    // A shell that ends takes its own processes with it, not this one.
    setsid()?;
    let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stderr(&nowhere)?;
    dup2_stdout(&nowhere)?;
    Ok(())
}
