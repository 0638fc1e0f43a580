//! A call that does not come back holds up nothing but what it was asked for.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use nbd_server::{
    Abilities, AllocationExtent, Export, ExportList, Exports, ExtentKind, Limits, Listed,
    MemoryExport, Opened, Peer, Server, Zeroing,
};
use nbd_sim::raw::{FLUSH, LIMIT, READ, Raw, STATUS, WRITE, request};

use super::support::{Running, start, structured};

/// `NBD_CMD_TRIM`, `NBD_CMD_CACHE`, `NBD_CMD_WRITE_ZEROES`.
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;

/// `NBD_CMD_FLAG_FUA`.
const FUA: u8 = 1;

/// So many calls in a row are as quick as can be: more than anything is learned from.
const QUICK: usize = 20;

/// An export of which calls of one kind are quick, until after some they stand still. Reads at
/// offset 0 are always quick.
struct Stuck {
    kind: AtomicU16,
    calls: AtomicUsize,
    arrived: Mutex<Sender<()>>,
    gate: Mutex<Receiver<()>>,
}

/// Where calls stand still. Dropped, it lets them go. A test moves it behind its server, so that
/// one that fails drops it first: a server that ends waits for its calls.
struct Gate {
    _open: Sender<()>,
    arrivals: Receiver<()>,
}

impl Gate {
    fn arrival(&self) {
        self.arrivals.recv_timeout(LIMIT).expect("the call is not made");
    }
}

impl Stuck {
    fn new(kind: u16) -> (Arc<Self>, Gate) {
        let ((arrived, arrivals), (open, gate)) = (channel(), channel());
        let export = Self {
            kind: AtomicU16::new(kind),
            calls: AtomicUsize::new(0),
            arrived: Mutex::new(arrived),
            gate: Mutex::new(gate),
        };
        (Arc::new(export), Gate { _open: open, arrivals })
    }

    fn call(&self, kind: u16) {
        if kind == self.kind.load(Ordering::SeqCst)
            && self.calls.fetch_add(1, Ordering::SeqCst) >= QUICK
        {
            let _ = self.arrived.lock().unwrap().send(());
            // An error when the gate is open.
            let _ = self.gate.lock().unwrap().recv();
        }
    }
}

impl Export for Stuck {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::TRIM | Abilities::CACHE
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset > 0 {
            self.call(READ);
        }
        buf.fill(7);
        Ok(())
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        self.call(WRITE);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.call(FLUSH);
        Ok(())
    }

    fn trim(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.call(TRIM);
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _zeroing: Zeroing) -> io::Result<()> {
        self.call(ZEROES);
        Ok(())
    }

    fn cache(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.call(CACHE);
        Ok(())
    }

    fn extents(
        &self,
        _offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.call(STATUS);
        let _ = visit(AllocationExtent { length: len, kind: ExtentKind::Data });
        Ok(())
    }
}

/// Sends a request, with the payload of a write.
fn ask(client: &mut Raw, kind: u16, flags: u8, cookie: u64) {
    let length = if kind == FLUSH { 0 } else { 4 };
    let mut bytes = request(kind, cookie, if kind == FLUSH { 0 } else { 4096 }, length);
    bytes[5] = flags;
    if kind == WRITE {
        bytes.extend(b"data");
    }
    client.write(&bytes);
}

fn reply(client: &mut Raw, kind: u16, cookie: u64) {
    assert_eq!(client.reply(), (0, cookie));
    if kind == READ {
        client.read(4);
    }
}

/// However quick calls of a kind have been, the next one may not come back: others of the same
/// client go on, and so do other clients, more than there are threads for tasks.
fn holds_up_nobody(kind: u16, flags: u8, waits: u16) {
    let (export, gate) = Stuck::new(waits);
    let (server, _endings) = start(Server::new(export));
    let gate = gate;
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::established(&server)).collect();
    for cookie in 0..QUICK as u64 {
        ask(&mut clients[0], kind, flags, cookie);
        reply(&mut clients[0], kind, cookie);
    }
    for client in &mut clients {
        ask(client, kind, flags, 99);
        gate.arrival();
        assert_eq!(client.get(0, 4), [7; 4]);
    }
    assert_eq!(Raw::established(&server).get(0, 4), [7; 4]);
    drop(gate);
    for client in &mut clients {
        reply(client, kind, 99);
    }
}

#[test]
fn a_read_that_waits_holds_up_nobody() {
    holds_up_nobody(READ, 0, READ);
}

#[test]
fn a_write_that_waits_holds_up_nobody() {
    holds_up_nobody(WRITE, 0, WRITE);
}

#[test]
fn a_flush_that_waits_holds_up_nobody() {
    holds_up_nobody(FLUSH, 0, FLUSH);
}

#[test]
fn a_write_whose_flush_waits_holds_up_nobody() {
    holds_up_nobody(WRITE, FUA, FLUSH);
}

#[test]
fn a_trim_that_waits_holds_up_nobody() {
    holds_up_nobody(TRIM, 0, TRIM);
}

#[test]
fn zeroes_that_wait_hold_up_nobody() {
    holds_up_nobody(ZEROES, 0, ZEROES);
}

