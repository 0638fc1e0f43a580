//! A server in threads that acknowledges writes at once, and forgets when it crashes any part of
//! what was not flushed.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::hostile::bytes::{ack, claim, export, greeting, opt, rep, simple};
use crate::peer::Scratch;
use crate::recovery::disk::VolatileDisk;
use crate::rng::Rng;

/// Has flags, flush, FUA, trim, write zeroes and several connections at once.
const FLAGS: u16 = 0x016d;
/// What is not flushed survives, or does not, in parts of so many bytes.
const PART: usize = 4096;
/// Longer requests are refused by hanging up, in bytes.
const LONGEST: usize = 32 << 20;

/// A request that has come.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// How many came before, over all connections and lives.
    pub number: u64,
    /// Its type, as on the wire.
    pub kind: u16,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// The server crashes before it is carried out.
    CrashBefore,
    /// The server crashes after it is carried out, and does not answer.
    CrashAfter,
}

/// A running server, which ends when it is dropped.
#[derive(Debug)]
pub struct Lossy {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
    // The directory goes last.
    _scratch: Scratch,
}

struct State {
    disk: VolatileDisk,
    size: usize,
    rng: Rng,
    fate: Box<dyn FnMut(Request) -> Fate + Send>,
    clients: Vec<UnixStream>,
    /// Connections of an earlier life are gone.
    life: u64,
    requests: u64,
    /// So many connections are closed before a word is said.
    closing: usize,
    ended: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Lossy {
    /// Serves these bytes on a Unix socket. `fate` decides about each request; what a crash
    /// leaves follows from the seed and from what was written until then.
    ///
    /// # Panics
    /// When the system is short of something.
    #[must_use]
    pub fn start(
        bytes: Vec<u8>,
        seed: u64,
        fate: impl FnMut(Request) -> Fate + Send + 'static,
    ) -> Self {
        let scratch = Scratch::new().expect("a temporary directory");
        let path = scratch.join("s");
        let listener = UnixListener::bind(&path).expect("a socket that listens");
        let state = Arc::new(Mutex::new(State {
            size: bytes.len(),
            disk: VolatileDisk::new(bytes),
            rng: Rng::new(seed),
            fate: Box::new(fate),
            clients: Vec::new(),
            life: 0,
            requests: 0,
            closing: 0,
            ended: false,
        }));
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let life = {
                    let mut state = lock(&shared);
                    if state.ended {
                        return;
                    }
                    if state.closing > 0 {
                        state.closing -= 1;
                        continue;
                    }
                    state.clients.extend(client.try_clone());
                    state.life
                };
                let shared = Arc::clone(&shared);
                // A client that leaves, however it does, ends its connection only.
                thread::spawn(move || serve(&shared, client, life));
            }
        });
        Self { path, state, thread: Some(thread), _scratch: scratch }
    }

    /// The URI that leads here.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path.display())
    }

    /// Crashes, and is there again at once, perhaps after it has hung up on a few.
    pub fn crash(&self) {
        lock(&self.state).crash();
    }

    /// How often it has crashed.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        lock(&self.state).life
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let state = lock(&self.state);
        state.disk.read(0..state.size).to_vec()
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.ended = true;
            state.hang_up();
        }
        let woken = UnixStream::connect(&self.path);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl State {
    fn crash(&mut self) {
        self.life += 1;
        self.hang_up();
        self.disk.crash(&mut self.rng);
        self.closing = self.rng.below(3);
    }

    fn hang_up(&mut self) {
        for client in self.clients.drain(..) {
            // It may be gone.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Carries out a request of this life; nothing when there is no answer.
    fn request(&mut self, life: u64, header: &Header, payload: Vec<u8>) -> Option<Vec<u8>> {
        if self.life != life || self.ended {
            return None;
        }
        let number = self.requests;
        self.requests += 1;
        let fate = (self.fate)(Request { number, kind: header.kind });
        if fate == Fate::CrashBefore {
            self.crash();
            return None;
        }
        let answer = self.carry_out(header, payload);
        if fate == Fate::CrashAfter {
            self.crash();
            return None;
        }
        Some(answer)
    }

    fn carry_out(&mut self, header: &Header, payload: Vec<u8>) -> Vec<u8> {
        /// `NBD_EINVAL`.
        const INVALID: u32 = 22;
        let end = header.offset.checked_add(header.length);
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return simple(INVALID, header.cookie, &[]);
        };
        let range = header.offset..end;
        let durable = header.flags & 1 != 0;
        match header.kind {
            0 => return simple(0, header.cookie, self.disk.read(range)),
            1 => self.change(header.offset, &payload, durable),
            3 => self.disk.flush(),
            6 => self.change(header.offset, &vec![0; header.length], durable),
            // What is trimmed may stay as it is.
            4 => {}
            _ => return simple(INVALID, header.cookie, &[]),
        }
        simple(0, header.cookie, &[])
    }

    fn change(&mut self, offset: usize, bytes: &[u8], durable: bool) {
        for (part, at) in bytes.chunks(PART).zip((offset..).step_by(PART)) {
            self.disk.change(at, part.to_vec(), durable);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request as it is on the wire.
struct Header {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: usize,
    length: usize,
}

impl Header {
    fn parse(bytes: &[u8; 28]) -> Self {
        let [_, _, _, _, f, g, k, l, rest @ ..] = *bytes;
        let word = |at: usize| rest[at..].first_chunk().map_or(0, |w| u64::from_be_bytes(*w));
        let [.., a, b, c, d] = rest;
        Self {
            flags: u16::from_be_bytes([f, g]),
            kind: u16::from_be_bytes([k, l]),
            cookie: word(0),
            offset: word(8) as usize,
            length: u32::from_be_bytes([a, b, c, d]) as usize,
        }
    }
}

fn serve(state: &Mutex<State>, mut client: UnixStream, life: u64) -> io::Result<()> {
    let size = lock(state).size as u64;
    let mut input = BufReader::new(client.try_clone()?);
    client.write_all(&greeting(3))?;
    input.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        input.read_exact(&mut header)?;
        let [.., o, p, q, r, a, b, c, d] = header;
        input.read_exact(&mut vec![0; u32::from_be_bytes([a, b, c, d]) as usize])?;
        match u32::from_be_bytes([o, p, q, r]) {
            opt::GO => break,
            option => client.write_all(&claim(option, rep::ERR_UNSUP, 0, &[]))?,
        }
    }
    client.write_all(&[export(size, FLAGS), ack(opt::GO)].concat())?;
    loop {
        let mut header = [0; 28];
        input.read_exact(&mut header)?;
        let header = Header::parse(&header);
        let mut payload = Vec::new();
        if header.kind == 1 && header.length <= LONGEST {
            payload.resize(header.length, 0);
            input.read_exact(&mut payload)?;
        }
        let is_leaving = header.kind == 2 || (header.kind < 2 && header.length > LONGEST);
        let answer = match is_leaving {
            true => None,
            false => lock(state).request(life, &header, payload),
        };
        match answer {
            Some(answer) => client.write_all(&answer)?,
            None => return client.shutdown(Shutdown::Both),
        }
    }
}
