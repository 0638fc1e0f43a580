//! Servers that are told what to say, each connection in a thread of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
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

    /// Whether it says what it has to say to an option again and again.
    fn repeats(&self) -> bool {
        false
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
        let Some(answer) = script.option(option, &data) else {
            client.write_all(&claim(option, rep::ERR_UNSUP, 0, &[]))?;
            continue;
        };
        if answer.is_empty() {
            return Ok(());
        }
        client.write_all(&answer)?;
        while script.repeats() {
            client.write_all(&answer)?;
        }
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
