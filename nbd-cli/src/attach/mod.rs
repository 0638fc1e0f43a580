//! `nbd attach`: an export as a block device of the kernel's, which survives the server.
//!
//! ```text
//!   file system ── /dev/nbdN ── kernel ── pair of sockets ── relay ── any transport, TLS ── server
//! ```
//!
//! The kernel speaks NBD to us, and we speak it to the server: what the kernel's own client has
//! not, such as connecting again, every transport and TLS, the device has from us.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `settings` | how a device is attached, also from a file of many |
//! | `background` | a process of its own for each device |
//! | `worker` | what such a process does |
//! | `guard` | what outlives it, should it be killed |
//! | `relay` | the thread that serves the device |
//! | `queue` | one socket, and the kernel at its other end |
//! | `arrivals` | where the payload of its writes arrives |
//! | `status` | what happens, for others to look at |
//! | `record` | the same, for other processes |
//! | `netlink` | what the kernel is told |
//! | `device` | `/dev/nbdN` |
//! | `detach`, `attached` | `nbd detach`, `nbd attached` |

mod arrivals;
mod attached;
mod background;
#[cfg(test)]
mod costs;
mod detach;
mod device;
mod guard;
mod netlink;
#[cfg(test)]
mod nonsense;
mod queue;
mod record;
mod relay;
mod settings;
mod status;
mod worker;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::connections::{Others, Servers};
use crate::failure::{Context, Failure, Result};
use crate::output;
use device::Device;
use settings::{Planned, Settings};
use worker::Order;

pub(crate) use attached::{AttachedArgs, run as attached};
pub(crate) use detach::{DetachArgs, run as detach};

/// What else there is to know.
const AFTER_HELP: &str = "\
A file for --config names devices, what each is attached to, and the options above that it is to have:

  [nbd0]
  uri = \"nbds://server/disk\"
  wait = true

  [nbd1]
  uri = \"nbd+unix:///?socket=/run/disk.sock\"
  connections = 4
  keep-unflushed = \"0\"

  [nbd2]
  uri = \"nbd://one/disk\"
  also = [\"nbd://two/disk\", \"nbd://three/disk\"]

`nbd attached` shows the devices there are, and `nbd detach` ends them.";

/// Make an export a block device of the kernel's.
///
/// Prints the device as soon as it is there. When the server is lost, requests wait until it is
/// back, and nothing that was acknowledged is lost with it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Serve the device in this process, until SIGTERM or SIGINT
    #[arg(long)]
    foreground: bool,
    /// This is the process that serves a device.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background_process: bool,
    /// This is the process that waits for the end of another.
    #[arg(long, hide = true, value_name = "PID")]
    guard: Option<u32>,
    /// Attach the devices that this file names, or those of them that are given. How, the file
    /// says
    #[arg(long, value_name = "FILE", conflicts_with_all = settings::NAMES)]
    config: Option<PathBuf>,
    #[command(flatten)]
    others: Others,
    #[command(flatten)]
    settings: Settings,
    /// An NBD URI, or the command of a server in brackets; and /dev/nbdN (default: any that is
    /// free)
    #[arg(value_name = "URI [DEVICE]")]
    words: Vec<OsString>,
}

/// Attaches.
///
/// # Errors
///
/// When the server cannot be reached, or the kernel does not take the device.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let (Some(process), [device, ..]) = (args.guard, &args.words[..]) {
        return guard::run(parse_device(device)?, process);
    }
    match &args.config {
        None => attach_one(args),
        Some(path) => attach_planned(args, path.as_os_str(), settings::read(path)?),
    }
}

fn attach_one(args: &Args) -> Result<()> {
    let (server, device) = match &args.words[..] {
        [server] => (server, None),
        [server, device] => (server, Some(parse_device(device)?)),
        [] => return Err(Failure::new("an NBD URI or [ COMMAND ] is needed here")),
        [_, _, more, ..] => {
            return Err(Failure::new(format!("`{}` is one word too many", more.display())));
        }
    };
    if !args.foreground && !args.background_process {
        // The words of the command line, behind the name of the command.
        return output::print(&background::start(std::env::args_os().skip(2))?);
    }
    let servers = Servers::named(server, &args.others)?;
    serve(args, &Order { servers, device, settings: args.settings.clone() })
}

fn parse_device(word: &OsStr) -> Result<Device> {
    word.to_string_lossy().parse().map_err(Failure::new)
}

/// Attaches devices of a file.
fn attach_planned(args: &Args, path: &OsStr, mut planned: Vec<Planned>) -> Result<()> {
    if !args.words.is_empty() {
        let wanted = args.words.iter().map(|word| parse_device(word));
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        for device in &wanted {
            if planned.iter().all(|planned| planned.device != *device) {
                return Err(Failure::new(format!("{}: it names no {device}", path.display())));
            }
        }
        planned.retain(|planned| wanted.contains(&planned.device));
    }
    if args.foreground || args.background_process {
        let [Planned { device, uri, others, settings }] = &planned[..] else {
            return Err(Failure::new("one process serves one device; say which"));
        };
        let place = |failure| Failure::new(format!("{}: {device}: {failure}", path.display()));
        let servers = Servers::named(OsStr::new(uri), others).map_err(place)?;
        let (device, settings) = (Some(*device), settings.clone());
        return serve(args, &Order { servers, device, settings });
    }
    // One that cannot be attached does not keep the others.
    let mut failed = None;
    for Planned { device, .. } in planned {
        let device = device.to_string();
        let words = [OsStr::new("--config"), path, OsStr::new(&device)];
        match background::start(words) {
            Ok(told) => output::print(&told)?,
            Err(failure) => failed = Some(failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn serve(args: &Args, order: &Order) -> Result<()> {
    if args.background_process {
        return worker::run(order, background::announce);
    }
    worker::run(order, |device| {
        output::print(&format!("{device}\n"))?;
        // Without an init system that waits there is nothing to do.
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("the init system")
    })
}
