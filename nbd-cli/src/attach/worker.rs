//! The process that serves a device, from the first connection to the end.
//!
//! | thread | what it does |
//! |---|---|
//! | the first | tells others what happens: the file in `/run/nbd`, and the kernel when the export has grown |
//! | `relay` | serves the device; it waits for nobody but the server |
//! | `signals` | detaches on SIGTERM and SIGINT |

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nbd_client_mio::proto::{ExportInfo, TransmissionFlags};
use nbd_client_mio::session::replay::RecoveryError;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::process::configure_io_flusher_behavior;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::device::{Device, LARGEST_BLOCK, SMALLEST_BLOCK};
use super::guard;
use super::netlink::{self, Refusal, Shape};
use super::record::{self, Record};
use super::relay::Relay;
use super::settings::Settings;
use super::status::{Health, News, Status};
use crate::connections::Servers;
use crate::failure::{Context, Failure, Result, in_words};
use crate::output;

/// What a socket takes at once, in bytes: some of the usual large requests, so that neither side
/// waits for the other to take the rest of one.
const SEND_BUFFER: usize = 2 << 20;

/// Before another look for a server that is not there.
const AGAIN: Duration = Duration::from_millis(500);

/// What is to be attached.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) servers: Servers,
    pub(super) device: Option<Device>,
    pub(super) settings: Settings,
}

/// Attaches, tells by `announce` when the device is there, and serves it to its end.
pub(super) fn run(order: &Order, announce: impl FnOnce(Device) -> Result<()>) -> Result<()> {
    netlink::check().map_err(|refusal| Failure::new(refusal.to_string()))?;
    if let Some(device) = order.device {
        clear(device)?;
    }
    let status = Arc::new(Status::default());
    let mut relay = connect(order, &status)?;
    let name = order.servers.name();
    let nothing = || Failure::new(format!("{name}: there is no export"));
    let export = relay.export().ok_or_else(nothing)?;
    let longest = relay.longest_request();
    let shape = shape(export, longest, order.settings.read_only)
        .map_err(|error| Failure::new(format!("{name}: {error}")))?;
    relay.compare(order.settings.limit())?;
    let rest = export.size - shape.size;
    if rest > 0 {
        let block = shape.block;
        output::complain(&format!(
            "nbd: the last {rest} bytes of the export are no whole block of {block} bytes: the \
             device is without them\n"
        ));
    }
    let mut theirs = Vec::new();
    let (asked, made) = (order.settings.queues(), relay.connections());
    if made < asked {
        let why = relay.why_fewer(order.servers.is_command());
        output::complain(&format!("nbd: connections to the server: {made} of {asked}, {why}\n"));
    }
    for _ in 0..order.settings.queues() {
        let (ours, kernels) = UnixStream::pair().context("a pair of sockets")?;
        for socket in [&ours, &kernels] {
            // Where that is not allowed it is slower.
            let _ = set_socket_send_buffer_size_force(socket, SEND_BUFFER);
        }
        relay.serve(ours, shape.flags).context("a socket of the device")?;
        theirs.push(kernels);
    }
    let (connections, relay_in_use) = (relay.connections(), relay.in_use());
    // From here on memory is not to be waited for: the kernel may wait for us to have some.
    stay_in_memory();
    let told = Arc::clone(&status);
    let relay = thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || {
            let ended = relay.run();
            told.change(|news| {
                news.over = true;
                if ended.is_err() {
                    news.health = Health::Failed;
                }
            });
            ended
        })
        .context("a thread")?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
    let sockets: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let device = netlink::connect(order.device, shape, &sockets)
        .map_err(|refusal| refused(order.device, &refusal))?;
    drop(theirs);
    // Its end of the pipe closes with this process, however that ends.
    let (guard, guarded) = match guard::start(device) {
        Ok(guard) => (Some(guard), Ok(())),
        Err(error) => (None, Err(error).context("a process that looks after the device")),
    };
    let mut record = Record {
        device: device.to_string(),
        uri: name.to_owned(),
        also: order.servers.other_names(),
        in_use: relay_in_use,
        pid: std::process::id(),
        process_start: record::process_start(std::process::id()).unwrap_or(0),
        state: Health::Connected,
        size: shape.size,
        block_size: shape.block,
        connections,
        reconnects: 0,
        since: record::now(),
        last_error: None,
        loss: None,
    };
    let begun = guarded
        .and_then(|()| device.limit_requests(longest).context("the length of requests"))
        .and_then(|()| record.write().context("/run/nbd"))
        .and_then(|()| obey(signals, device).context("a thread"))
        .and_then(|()| announce(device));
    if begun.is_err() {
        // The relay ends with the device.
        let _ = netlink::disconnect(device);
    }
    report(&status, &mut record, device, shape);
    let ended =
        relay.join().map_err(|_| Failure::new("the thread that serves the device failed"))?;
    if device.owner() == Some(std::process::id()) {
        let _ = netlink::disconnect(device);
    }
    if let Some(mut guard) = guard {
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
    match &ended {
        Ok(()) => record::remove(device),
        Err(error) => {
            // Whoever detaches is told, and removes it.
            record.loss = Some(in_words(error));
            record.state = Health::Failed;
            let _ = record.write();
        }
    }
    begun?;
    ended.context(name)
}

