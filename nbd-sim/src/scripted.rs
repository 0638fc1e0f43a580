//! A server in a thread, each of whose connections is another life: what it offers, and
//! how long it lives.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use crate::hostile::bytes::{
    DONE, FLAGS, SIZE, ack, chunk, claim, context, data, export, greeting, kind, opt, rep, simple,
    status,
};
use crate::peer::Scratch;

/// What one connection finds.
#[derive(Debug, Clone)]
pub struct Life {
    /// Whether it says nothing before [`Scripted::release`] is called.
    pub held: bool,
    /// Size of the export, in bytes.
    pub size: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// Whether structured replies are granted.
    pub structured: bool,
    /// The meta contexts that are selected, whatever is asked for.
    pub contexts: Vec<(u32, &'static str)>,
    /// How many requests are answered.
    pub replies: usize,
    /// Whether it takes another request to end it.
    pub waits: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            held: false,
            size: SIZE,
            flags: FLAGS,
            structured: true,
            contexts: Vec::new(),
            replies: usize::MAX,
            waits: true,
        }
    }
}

/// Where lives are held that say nothing yet.
#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let open = self.open.lock().expect("no panic");
        drop(self.opened.wait_while(open, |open| !*open).expect("no panic"));
    }

    fn open(&self) {
        *self.open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }
}

/// A running server, which ends when it is dropped.
#[derive(Debug)]
pub struct Scripted {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    /// The client of the moment.
    client: Arc<Mutex<Option<UnixStream>>>,
    /// How many there were.
    connections: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
    // The directory goes last.
    _scratch: Scratch,
}

impl Scripted {
    /// Listens on a Unix socket. `life` is given the number of the connection, from 0 on;
    /// they are served one after the other.
    ///
    /// # Panics
    /// When the system is short of something.
    #[must_use]
    pub fn start(life: impl Fn(usize) -> Life + Send + 'static) -> Self {
        let scratch = Scratch::new().expect("a temporary directory");
        let path = scratch.join("s");
        let listener = UnixListener::bind(&path).expect("a socket that listens");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (Arc::clone(&stop), Arc::new(Mutex::new(None)));
        let present = Arc::clone(&client);
        let (connections, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Gate::default()));
        let (counted, held) = (Arc::clone(&connections), Arc::clone(&gate));
        let thread = thread::spawn(move || {
            for (n, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { return };
                *present.lock().expect("no panic") = client.try_clone().ok();
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                counted.store(n + 1, Ordering::Release);
                let life = life(n);
                if life.held {
                    held.pass();
                }
                // A client that leaves, however it does, ends this life only.
                let _ = life.serve(client);
                *present.lock().expect("no panic") = None;
            }
        });
        Self { path, stop, client, connections, gate, thread: Some(thread), _scratch: scratch }
    }

    /// The URI that leads here.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path.display())
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Lets every [life that is held](Life::held) begin, now and later.
    pub fn release(&self) {
        self.gate.open();
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.gate.open();
        if let Some(client) = self.client.lock().ok().and_then(|mut client| client.take()) {
            let _ = client.shutdown(Shutdown::Both);
        }
        let woken = UnixStream::connect(&self.path);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Life {
    fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        client.write_all(&greeting(3))?;
        client.read_exact(&mut [0; 4])?;
        loop {
            let mut header = [0; 16];
            client.read_exact(&mut header)?;
            let [.., o, p, q, r, a, b, c, d] = header;
            client.read_exact(&mut vec![0; u32::from_be_bytes([a, b, c, d]) as usize])?;
            let option = u32::from_be_bytes([o, p, q, r]);
            client.write_all(&self.answer(option))?;
            if option == opt::GO {
                break;
            }
        }
        for _ in 0..self.replies {
            let mut header = [0; 28];
            client.read_exact(&mut header)?;
            let reply = self.reply(header, &mut client)?;
            client.write_all(&reply)?;
        }
        if self.waits { client.read_exact(&mut [0]) } else { Ok(()) }
    }

    fn answer(&self, option: u32) -> Vec<u8> {
        match option {
            opt::GO => [export(self.size, self.flags), ack(option)].concat(),
            opt::STRUCTURED_REPLY if self.structured => ack(option),
            opt::SET_META_CONTEXT => {
                let contexts = self.contexts.iter().map(|(id, name)| context(*id, name.as_bytes()));
                contexts.chain([ack(option)]).collect::<Vec<_>>().concat()
            }
            _ => claim(option, rep::ERR_UNSUP, 0, &[]),
        }
    }

    /// The disk is all [`DATA`](crate::hostile::DATA), and stays so.
    fn reply(&self, header: [u8; 28], client: &mut UnixStream) -> io::Result<Vec<u8>> {
        let [.., a, b, c, d] = header;
        let length = u32::from_be_bytes([a, b, c, d]);
        let word =
            |at: usize| header[at..].first_chunk().map_or(0, |eight| u64::from_be_bytes(*eight));
        let (cookie, offset) = (word(8), word(16));
        Ok(match u16::from_be_bytes([header[6], header[7]]) {
            0 if self.structured => {
                chunk(DONE, kind::OFFSET_DATA, cookie, &data(offset, length as usize))
            }
            0 => simple(0, cookie, &vec![crate::hostile::DATA; length as usize]),
            1 => {
                client.read_exact(&mut vec![0; length as usize])?;
                simple(0, cookie, &[])
            }
            7 => {
                let last = self.contexts.len().saturating_sub(1);
                let chunks = self.contexts.iter().enumerate().map(|(n, (id, _))| {
                    let flags = if n == last { DONE } else { 0 };
                    // The number of the context tells whose extents these are.
                    chunk(flags, kind::BLOCK_STATUS, cookie, &status(*id, &[(length, *id)]))
                });
                chunks.collect::<Vec<_>>().concat()
            }
            _ => simple(0, cookie, &[]),
        })
    }
}
