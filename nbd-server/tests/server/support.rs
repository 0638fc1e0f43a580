//! Servers at work, and exports that do as they are told.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use nbd_server::{
    Abilities, AsyncServerHandle, ConnectionError, Event, Export, Opened, Server, ServerHandle,
};
use nbd_sim::raw::{LIMIT, Raw, Reach};
use tokio::runtime::Runtime;

/// A server at work, in threads or in tasks.
pub(crate) enum Running {
    Threads(ServerHandle),
    Tasks(Runtime, AsyncServerHandle),
}

impl Reach for Running {
    fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.serve(theirs);
        ours
    }
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

    pub(crate) fn serve_negotiated(
        &self,
        stream: UnixStream,
        machine: nbd_server::proto::Server,
        export: Opened,
    ) -> io::Result<()> {
        match self {
            Self::Threads(server) => server.serve_negotiated(stream, machine, export),
            Self::Tasks(runtime, server) => {
                let _inside = runtime.enter();
                server.serve_negotiated(stream, machine, export)
            }
        }
    }

    pub(crate) fn shut_down(&self) {
        match self {
            Self::Threads(server) => server.shut_down(),
            Self::Tasks(_, server) => server.shut_down(),
        }
    }

    /// Waits until it has stopped. Tells who has not come to an end.
    pub(crate) fn wait_for_all(self) -> io::Result<()> {
        match self {
            Self::Threads(server) => server.wait(),
            Self::Tasks(runtime, mut server) => {
                let result = runtime.block_on(server.wait());
                runtime.shutdown_background();
                result
            }
        }
    }

    pub(crate) fn wait(self) {
        self.wait_for_all().unwrap();
    }

    pub(crate) fn stop(self) {
        self.shut_down();
        self.wait();
    }
}

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
    (set_off(server), endings)
}

/// Starts a server as it is.
pub(crate) fn set_off(server: Server) -> Running {
    if !crate::IN_TASKS {
        return Running::Threads(server.start().unwrap());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let inside = runtime.enter();
    let server = server.spawn().unwrap();
    drop(inside);
    Running::Tasks(runtime, server)
}

/// How the next connection ends.
#[track_caller]
pub(crate) fn ending(endings: &Endings) -> Option<String> {
    endings.recv_timeout(LIMIT).expect("no connection has ended")
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
        gone.recv_timeout(LIMIT).expect("nobody lets it go")
    }
}

impl Gate {
    /// The offset of the next request that stands still.
    pub(crate) fn arrival(&self) -> u64 {
        self.arrivals.recv_timeout(LIMIT).expect("no request has come")
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

/// Agrees on structured replies and `base:allocation`.
pub(crate) fn structured(server: &Running) -> Raw {
    let mut client = Raw::negotiating(server);
    let options: [(u8, &[u8]); 3] =
        [(8, b""), (10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation"), (7, b"\0\0\0\0\0\0")];
    for (option, data) in options {
        client.write(b"IHAVEOPT\0\0\0");
        client.write(&[option, 0, 0, 0, data.len() as u8]);
        client.write(data);
        loop {
            let header = client.read(20);
            let length = u32::from_be_bytes(header[16..].try_into().unwrap());
            client.read(length as usize);
            // NBD_REP_ACK
            if header[12..16] == [0, 0, 0, 1] {
                break;
            }
        }
    }
    client
}
