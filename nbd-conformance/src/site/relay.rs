//! Something between client and server that can do harm to single connections.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use nbd_sim::peer::Scratch;

use super::Running;

/// Passes bytes on, until it is dropped.
pub(crate) struct Relay {
    path: PathBuf,
    server: PathBuf,
    clients: Arc<Mutex<Vec<Client>>>,
    over: Arc<AtomicBool>,
    _scratch: Scratch,
}

/// One connection.
struct Client {
    stream: UnixStream,
    mood: Arc<Mood>,
}

/// What is done with what passes through a connection.
#[derive(Default)]
struct Mood {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
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

impl Relay {
    /// In front of a server on a Unix socket. Of its connections `served` are passed on; what
    /// comes after those is accepted and hears nothing.
    pub(crate) fn start(
        server: &Running,
        served: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let scratch = Scratch::new()?;
        let path = scratch.join("relay");
        let listener = UnixListener::bind(&path)?;
        let server = server.server.unix_path().expect("it has a Unix socket").to_owned();
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (there, all) = (server.clone(), Arc::clone(&clients));
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { return };
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(kept) = client.try_clone() else { return };
                let mood = Arc::<Mood>::default();
                let kept = Client { stream: kept, mood: Arc::clone(&mood) };
                all.lock().expect("no panic").push(kept);
                if number < served && pass_on(&client, &there, &mood).is_err() {
                    // A server that is not there closes no connection: this does.
                    let _ = client.shutdown(Shutdown::Both);
                }
            }
        });
        Ok(Self { path, server, clients, over, _scratch: scratch })
    }

    /// The URI of the server's default export, through this.
    pub(crate) fn uri(&self, server: &Running) -> String {
        let (here, there) = (self.path.display().to_string(), self.server.display().to_string());
        server.uri().replace(&there, &here)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.clients.lock().expect("no panic").len()
    }

    /// Ends a connection, as seen from both sides.
    pub(crate) fn cut(&self, number: usize) {
        let _ = self.clients.lock().expect("no panic")[number].stream.shutdown(Shutdown::Both);
    }

    /// Holds back whatever comes, from both sides, and goes on with both as if all were well.
    pub(crate) fn freeze(&self, number: usize) {
        self.change(number, |state| state.frozen = true);
    }

    /// Passes on what was held back, and what comes later.
    pub(crate) fn thaw(&self, number: usize) {
        self.change(number, |state| state.frozen = false);
    }

    /// Changes a bit of what the server sends next.
    pub(crate) fn damage(&self, number: usize) {
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
