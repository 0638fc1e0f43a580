//! A process that sleeps as long as a device is served, and ends the device should the process
//! that serves it be killed.
//!
//! The kernel fails what comes then, but not what was under way: whoever waits for that would wait
//! until the device is detached.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::setsid;

use super::device::Device;
use super::netlink;
use crate::failure::{Context, Failure, Result};

/// Starts it, for this process and its device. It notices the end of this process by the end of
/// its standard input.
///
/// # Errors
///
/// When there is no process to be had.
pub(super) fn start(device: Device) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("nbd").args(["attach", "--guard"]).arg(std::process::id().to_string());
    command.arg(device.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// In such a process: waits for the end of the other, and ends its device if it has not.
pub(super) fn run(device: Device, process: u32) -> Result<()> {
    // What ends all processes of a terminal does not end this one.
    setsid().context("a session")?;
    let mut end = [0];
    let _ = io::stdin().read(&mut end);
    if device.owner() != Some(process) {
        return Ok(());
    }
    netlink::disconnect(device).map_err(|refusal| Failure::new(refusal.to_string()))
}