/// A device of ours whose process has died is as good as free. Another program may well be gone and
/// have left its device to the kernel, which serves it without anybody.
fn clear(device: Device) -> Result<()> {
    let Some(owner) = device.owner() else { return Ok(()) };
    let record = record::read(device).filter(|record| record.pid == owner);
    match record {
        Some(record) if record.is_served() => {
            return Err(Failure::new(format!(
                "{device} is in use: it is attached to {}; nbd detach {device} ends that",
                record.uri
            )));
        }
        Some(_) => {}
        None => return Err(refused(Some(device), &Refusal::InUse)),
    }
    netlink::disconnect(device).map_err(|refusal| refused(Some(device), &refusal))?;
    record::remove(device);
    Ok(())
}

fn refused(device: Option<Device>, refusal: &Refusal) -> Failure {
    match device {
        Some(device) => Failure::new(format!("{device}: {refusal}")),
        None => Failure::new(refusal.to_string()),
    }
}

/// Connects, as soon as there is a server if that is wanted.
fn connect(order: &Order, status: &Arc<Status>) -> Result<Relay> {
    let mut settings = order.settings.clone();
    let mut told = false;
    loop {
        let options = settings.options(&order.servers)?;
        let kept = usize::try_from(settings.kept()?).unwrap_or(usize::MAX);
        let most = settings.connections(&order.servers);
        match Relay::connect(&order.servers, &options, most, kept, Arc::clone(status)) {
            Err(error) if settings.wait && error.is_transient() => {
                if !std::mem::replace(&mut told, true) {
                    let (name, why) = (order.servers.name(), in_words(&error));
                    output::mention(&format!("nbd: {name}: {why}: waiting for it\n"));
                }
                thread::sleep(AGAIN);
            }
            Err(error)
                if error.recovery() == Some(&RecoveryError::CannotKeep)
                    && settings.keeps_by_default() =>
            {
                settings = settings.without_keeping();
                output::complain(
                    "nbd: the server cannot make anything durable: what it loses is lost\n",
                );
            }
            connected => return connected.context(order.servers.name()),
        }
    }
}

/// What the device is to be like, for this export and the longest request that is possible.
fn shape(
    export: &ExportInfo,
    longest: usize,
    read_only: bool,
) -> std::result::Result<Shape, String> {
    let block = export.minimum_block().max(SMALLEST_BLOCK);
    if block > LARGEST_BLOCK {
        return Err(format!(
            "the server takes blocks of {block} bytes or more, and the kernel's devices have \
             blocks of at most {LARGEST_BLOCK}"
        ));
    }
    if longest < LARGEST_BLOCK as usize {
        return Err(format!(
            "the server takes requests of at most {longest} bytes, and the kernel sends some of \
             {LARGEST_BLOCK}"
        ));
    }
    let size = export.size - export.size % u64::from(block);
    if size == 0 {
        return Err(format!(
            "the export has {} bytes, which is less than one block of {block}",
            export.size
        ));
    }
    let known = TransmissionFlags::HAS_FLAGS
        | TransmissionFlags::READ_ONLY
        | TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::ROTATIONAL
        | TransmissionFlags::SEND_TRIM
        | TransmissionFlags::SEND_WRITE_ZEROES;
    // All queues are served by one process, which flushes for all of them.
    let mut flags =
        export.flags & known | TransmissionFlags::HAS_FLAGS | TransmissionFlags::CAN_MULTI_CONN;
    flags.set(
        TransmissionFlags::READ_ONLY,
        read_only || flags.contains(TransmissionFlags::READ_ONLY),
    );
    Ok(Shape { size, block, flags })
}