#[test]
fn a_cache_that_waits_holds_up_nobody() {
    holds_up_nobody(CACHE, 0, CACHE);
}

/// The cookie of the next reply of one chunk.
fn chunk(client: &mut Raw) -> u64 {
    let header = client.read(20);
    assert_eq!(header[..6], [0x66, 0x8e, 0x33, 0xef, 0, 1], "one chunk");
    let length = u32::from_be_bytes(header[16..].try_into().unwrap());
    client.read(length as usize);
    u64::from_be_bytes(header[8..16].try_into().unwrap())
}

/// So does the search for holes in a long read.
#[test]
fn a_block_status_that_waits_holds_up_nobody() {
    for (kind, length) in [(STATUS, 4096), (READ, 1 << 20)] {
        let (export, gate) = Stuck::new(STATUS);
        let (server, _endings) = start(Server::new(export));
        let gate = gate;
        let mut clients: Vec<Raw> = (0..3).map(|_| structured(&server)).collect();
        for cookie in 0..QUICK as u64 {
            clients[0].ask(STATUS, cookie, 0, 4096);
            assert_eq!(chunk(&mut clients[0]), cookie);
        }
        for client in &mut clients {
            client.ask(kind, 99, 0, length);
            gate.arrival();
            client.ask(READ, 1, 0, 4);
            assert_eq!(chunk(client), 1);
        }
        assert_eq!(Raw::established(&server).get(0, 4), [7; 4]);
        drop(gate);
        for client in &mut clients {
            assert_eq!(chunk(client), 99);
        }
    }
}

/// An export that says where it is called.
struct Whereabouts(Abilities);

impl Export for Whereabouts {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn abilities(&self) -> Abilities {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
        buf.fill(u8::from(thread::current().name() == Some("worker")));
        Ok(())
    }
}

#[test]
fn what_never_waits_is_done_where_it_arrives() {
    for (abilities, elsewhere) in [(Abilities::NEVER_WAITS, 0), (Abilities::empty(), 1)] {
        let (server, _endings) = start(Server::new(Whereabouts(abilities)));
        let mut client = Raw::established(&server);
        for _ in 0..QUICK {
            assert_eq!(client.get(0, 4), [elsewhere; 4]);
        }
    }
}

/// Chooses an export by its name.
fn choose(server: &Running, name: &str) -> Raw {
    let mut client = Raw::negotiating(server);
    client.write(b"IHAVEOPT\0\0\0\x01\0\0\0");
    client.write(&[name.len() as u8]);
    client.write(name.as_bytes());
    client.read(10);
    client
}

/// All the requests that one export can have carried out leave threads to the others.
#[test]
fn an_export_that_hangs_leaves_threads_to_others() {
    let mut limits = Limits::default();
    limits.max_workers = 4;
    let (stuck, gate) = Stuck::new(READ);
    stuck.calls.store(QUICK, Ordering::SeqCst);
    let exports = ExportList::new()
        .export("stuck", Arc::clone(&stuck))
        .export("other", Whereabouts(Abilities::empty()));
    let (server, _endings) = start(Server::with_exports(exports).limits(limits));
    let gate = gate;
    let mut clients: Vec<Raw> = (0..2).map(|_| choose(&server, "stuck")).collect();
    for client in &mut clients {
        for cookie in 0..8 {
            client.ask(READ, cookie, 4096, 4);
        }
    }
    // Half of the threads.
    gate.arrival();
    gate.arrival();
    let mut other = choose(&server, "other");
    for _ in 0..QUICK {
        assert_eq!(other.get(0, 4), [1; 4]);
    }
    drop(gate);
    for client in &mut clients {
        for _ in 0..8 {
            assert_eq!(client.reply().0, 0);
            client.read(4);
        }
    }
}

/// Exports of which one takes its time to be opened.
struct Reluctant(Arc<Stuck>);

impl Exports for Reluctant {
    fn list(&self, _peer: &Peer) -> io::Result<Vec<Listed>> {
        Ok(Vec::new())
    }

    fn open(&self, name: &str, _peer: &Peer) -> io::Result<Opened> {
        if name == "stuck" {
            self.0.call(READ);
        }
        Ok(Opened::new(name, Arc::new(MemoryExport::new(1 << 20))))
    }
}

/// Nor do clients that wait for an export to be opened hold up those of another.
#[test]
fn an_export_that_does_not_open_leaves_threads_to_others() {
    let mut limits = Limits::default();
    limits.max_workers = 4;
    let (stuck, gate) = Stuck::new(READ);
    stuck.calls.store(QUICK, Ordering::SeqCst);
    let (server, _endings) = start(Server::with_exports(Reluctant(stuck)).limits(limits));
    let gate = gate;
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::negotiating(&server)).collect();
    for client in &mut clients {
        client.write(b"IHAVEOPT\0\0\0\x01\0\0\0\x05stuck");
    }
    // Half of the threads.
    gate.arrival();
    gate.arrival();
    assert_eq!(choose(&server, "other").get(0, 4), [0; 4]);
    drop(gate);
    for client in &mut clients {
        client.read(10);
        assert_eq!(client.get(0, 4), [0; 4]);
    }
}
