//! A client that is driven by hand: its bytes, and exports that do as they are told.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nbd_server::{
    Abilities, AsyncServerHandle, ConnectionError, Event, Export, Server, ServerHandle,
};
use tokio::runtime::Runtime;

/// A server at work, in threads or in tasks.
pub(crate) enum Running {
    Threads(ServerHandle),
    Tasks(Runtime, AsyncServerHandle),
}

impl Running {
    pub(crate) fn serve(&self, stream: UnixStream) {
        match self {
            Self::Threads(server) => server.serve(stream).unwrap(),
            Self::Tasks(runtime, server) => {
                let _inside = runtime.enter();
                server.serve(stream).unwrap();
            }
        }
    }

    pub(crate) fn shut_down(&self) {
        match self {
            Self::Threads(server) => server.shut_down(),
            Self::Tasks(_, server) => server.shut_down(),
        }
    }

    pub(crate) fn wait(self) {
        match self {
            Self::Threads(server) => server.wait().unwrap(),
            Self::Tasks(runtime, mut server) => runtime.block_on(server.wait()).unwrap(),
        }
    }

    pub(crate) fn stop(self) {
        self.shut_down();
        self.wait();
    }
}

/// Longer than anything here takes, so that a hang is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;

/// How connections ended.
pub(crate) type Endings = Receiver<Option<String>>;

/// Starts a server that listens nowhere, and tells how its connections end.
pub(crate) fn start(server: Server) -> (Running, Endings) {
    let (ended, endings) = channel();
    let ended = Mutex::new(ended);
    let server = server.on_event(move |event| {
        if let Event::Closed { error, .. } = event {
            let error = error.map(ConnectionError::to_string);
            let _ = ended.lock().unwrap().send(error);
        }
    });
    if !crate::IN_TASKS {
        return (Running::Threads(server.start().unwrap()), endings);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let inside = runtime.enter();
    let server = server.spawn().unwrap();
    drop(inside);
    (Running::Tasks(runtime, server), endings)
}

/// How the next connection ends.
#[track_caller]
pub(crate) fn ending(endings: &Endings) -> Option<String> {
    endings.recv_timeout(LIMIT).expect("no connection has ended")
}

/// A client of simple replies.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
}

impl Raw {
    /// Connects and sends nothing.
    pub(crate) fn connect(server: &Running) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        ours.set_write_timeout(Some(LIMIT)).unwrap();
        server.serve(theirs);
        Self { stream: ours }
    }

    /// Connects, and is about to ask for options.
    pub(crate) fn negotiating(server: &Running) -> Self {
        let mut client = Self::connect(server);
        assert_eq!(&client.read(18)[..16], b"NBDMAGICIHAVEOPT");
        client.write(&[0, 0, 0, 3]);
        client
    }

    /// Connects and chooses the default export with `NBD_OPT_EXPORT_NAME`.
    pub(crate) fn established(server: &Running) -> Self {
        let mut client = Self::negotiating(server);
        client.write(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
        client.read(10);
        client
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn ask(&mut self, kind: u16, cookie: u64, offset: u64, length: u32) {
        self.write(&request(kind, cookie, offset, length));
    }

    /// Error and cookie of the next reply.
    pub(crate) fn reply(&mut self) -> (u32, u64) {
        let header = self.read(16);
        assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(header[8..].try_into().unwrap()))
    }

    /// Reads `len` bytes at `offset`, alone.
    pub(crate) fn get(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.ask(READ, 4711, offset, len as u32);
        assert_eq!(self.reply(), (0, 4711));
        self.read(len)
    }

    /// Whether the server hangs up, with nothing more to say.
    pub(crate) fn is_hung_up(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// The header of a request.
pub(crate) fn request(kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::from(0x2560_9513_u32.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// An export whose requests stand still until they are let go, one by one. Reads at offset 0
/// go on by themselves.
pub(crate) struct Gated {
    arrived: Mutex<Sender<u64>>,
    waiting: Mutex<Vec<(u64, Sender<io::Result<()>>)>>,
}

/// What lets the requests of a [`Gated`] go.
pub(crate) struct Gate {
    export: Arc<Gated>,
    arrivals: Receiver<u64>,
}

impl Gated {
    pub(crate) fn new() -> (Arc<Self>, Gate) {
        let (arrived, arrivals) = channel();
        let arrived = Mutex::new(arrived);
        let export = Arc::new(Self { arrived, waiting: Mutex::default() });
        (Arc::clone(&export), Gate { export, arrivals })
    }

    fn stand(&self, offset: u64) -> io::Result<()> {
        if offset == 0 {
            return Ok(());
        }
        let (go, gone) = channel();
        self.waiting.lock().unwrap().push((offset, go));
        self.arrived.lock().unwrap().send(offset).unwrap();
        let how = gone.recv_timeout(LIMIT).expect("nobody lets it go");
        // Never so quick that the server would do the next one on the spot.
        std::thread::sleep(Duration::from_millis(1));
        how
    }
}

impl Gate {
    /// The offset of the next request that stands still.
    pub(crate) fn arrival(&self) -> u64 {
        self.arrivals.recv_timeout(LIMIT).expect("no request has come")
    }

    /// Has a client learn that reads here are slow: the first is still waited for.
    pub(crate) fn show_slow_reads(&self, client: &mut Raw) {
        client.ask(READ, 1, 1, 4);
        assert_eq!(self.arrival(), 1);
        self.release(1, Ok(()));
        assert_eq!(client.reply(), (0, 1));
        client.read(4);
    }

    /// Lets a request go.
    pub(crate) fn release(&self, offset: u64, how: io::Result<()>) {
        let mut waiting = self.export.waiting.lock().unwrap();
        let found = waiting.iter().position(|(other, _)| *other == offset).expect("a request");
        waiting.remove(found).1.send(how).unwrap();
    }
}

impl Export for Gated {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.stand(offset)?;
        buf.fill(offset as u8);
        Ok(())
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE
    }

    fn write_all_at(&self, _buf: &[u8], offset: u64) -> io::Result<()> {
        self.stand(offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.stand(u64::MAX)
    }
}