/// Memory that is swapped out could be wanted back for writing that very page; and whoever
/// writes for the kernel must not wait for it to write.
fn stay_in_memory() {
    // The program itself is fetched, all of it: a part that runs for the first time could be in
    // the swap that is served here. What is mapped later is locked as far as it is used.
    let later = MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = mlockall(MlockAllFlags::CURRENT).and_then(|()| mlockall(later));
    let marked = configure_io_flusher_behavior(true);
    let spared = fs::write("/proc/self/oom_score_adj", "-1000");
    let failed = [locked.map_err(io::Error::from).err(), marked.map_err(io::Error::from).err()];
    if let Some(error) = failed.into_iter().flatten().chain(spared.err()).next() {
        output::complain(&format!(
            "nbd: the device may stop when memory is short, since it cannot be set apart: {error}\n"
        ));
    }
}

/// Detaches when a signal asks for it. The second one ends the process at once.
fn obey(mut signals: Signals, device: Device) -> io::Result<()> {
    let obey = move || {
        for (number, signal) in signals.forever().enumerate() {
            // Writing out may take long, or never end: it is not waited for here.
            let begun = thread::Builder::new().name("detach".to_owned());
            if number > 0 || begun.spawn(move || detach(device)).is_err() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(obey).map(drop)
}

/// Ends the device when what is only in the kernel has gone out, and nobody uses it any more: a
/// file system on it would lose what it has not written.
fn detach(device: Device) {
    let mut told = false;
    while let Err(error) = device.settle()
        && error.kind() == io::ErrorKind::ResourceBusy
    {
        if !std::mem::replace(&mut told, true) {
            output::mention(&format!(
                "nbd: {device} is in use: it ends when it is not, or at the next signal\n"
            ));
        }
        thread::sleep(AGAIN);
    }
    let _ = netlink::disconnect(device);
}

/// Tells others what happens, until the device is no more.
fn report(status: &Status, record: &mut Record, device: Device, mut shape: Shape) {
    // While no server can be connected to, each cause is told once.
    let mut told: Vec<String> = Vec::new();
    let mut known = News { size: shape.size, in_use: record.in_use.clone(), ..News::default() };
    loop {
        let news = status.wait(&known);
        if news.over {
            return;
        }
        let size = news.size - news.size % u64::from(shape.block);
        if size > shape.size {
            shape.size = size;
            if let Err(refusal) = netlink::resize(device, shape) {
                output::mention(&format!("nbd: {device} does not grow: {refusal}\n"));
            }
        }
        if let Some(trouble) = news.trouble.as_ref().filter(|trouble| !told.contains(trouble)) {
            told.push(trouble.clone());
            output::mention(&format!("nbd: {device}: {trouble}\n"));
        }
        if news.reconnects > known.reconnects {
            told.clear();
            let to = match &news.in_use[..] {
                [] => String::new(),
                servers => format!(", to {}", servers.join(", ")),
            };
            output::mention(&format!("nbd: {device}: connected again{to}\n"));
        }
        record.state = news.health;
        record.reconnects = news.reconnects;
        record.last_error.clone_from(&news.trouble);
        record.in_use.clone_from(&news.in_use);
        record.size = shape.size;
        // Somebody looks at a file that is a little old.
        let _ = record.write();
        known = news;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_whole_blocks_that_the_kernel_can_have() {
        use nbd_client_mio::proto::BlockSizes;
        let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
        let export = |size, minimum| {
            let mut export = ExportInfo::new(size, flags | TransmissionFlags::SEND_CACHE);
            export.block_sizes = Some(BlockSizes { minimum, preferred: 65536, maximum: 1 << 25 });
            export
        };
        let told = |size, minimum| {
            shape(&export(size, minimum), 4096, false).map(|shape| (shape.size, shape.block))
        };
        assert_eq!(told(1025, 1), Ok((1024, 512)));
        assert_eq!(told(8192, 4096), Ok((8192, 4096)));
        assert!(told(511, 1).unwrap_err().contains("511 bytes"));
        assert!(told(1 << 20, 8192).unwrap_err().contains("8192"));
        let short = shape(&export(1 << 20, 1), 2048, false).unwrap_err();
        assert!(short.contains("at most 2048 bytes"), "{short}");
        let shape = shape(&export(1 << 20, 1), 4096, true).unwrap();
        let read_only = TransmissionFlags::READ_ONLY | TransmissionFlags::CAN_MULTI_CONN;
        assert_eq!(shape.flags, flags | read_only);
    }
}
