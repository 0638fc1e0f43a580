//! `nbd mount`: an export as a file, by FUSE: for those without root or the kernel's module.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the command |
//! | `tree` | a directory with one file in it, as the kernel asks for it |
//! | `disk` | what reading and writing that file does to the export |
//! | `blocks` | who may write while whole blocks are read and written back |
//! | `requests` | requests on their way to the server, many at a time |

mod blocks;
mod disk;
mod requests;
mod tree;

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, SessionACL};
use nbd_client_mio::Error;
use nbd_client_mio::proto::{ClientConfig, Limits};
use nbd_client_mio::session::replay::{Reconnect, RecoveryError};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::geteuid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::connections::{KEPT, Others, Servers};
use crate::failure::{Context, Failure, Result};
use crate::{Patience, YEAR, output, size};
use disk::Disk;
use requests::IN_FLIGHT;
use tree::Tree;

/// The file is to go on as soon as it can.
const DELAY: Duration = Duration::from_secs(1);

/// Before another look for a server that is not there.
const AGAIN: Duration = Duration::from_millis(500);

/// Threads that take requests over from the kernel. What takes several steps keeps one.
const THREADS: usize = 4;

/// Where the kernel's FUSE is.
const FUSE: &str = "/dev/fuse";

/// The longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;

/// Make an export a file in a directory, by FUSE.
///
/// Prints the path of the file as soon as it is there, and runs until the directory is unmounted,
/// or SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Most connections to the server, where it says that several are safe. While writes are
    /// kept (--keep-unflushed) there is one connection: what one sends again could replace what
    /// another has written since. --keep-unflushed=0 and --read-only allow several
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Keep so many bytes of what was written and not flushed, in up to twice as much memory,
    /// and send them again when the server may have lost them; 0 keeps nothing
    #[arg(long, value_name = "SIZE", default_value = KEPT, value_parser = size::parse)]
    keep_unflushed: u64,
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
    others: Others,
    #[command(flatten)]
    patience: Patience,
    /// An NBD URI, or the command of a server in brackets
    #[arg(value_name = "URI")]
    server: OsString,
    /// Where to mount: a directory that is empty
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
    let servers = Servers::named(&args.server, &args.others)?;
    check_directory(&args.directory)?;
    if !is_name(&args.name) {
        return Err(Failure::new(format!("`{}` is no name of a file", args.name.display())));
    }
    check(Path::new(FUSE))?;
    let disk = Arc::new(args.connect(&servers).context(servers.name())?);
    disk.compare(args.patience.limit())?;
    let (asked, (made, why)) = (args.connections as usize, disk.connections());
    if made < asked {
        output::complain(&format!("nbd: connections to the server: {made} of {asked}, {why}\n"));
    }
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
    let (ends, end) = channel();
    let tree = Tree::new(Arc::clone(&disk), args.name.clone(), ends.clone());
    let mut mount = Config::default();
    let access =
        if args.read_only || disk.is_read_only() { MountOption::RO } else { MountOption::RW };
    mount.mount_options = vec![
        MountOption::FSName(format!("nbd:{}", servers.name().replace(',', "%2C"))),
        MountOption::Subtype("nbd".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        access,
    ];
    mount.acl = if args.allow_other { SessionACL::All } else { SessionACL::Owner };
    mount.n_threads = Some(THREADS);
    let session = fuser::spawn_mount(tree, &args.directory, &mount)
        .map_err(|error| in_need_of_help(error, geteuid().is_root()))
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
    let safe = match Arc::try_unwrap(disk) {
        Ok(disk) => disk.finish(),
        // It is still mounted.
        Err(disk) => disk.settle(),
    };
    let safe = safe.context(servers.name());
    unmounted.context(format!("unmounting {}", args.directory.display()))?;
    safe
}

