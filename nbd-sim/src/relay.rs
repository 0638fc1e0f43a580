//! Something between client and server that can do harm to single connections.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use crate::peer::Scratch;

/// Passes bytes on, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    path: PathBuf,
    server: PathBuf,
    clients: Arc<Mutex<Vec<Client>>>,
    over: Arc<AtomicBool>,
    _scratch: Scratch,
}

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    mood: Arc<Mood>,
}

/// What is done with what passes through a connection.
#[derive(Debug, Default)]
struct Mood {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing is passed on.
    frozen: bool,
    /// A bit of what the server sends next is to be another one.
    damages: bool,
}

impl Mood {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits until something may pass, and says whether it is to be damaged.
    fn pass(&self, from_server: bool) -> bool {
        let wait = self.changed.wait_while(self.state(), |state| state.frozen);
        from_server && std::mem::take(&mut wait.expect("no panic").damages)
    }
}

/// What becomes of connections beyond those that are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// They are accepted and hear nothing.
    Silence,
    /// Nobody listens any more.
    Refusal,
}

impl Relay {
    /// In front of a server on a Unix socket. Of its connections `served` are passed on.
    ///
    /// # Panics
    /// When the system is short of something.
    #[must_use]
    pub fn start(server: &Path, served: usize, beyond: Beyond) -> Self {
        let scratch = Scratch::new().expect("a temporary directory");
        let path = scratch.join("relay");
        let mut listener = Some(UnixListener::bind(&path).expect("a socket that listens"));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (here, there, all) = (path.clone(), server.to_owned(), Arc::clone(&clients));
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        thread::spawn(move || {
            let mut number = 0;
            while let Some(Ok((client, _))) = listener.as_ref().map(UnixListener::accept) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                number += 1;
                if number == served && beyond == Beyond::Refusal {
                    // Before the client can have heard of the server, and makes others.
                    listener = None;
                    let _ = fs::remove_file(&here);
                }
                let Ok(kept) = client.try_clone() else { return };
                let mood = Arc::<Mood>::default();
                let kept = Client { stream: kept, mood: Arc::clone(&mood) };
                all.lock().expect("no panic").push(kept);
                if number <= served && pass_on(&client, &there, &mood).is_err() {
                    // A server that is not there closes no connection: this does.
                    let _ = client.shutdown(Shutdown::Both);
                }
            }
        });
        Self { path, server: server.to_owned(), clients, over, _scratch: scratch }
    }

    /// The same URI, through this.
    #[must_use]
    pub fn uri(&self, of_server: &str) -> String {
        let (here, there) = (self.path.display().to_string(), self.server.display().to_string());
        of_server.replace(&there, &here)
    }

    /// How many connections there have been.
    ///
    /// # Panics
    /// When a thread of it has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.clients.lock().expect("no panic").len()
    }

    /// Ends a connection, as seen from both sides.
    ///
    /// # Panics
    /// When there is no such connection.
    pub fn cut(&self, number: usize) {
        let _ = self.clients.lock().expect("no panic")[number].stream.shutdown(Shutdown::Both);
    }

    /// Holds back whatever comes, from both sides, and goes on with both as if all were well.
    ///
    /// # Panics
    /// When there is no such connection.
    pub fn freeze(&self, number: usize) {
        self.change(number, |state| state.frozen = true);
    }

    /// Passes on what was held back, and what comes later.
    ///
    /// # Panics
    /// When there is no such connection.
    pub fn thaw(&self, number: usize) {
        self.change(number, |state| state.frozen = false);
    }

    /// Changes a bit of what the server sends next.
    ///
    /// # Panics
    /// When there is no such connection.
    pub fn damage(&self, number: usize) {
        self.change(number, |state| state.damages = true);
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut State)) {
        self.clients.lock().expect("no panic")[number].mood.change(change);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes who accepts.
        let _ = UnixStream::connect(&self.path);
        for client in self.clients.lock().expect("no panic").iter() {
            let _ = client.stream.shutdown(Shutdown::Both);
            client.mood.change(|state| state.frozen = false);
        }
    }
}

fn pass_on(client: &UnixStream, there: &Path, mood: &Arc<Mood>) -> io::Result<()> {
    let server = UnixStream::connect(there)?;
    for (from, to, from_server) in [(client, &server, false), (&server, client, true)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        let mood = Arc::clone(mood);
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(n) = from.read(&mut bytes)
                && n > 0
            {
                if mood.pass(from_server) {
                    bytes[n - 1] ^= 1;
                }
                if to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            // The end goes on as well, whichever side it came from.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
