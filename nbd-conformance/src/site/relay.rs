//! Something between client and server that can let go of single connections.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use nbd_sim::peer::Scratch;

use super::Running;

/// Passes bytes on, until it is dropped.
pub(crate) struct Relay {
    path: PathBuf,
    server: PathBuf,
    clients: Arc<Mutex<Vec<UnixStream>>>,
    over: Arc<AtomicBool>,
    _scratch: Scratch,
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
                all.lock().expect("no panic").push(kept);
                if number < served && pass_on(&client, &there).is_err() {
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
        let _ = self.clients.lock().expect("no panic")[number].shutdown(Shutdown::Both);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes who accepts.
        let _ = UnixStream::connect(&self.path);
        for client in self.clients.lock().expect("no panic").iter() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(client: &UnixStream, there: &Path) -> io::Result<()> {
    let server = UnixStream::connect(there)?;
    for (from, to) in [(client, &server), (&server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(n) = from.read(&mut bytes)
                && n > 0
                && to.write_all(&bytes[..n]).is_ok()
            {}
            // The end goes on as well, whichever side it came from.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
