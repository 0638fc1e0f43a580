//! Records sessions between a real client and a real server.
//!
//! ```text
//! record LISTEN CONNECT OUTPUT COUNT COMMENT...
//!
//!  client ---> LISTEN (unix) ---> record ---> CONNECT (unix) ---> server
//!                                   |
//!                                   +---> OUTPUT, OUTPUT-2, ... up to COUNT
//! ```
//!
//! One connection at a time is relayed; each goes to a file of its own, named after
//! OUTPUT with `.transcript` added.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use nbd_sim::transcript::{Side, Transcript};

type Bursts = Mutex<Vec<(Side, Vec<u8>)>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, connect, output, count, comments @ ..] = arguments.as_slice() else {
        return Err("usage: record LISTEN CONNECT OUTPUT COUNT COMMENT...".into());
    };
    let count: usize = count.parse()?;
    let comments: Vec<&str> = comments.iter().map(String::as_str).collect();
    // The name appears only once the socket listens.
    let early = format!("{listen}.early");
    let listener = UnixListener::bind(&early)?;
    fs::rename(&early, listen)?;
    for number in 1..=count {
        let (client, _) = listener.accept()?;
        let server = reach(connect)?;
        let bursts = relay(&client, &server)?;
        let name = if number == 1 { output.clone() } else { format!("{output}-{number}") };
        let transcript = Transcript { name, bursts };
        let path = format!("{}.transcript", transcript.name);
        fs::write(path, transcript.to_text(&comments))?;
    }
    Ok(())
}

/// Connects to a server whose socket may exist a moment before it listens.
fn reach(path: &str) -> io::Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && Instant::now() < deadline =>
            {
                thread::yield_now();
            }
            reached => return reached,
        }
    }
}

fn relay(client: &UnixStream, server: &UnixStream) -> io::Result<Vec<(Side, Vec<u8>)>> {
    let bursts = Bursts::default();
    thread::scope(|scope| {
        let upward = scope.spawn(|| pass(Side::Client, client, server, &bursts));
        let downward = pass(Side::Server, server, client, &bursts);
        upward.join().map_err(|_| io::Error::other("the relay thread panicked"))?.and(downward)
    })?;
    Ok(bursts.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Passes bytes on until their end. A burst is recorded before it is passed on, so that
/// no answer can be recorded ahead of what it answers.
fn pass(side: Side, mut from: &UnixStream, mut to: &UnixStream, bursts: &Bursts) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(got) => got,
            // A peer that resets instead of closing ends its stream all the same.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..got];
        if bytes.is_empty() {
            return close(to);
        }
        {
            let mut bursts = bursts.lock().unwrap_or_else(PoisonError::into_inner);
            match bursts.last_mut() {
                Some((last, all)) if *last == side => all.extend_from_slice(bytes),
                _ => bursts.push((side, bytes.to_vec())),
            }
        }
        if let Err(error) = to.write_all(bytes) {
            return if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) };
        }
    }
}

/// Tells the far side that no more will come; a far side that has already gone knows.
fn close(to: &UnixStream) -> io::Result<()> {
    match to.shutdown(Shutdown::Write) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}
