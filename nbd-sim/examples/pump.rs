//! Passes bytes between clients of one Unix socket and a server at another, and does nothing
//! else: what a relay can reach at best.
//!
//! `pump LISTEN CONNECT`

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(listen), Some(connect)) = (words.next(), words.next()) else {
        return Err(io::Error::other("usage: pump LISTEN CONNECT"));
    };
    let listener = UnixListener::bind(listen)?;
    loop {
        let (client, _) = listener.accept()?;
        let server = UnixStream::connect(&connect)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || pump(from, to));
        thread::spawn(move || pump(server, client));
    }
}

/// Until one of them has had enough.
fn pump(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let mut bytes = vec![0; 256 << 10];
    loop {
        match from.read(&mut bytes)? {
            0 => return to.shutdown(std::net::Shutdown::Write),
            n => to.write_all(&bytes[..n])?,
        }
    }
}
