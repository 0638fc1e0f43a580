//! Bytes from one socket to another and back, and nothing else: what anything that stands between
//! the kernel and its server costs at least.
//!
//! ```text
//! nbd-bench-pump SERVER LISTEN
//! ```
//!
//! Both are paths of Unix sockets. Serves one client, with a thread for each direction.

use std::env;
use std::error::Error;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

/// Four of the large requests.
const ROOM: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    let [server, listen] = &words[..] else { return Err("SERVER and LISTEN are needed".into()) };
    // First, so that whoever can connect to us is connected to the server.
    let server = UnixStream::connect(server)?;
    let (client, _) = UnixListener::bind(listen)?.accept()?;
    let (from, to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || pump(from, to));
    pump(client, server)?;
    back.join().map_err(|_| "the other direction failed")??;
    Ok(())
}

fn pump(mut from: UnixStream, mut to: UnixStream) -> std::io::Result<()> {
    let mut bytes = vec![0; ROOM];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            // The other side may have left already.
            let _ = to.shutdown(Shutdown::Write);
            return Ok(());
        }
        to.write_all(bytes.get(..count).unwrap_or_default())?;
    }
}
