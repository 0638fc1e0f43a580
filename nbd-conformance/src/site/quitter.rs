//! A server that leaves as soon as it is asked for something.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use nbd_sim::memory_server::MemoryServer;
use nbd_sim::peer::Scratch;

/// Negotiates with one client, waits for the first byte of a request, and closes the
/// socket on the rest of it: then the client's system tells of a reset.
pub(crate) struct Quitter {
    path: PathBuf,
    _scratch: Scratch,
}

impl Quitter {
    pub(crate) fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let scratch = Scratch::new()?;
        let path = scratch.join("quitter");
        let listener = UnixListener::bind(&path)?;
        // It ends with its client, if not before.
        thread::spawn(move || serve(&listener));
        Ok(Self { path, _scratch: scratch })
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path.display())
    }
}

fn serve(listener: &UnixListener) -> io::Result<()> {
    let (mut client, _) = listener.accept()?;
    let mut server = MemoryServer::new(vec![0; 1 << 20]);
    say(&mut server, &mut client)?;
    let mut bytes = [0; 4096];
    while !server.is_serving() {
        let n = client.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        server.take(&bytes[..n]);
        say(&mut server, &mut client)?;
    }
    client.read_exact(&mut bytes[..1])
}

fn say(server: &mut MemoryServer, client: &mut UnixStream) -> io::Result<()> {
    client.write_all(&std::mem::take(server.unsent()))
}