/// Whether that can be mounted on. Whatever is in it would be out of reach for everybody: with a
/// directory such as /proc, the whole machine.
fn check_directory(directory: &Path) -> Result<()> {
    let place = directory.display();
    let error = match directory.metadata() {
        Ok(found) if found.is_dir() => match directory.read_dir().map(|mut entries| entries.next())
        {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {
                return Err(Failure::new(format!(
                    "{place} is not empty: what is in it could not be reached; make a directory \
                     for the file"
                )));
            }
            Err(error) => error,
        },
        Ok(_) => return Err(Failure::new(format!("{place} is no directory"))),
        Err(error) => error,
    };
    Err(Failure::new(match Errno::from_io_error(&error) {
        Some(Errno::NOTCONN) => format!(
            "{place}: what is mounted there has lost the process that served it; fusermount3 -u \
             {place} takes it away"
        ),
        _ => format!("{place}: {error}"),
    }))
}

/// Whether a file of a directory can be called so.
fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let is_special = matches!(bytes, b"" | b"." | b"..");
    !is_special && bytes.len() <= LONGEST_NAME && !bytes.contains(&b'/')
}

/// Why it cannot be mounted. Only root mounts by himself; for others a program does so, which may
/// be missing, or where this user may not look.
fn in_need_of_help(error: io::Error, is_root: bool) -> io::Error {
    match error.kind() {
        kind @ (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) if !is_root => {
            let help = "users other than root need fusermount3 for that (package fuse3)";
            io::Error::new(kind, format!("{error}: {help}"))
        }
        _ => error,
    }
}

/// Whether there is FUSE for this user.
fn check(device: &Path) -> Result<()> {
    let Err(error) = OpenOptions::new().read(true).write(true).open(device) else { return Ok(()) };
    let place = device.display();
    Err(Failure::new(match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            format!("this kernel has no FUSE ({place}); load its module: modprobe fuse")
        }
        Some(Errno::ACCESS | Errno::PERM) => format!(
            "{place} is not for this user to open: root can let everybody (chmod 666 {place}), as \
             most systems do"
        ),
        _ => format!("{place}: {error}"),
    }))
}

impl Args {
    /// Connects, as soon as there is a server if that is wanted.
    fn connect(&self, servers: &Servers) -> std::result::Result<Disk, Error> {
        let until = Instant::now() + self.patience.wait();
        // A server that is a command of ours dies with its connection, and each connection
        // would be one to another.
        let most = if servers.is_command() { 1 } else { self.connections as usize };
        let mut kept = if self.read_only { 0 } else { self.keep_unflushed };
        loop {
            let limits = Limits::default().max_in_flight(IN_FLIGHT);
            let config = ClientConfig::new().meta_context("base:allocation").limits(limits);
            let options = servers.options(config, self.patience.limit());
            let policy = Some(self.policy(kept)).filter(|_| !servers.is_command());
            match Disk::connect(servers, &options.reconnect(policy), most, kept) {
                Err(error) if error.is_transient() && Instant::now() < until => {
                    thread::sleep(AGAIN);
                }
                Err(error) if error.recovery() == Some(&RecoveryError::CannotKeep) && kept > 0 => {
                    kept = 0;
                    output::complain(
                        "nbd: the server cannot make anything durable: what it loses is lost\n",
                    );
                }
                connected => return connected,
            }
        }
    }

    /// What to do when a connection is lost.
    fn policy(&self, kept: u64) -> Reconnect {
        let patience = self.reconnect.map_or(Duration::MAX, Duration::from_secs);
        let policy = Reconnect::new().give_up_after(patience).max_delay(DELAY);
        if kept > 0 { policy.keep_unflushed(kept) } else { policy }
    }
}

/// Has a signal end it. The second one ends the process at once.
fn obey(mut signals: Signals, ends: Sender<End>) -> io::Result<()> {
    let obey = move || {
        for (number, signal) in signals.forever().enumerate() {
            if number > 0 || ends.send(End::Signal).is_err() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(obey).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_fuse_it_is_told_what_to_do() {
        assert!(check(Path::new("/dev/null")).is_ok());
        let told = |path: &str| check(Path::new(path)).unwrap_err().to_string();
        assert!(told("/dev/nothing of this name").contains("modprobe fuse"));
        assert!(told("/").starts_with("/: "));
    }
}
