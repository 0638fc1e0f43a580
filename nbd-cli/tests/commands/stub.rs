//! Servers that are told what to say, each connection in a thread of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nbd_sim::hostile::bytes::{FLAGS, ack, claim, export, greeting, opt, rep};

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// What to say to an option, and to a request; nothing to an option means that it is unknown.
pub(crate) trait Script: Send + Sync + 'static {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(self.size(), FLAGS), ack(option)].concat()),
            _ => None,
        }
    }

    fn request(&self, _request: &Request, _client: &mut TcpStream) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Starts it; returns its URI.
pub(crate) fn stub(script: impl Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    let script = Arc::new(script);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (script, mut client) = (Arc::clone(&script), client.unwrap());
            // It ends when the client has had enough.
            thread::spawn(move || {
                let _ = serve(&*script, &mut client);
                client.shutdown(Shutdown::Both)
            });
        }
    });
    uri
}

fn serve(script: &impl Script, client: &mut TcpStream) -> io::Result<()> {
    client.write_all(&greeting(3))?;
    client.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        client.read_exact(&mut header)?;
        let [.., a, b, c, d, e, f, g, h] = header;
        let option = u32::from_be_bytes([a, b, c, d]);
        let mut data = vec![0; u32::from_be_bytes([e, f, g, h]) as usize];
        client.read_exact(&mut data)?;
        let unknown = || claim(option, rep::ERR_UNSUP, 0, &[]);
        let answer = script.option(option, &data).unwrap_or_else(unknown);
        if answer.is_empty() {
            return Ok(());
        }
        client.write_all(&answer)?;
        if option == opt::GO {
            break;
        }
    }
    loop {
        let mut header = [0; 28];
        client.read_exact(&mut header)?;
        let eight = |at: usize| header[at..].first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let [_, _, _, _, _, _, a, b, ..] = header;
        let [.., c, d, e, f] = header;
        let request = Request {
            kind: u16::from_be_bytes([a, b]),
            cookie: eight(8),
            offset: eight(16),
            length: u32::from_be_bytes([c, d, e, f]),
        };
        script.request(&request, client)?;
    }
}

/// Leads the first connection to a server and keeps all others waiting for ever.
pub(crate) fn room_for_one(server: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    let server = server.to_owned();
    thread::spawn(move || {
        let mut clients = listener.incoming().map(Result::unwrap);
        let first = clients.next().unwrap();
        thread::spawn(move || join(first, &server));
        // They are accepted, and kept.
        clients.collect::<Vec<_>>()
    });
    uri
}

/// Passes on everything between a client and a server, until both are done.
pub(crate) fn join(client: TcpStream, server: &Path) {
    let server = UnixStream::connect(server).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        to.shutdown(Shutdown::Write)
    });
    let (mut from, mut to) = (server, client);
    let _ = io::copy(&mut from, &mut to);
    // Either may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = there.join();
}
