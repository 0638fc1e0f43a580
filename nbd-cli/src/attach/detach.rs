//! `nbd detach`: ends devices, when everything that was written to them is safe.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::device::Device;
use super::netlink;
use super::record::{self, Record};
use super::status::Health;
use crate::failure::{Context, Failure, Result};
use crate::output;

/// How long the process of a device may take over its end: a little longer than the server may.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long writing may take where the device is to end in any case.
const FORCED: Duration = Duration::from_secs(10);

/// End block devices that `nbd attach` has made.
///
/// What the kernel has not written yet is written first, and flushed. A device that is mounted
/// stays.
#[derive(Debug, clap::Args)]
pub(crate) struct DetachArgs {
    /// All of them
    #[arg(long, conflicts_with = "devices")]
    all: bool,
    /// Also one that is in use, or whose server is away or stands still: what is only in the
    /// kernel is lost
    #[arg(long)]
    force: bool,
    /// /dev/nbdN
    #[arg(value_name = "DEVICE", required_unless_present = "all")]
    devices: Vec<Device>,
}

/// Detaches each device; one that stays does not keep the others.
///
/// # Errors
///
/// When one of them stays, or something that was written to it may be lost.
pub(crate) fn run(args: &DetachArgs) -> Result<()> {
    let all = || record::all().iter().filter_map(Record::device).collect();
    let devices = if args.all { all() } else { args.devices.clone() };
    let mut failures = devices.into_iter().filter_map(|device| detach(device, args.force).err());
    let Some(first) = failures.next() else { return Ok(()) };
    Err(failures.fold(first, Failure::and))
}

fn detach(device: Device, force: bool) -> Result<()> {
    let known = record::read(device);
    let Some(owner) = device.owner() else {
        // It was, until its process ended by itself.
        let Some(known) = known else {
            return Err(Failure::new(format!("{device}: nothing is attached there")));
        };
        return forget(device, known.loss);
    };
    netlink::check().map_err(|refusal| Failure::new(format!("{device}: {refusal}")))?;
    let ours = known.as_ref().filter(|record| record.pid == owner);
    // That program may be gone, and the kernel serve the device without anybody.
    if ours.is_none() && !force {
        return Err(Failure::new(format!(
            "{device}: another program has attached it, process {owner}; --force ends it"
        )));
    }
    let process = ours.filter(|record| record.is_served());
    let is_away = process.is_some_and(|record| record.state == Health::Reconnecting);
    let settled = match (is_away, force) {
        (true, true) => Err(io::Error::other("the server is away")),
        (true, false) => {
            output::mention(&format!(
                "nbd: {device}: the server is away, and writing what the kernel has waits for it; \
                 --force does not\n"
            ));
            device.settle()
        }
        (false, true) => settle_within(device, FORCED),
        (false, false) => device.settle(),
    };
    match settled {
        Ok(()) => {}
        Err(error) if force || process.is_none() && error.kind() != io::ErrorKind::ResourceBusy => {
            output::mention(&format!("nbd: {device}: what the kernel had is lost: {error}\n"));
        }
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return Err(Failure::new(format!("{device} is in use; unmount it first, or --force")));
        }
        Err(error) => {
            return Err(error).context(format!("{device}: writing what the kernel has"));
        }
    }
    // Held from before the end, so that it is that process and no later one.
    let handle = process.and_then(|record| handle(record.pid));
    netlink::disconnect(device).map_err(|refusal| Failure::new(format!("{device}: {refusal}")))?;
    if let Some(handle) = handle {
        wait(&handle).context(format!("{device}: waiting for the server"))?;
    }
    forget(device, record::read(device).and_then(|record| record.loss))
}

/// As [`Device::settle`], for no longer than that: a server that stands still would be waited for
/// as long as it does. What is under way then fails with the device.
fn settle_within(device: Device, limit: Duration) -> io::Result<()> {
    let (tell, told) = sync_channel(1);
    thread::Builder::new().name("settle".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(device.settle());
    })?;
    told.recv_timeout(limit).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Nothing is known of a device any more, once it is told what may be lost.
fn forget(device: Device, loss: Option<String>) -> Result<()> {
    record::remove(device);
    match loss {
        Some(loss) => {
            Err(Failure::new(format!("{device} is detached, and not all is safe: {loss}")))
        }
        None => Ok(()),
    }
}

fn handle(pid: u32) -> Option<rustix::fd::OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the end of a process.
fn wait(process: &rustix::fd::OwnedFd) -> io::Result<()> {
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
