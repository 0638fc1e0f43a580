//! `nbd demo`: everything at work in one process, with nothing installed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{CommandFlags, Limits};
use nbd_client_blocking::{Client, ConnectOptions, Error, Options};
use nbd_server::{ExportList, MemoryExport, Opened, Server, ServerHandle};
use sha2::{Digest, Sha256};

use crate::copy;
use crate::failure::{Context, Failure, Result};
use crate::output::print;
use crate::size;
use crate::target::Target;

/// Size of the demonstrated disk.
const DISK: u64 = 512 << 20;
/// How much of it is filled, from the start; the rest stays a hole.
const FILLED: u64 = 256 << 20;
/// A range in the filled part that is zeroed again.
const ZEROED: std::ops::Range<u64> = 64 << 20..96 << 20;
const REQUEST: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run() -> Result<()> {
    let directory = tempfile::tempdir().context("temporary directory")?;
    let socket = directory.path().join("nbd.sock");
    let server = serve(&socket).context("embedded server")?;
    let uri = server.uris().first().map(String::as_str).unwrap_or_default();
    let result = demonstrate(uri, directory.path());
    server.stop().context("embedded server")?;
    result?;
    say("Everything was right. Next: nbd serve --help, nbd info --help, nbd copy --help.")
}

fn serve(socket: &Path) -> std::io::Result<ServerHandle> {
    let disk = Opened::new("demo", Arc::new(MemoryExport::new(DISK)))
        .described(format!("a disk of {} in memory", size::format(DISK)));
    Server::with_exports(ExportList::new().opened(disk)).listen_unix(socket)?.start()
}

fn demonstrate(uri: &str, directory: &Path) -> Result<()> {
    say(&format!("Serving a disk in memory at\n  {uri}"))?;
    list(uri)?;
    let limits = Limits::default();
    let config = nbd_client_blocking::proto::ClientConfig::new()
        .meta_context("base:allocation")
        .limits(limits);
    let mut client =
        options(uri).and_then(|options| Client::connect(options.config(config))).context(uri)?;
    let started = Instant::now();
    fill(&mut client).context("filling the disk")?;
    let (disk, request) = (size::format(FILLED), size::format(REQUEST as u64));
    let text = format!("Wrote {disk} in requests of {request}");
    told(&text, FILLED, started)?;
    say("Its extents:")?;
    print(&map(&mut client).context("mapping the disk")?)?;
    say(&measure(&mut client).context("reading at random")?)?;
    client.disconnect().context(uri)?;
    let image = directory.join("copy.img");
    copy_out(uri, &image)?;
    verify(uri, &image)
}

fn options(uri: &str) -> std::result::Result<ConnectOptions, Error> {
    let options: ConnectOptions = uri.parse()?;
    Ok(options.connect_timeout(TIMEOUT).silence(TIMEOUT))
}

fn list(uri: &str) -> Result<()> {
    let mut options = options(uri).and_then(Options::connect).context(uri)?;
    say("Its exports:")?;
    for export in options.list().context(uri)? {
        say(&format!("  {}: {}", export.name, export.description))?;
    }
    options.abort().context(uri)
}

/// Writes data that differs from block to block, then zeroes a part of it.
fn fill(client: &mut Client) -> std::result::Result<(), Error> {
    let mut pipeline = client.pipeline();
    let mut buffers: Vec<Vec<u8>> = (0..32).map(|_| vec![0; REQUEST]).collect();
    let (mut offset, mut state) = (0, 1_u64);
    loop {
        while offset < FILLED {
            let Some(mut buffer) = buffers.pop() else {
                break;
            };
            for word in buffer.chunks_exact_mut(8) {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                word.copy_from_slice(&state.to_be_bytes());
            }
            pipeline.write(buffer, offset)?;
            offset += REQUEST as u64;
        }
        let Some(done) = pipeline.wait() else { break };
        done.result?;
        buffers.extend(done.buffer);
    }
    drop(pipeline);
    let length = ZEROED.end - ZEROED.start;
    client.write_zeroes(ZEROED.start, length, CommandFlags::empty())?;
    client.flush()
}

/// The extents, a line for each.
fn map(client: &mut Client) -> std::result::Result<String, Error> {
    let mut lines = String::new();
    let size = client.size();
    for placed in client.extents("base:allocation", 0..size)? {
        let placed = placed?;
        let kind = match (placed.extent.is_hole(), placed.extent.is_zero()) {
            (false, false) => "data",
            (false, true) => "zeroes",
            (true, _) => "hole",
        };
        let (offset, length) = (size::format(placed.offset), size::format(placed.extent.length));
        lines += &format!("  {offset:>6} {length:>6}  {kind}\n");
    }
    Ok(lines)
}

/// Small reads all over the disk, many in flight; tells how fast they were.
fn measure(client: &mut Client) -> std::result::Result<String, Error> {
    const COUNT: u64 = 200_000;
    let started = Instant::now();
    let calls = client.system_calls();
    let mut pipeline = client.pipeline();
    let mut buffers: Vec<Vec<u8>> = (0..64).map(|_| vec![0; 4096]).collect();
    let (mut submitted, mut state) = (0, 1_u64);
    loop {
        while submitted < COUNT {
            let Some(buffer) = buffers.pop() else { break };
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            pipeline.read(buffer, (state >> 32) % (DISK / 4096) * 4096)?;
            submitted += 1;
        }
        let Some(done) = pipeline.wait() else { break };
        done.result?;
        buffers.extend(done.buffer);
    }
    drop(pipeline);
    let calls = (client.system_calls() - calls) as f64 / COUNT as f64;
    let per_second = COUNT as f64 / started.elapsed().as_secs_f64();
    Ok(format!(
        "Read {COUNT} times 4K at random, 64 at once: {per_second:.0} per second, \
         {calls:.2} system calls each"
    ))
}

fn copy_out(uri: &str, image: &Path) -> Result<()> {
    let (from, to) = (Target::parse(OsStr::new(uri))?, Target::File(image.to_owned()));
    let started = Instant::now();
    let copied = copy::between(&from, &to, TIMEOUT)?;
    let text = format!(
        "Copied it to a file: {} of data, {} known to be zeroes",
        size::format(copied.data),
        size::format(copied.zeroes)
    );
    told(&text, copied.data, started)
}

/// Reads the export and the file, and compares their checksums.
fn verify(uri: &str, image: &Path) -> Result<()> {
    let mut client = options(uri).and_then(Client::connect).context(uri)?;
    let (mut disk, mut buffer, mut offset) = (Sha256::new(), vec![0; 4 << 20], 0);
    let mut copy = Sha256::new();
    let mut file = File::open(image).context(image.display())?;
    let mut piece = vec![0; buffer.len()];
    while offset < DISK {
        client.read_exact_at(&mut buffer, offset).context(uri)?;
        file.read_exact(&mut piece).context(image.display())?;
        disk.update(&buffer);
        copy.update(&piece);
        offset += buffer.len() as u64;
    }
    client.disconnect().context(uri)?;
    let excess = file.read(&mut piece).context(image.display())?;
    let (disk, copy) = (disk.finalize(), copy.finalize());
    if disk != copy || excess > 0 {
        return Err(Failure::new("the copy differs from the disk"));
    }
    let hex: String = disk.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    say(&format!("The copy has the disk's checksum: sha256 {hex}..."))
}

fn told(what: &str, bytes: u64, started: Instant) -> Result<()> {
    let mib = bytes as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64();
    say(&format!("{what}: {mib:.0} MiB/s"))
}

fn say(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}
