//! `nbd mount`: an export as a file, by FUSE: for those without root or the kernel's module.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `tree` | a directory with one file in it, as the kernel asks for it |
//! | `disk` | what reading and writing that file does to the export |

mod disk;
mod tree;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};
use nbd_client_blocking::Pool;
use nbd_client_blocking::proto::ClientConfig;
use nbd_client_blocking::session::replay::Reconnect;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Context, Failure, Result};
use crate::target::Target;
use crate::{Patience, YEAR, output, size};
use disk::Disk;
use tree::Tree;

/// The file is to go on as soon as it can.
const DELAY: Duration = Duration::from_secs(1);

/// Make an export a file in a directory, by FUSE.
///
/// Prints the path of the file as soon as it is there, and runs until the directory is unmounted,
/// or SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Most connections to the server, where it says that several are safe. With
    /// --keep-unflushed there is one connection
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Keep so many bytes of what was written and not flushed, and send them again when the
    /// server may have lost them
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    keep_unflushed: Option<u64>,
    /// How long to wait for a server that is lost before the file fails (default: for ever)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    reconnect: Option<u64>,
    /// Let nobody write to the file
    #[arg(long)]
    read_only: bool,
    /// Let other users use the file too
    #[arg(long)]
    allow_other: bool,
    /// What the file is called
    #[arg(long, value_name = "NAME", default_value = "nbd")]
    name: OsString,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
    /// Where to mount
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Why it ends.
enum End {
    /// Somebody has unmounted it.
    Unmounted,
    /// A signal asks for it.
    Signal,
}

/// Mounts, and serves the file to its end.
///
/// # Errors
///
/// When the server cannot be reached or the directory cannot be mounted on; when what was written
/// may be lost.
pub(crate) fn run(args: &Args) -> Result<()> {
    let server = Target::server(&args.server)?;
    if !args.directory.is_dir() {
        return Err(Failure::new(format!("{} is no directory", args.directory.display())));
    }
    if args.name.is_empty() || args.name.as_encoded_bytes().contains(&b'/') {
        return Err(Failure::new(format!("`{}` is no name of a file", args.name.display())));
    }
    let config = ClientConfig::new().meta_context("base:allocation");
    let options = server.options(config, args.patience.limit());
    let policy = args.policy().filter(|_| !server.is_command());
    let size = if server.is_command() { 1 } else { args.connections as usize };
    let pool = Pool::connect(options.reconnect(policy), size).context(&server.name)?;
    let disk = Arc::new(Disk::new(pool, args.read_only).context(&server.name)?);
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
    let (ends, end) = channel();
    let tree = Tree::new(Arc::clone(&disk), args.name.clone(), ends.clone());
    let mut mount = Config::default();
    let access = if disk.is_read_only() { MountOption::RO } else { MountOption::RW };
    mount.mount_options = vec![
        MountOption::FSName(format!("nbd:{}", server.name.replace(',', "%2C"))),
        MountOption::Subtype("nbd".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        access,
    ];
    mount.acl = if args.allow_other { SessionACL::All } else { SessionACL::Owner };
    mount.n_threads = Some(size);
    let session = fuser::spawn_mount(tree, &args.directory, &mount)
        .context(format!("mounting on {}", args.directory.display()))?;
    obey(signals, ends).context("a thread")?;
    output::print(&format!("{}\n", args.directory.join(&args.name).display()))?;
    let unmounted = match end.recv() {
        Ok(End::Signal) => match unmount(&args.directory, UnmountFlags::empty()) {
            Err(Errno::BUSY) => {
                output::mention("nbd: the file is in use: it is there for those who use it\n");
                let detached = unmount(&args.directory, UnmountFlags::DETACH);
                detached.map_err(Into::into).and_then(|()| session.join())
            }
            Ok(()) => session.join(),
            // Whoever is not root has a program that may.
            Err(_) => session.umount_and_join(),
        },
        Ok(End::Unmounted) | Err(_) => session.join(),
    };
    // Whatever became of the directory, what was written is to be safe.
    let flushed = disk.flush().context(&server.name);
    unmounted.context(format!("unmounting {}", args.directory.display()))?;
    flushed?;
    let disk = Arc::into_inner(disk);
    disk.map_or(Ok(()), |disk| disk.disconnect().context(&server.name))
}

impl Args {
    /// What to do when a connection is lost.
    fn policy(&self) -> Option<Reconnect> {
        let patience = self.reconnect.map_or(Duration::MAX, Duration::from_secs);
        let policy = Reconnect::new().give_up_after(patience).max_delay(DELAY);
        Some(match self.keep_unflushed {
            Some(bytes) if bytes > 0 => policy.keep_unflushed(bytes),
            _ => policy,
        })
    }
}

/// Has a signal end it. The second one ends the process at once.
fn obey(mut signals: Signals, ends: Sender<End>) -> std::io::Result<()> {
    let obey = move || {
        for (number, signal) in signals.forever().enumerate() {
            if number > 0 || ends.send(End::Signal).is_err() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(obey).map(drop)
}
