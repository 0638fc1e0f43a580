//! A write whose reply overtakes its payload, without any chance in it.
//!
//! ```text
//!   client ── header, first part ──► │ socket is full │        server
//!          ◄───────────── error ─────────────────────────────── reads the header
//!   has taken the error in                                      looks into the client's
//!          ── the rest ──────────────────────────────────────►  end of the socket, then
//!   is done; nothing more will come                             reads on, and is silent
//! ```
//!
//! Such a command is finished by its last byte. While another one is in flight, a client
//! that looks at completions only after it has received something waits for ever.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nbd_proto::{ClientConfig, Command, CommandError, Errno};
use nbd_transport::Connection;
use rustix::io::Errno as System;
use rustix::net::{RecvFlags, recv};

use super::bytes::{FLAGS, ack, export, greeting, opt, simple};
use super::{Failure, Form};

/// Longer than anything takes that goes well.
const LIMIT: Duration = Duration::from_secs(20);

/// More than any socket holds.
const LENGTH: u32 = 16 << 20;

/// The write.
pub const OVERTAKEN: Command = Command::write(0, LENGTH);

/// Lets a client connect over a socket with this configuration and send [`OVERTAKEN`], then
/// a flush, which is never answered; `play` returns how the write ended.
///
/// # Panics
/// When it does not end with the error that the server sent.
pub fn overtake(play: impl FnOnce(&ClientConfig, Connection) -> Result<(), Failure>) {
    let (client, server) = UnixStream::pair().expect("a pair");
    let twin = client.try_clone().expect("a descriptor");
    let connection = Connection::from_socket(OwnedFd::from(client)).expect("a connection");
    let serving = thread::spawn(move || serve(server, twin));
    let result = play(&Form::Simple.config(), connection);
    serving.join().expect("no panic").expect("the client listens");
    assert_eq!(result, Err(Failure::Command(CommandError::Server(Errno::NoSpc))));
}

fn serve(mut server: UnixStream, twin: UnixStream) -> io::Result<()> {
    server.set_read_timeout(Some(LIMIT))?;
    server.write_all(&greeting(3))?;
    // The flags, then NBD_OPT_GO with its data.
    let mut option = [0; 4 + 16];
    server.read_exact(&mut option)?;
    let [.., a, b, c, d] = option;
    server.read_exact(&mut vec![0; u32::from_be_bytes([a, b, c, d]) as usize])?;
    server.write_all(&[export(LENGTH.into(), FLAGS), ack(opt::GO)].concat())?;
    let mut header = [0; 28];
    server.read_exact(&mut header)?;
    let cookie = header[8..].first_chunk().expect("28 bytes");
    server.write_all(&simple(28, u64::from_be_bytes(*cookie), &[]))?;
    wait_until_taken(&twin)?;
    drop(twin);
    server.read_exact(&mut vec![0; LENGTH as usize])?;
    // Silence, until the client leaves.
    server.read_to_end(&mut Vec::new()).map(drop)
}

/// Waits until nothing is left in one end of a socket.
fn wait_until_taken(end: &UnixStream) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while recv(end, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) != Err(System::AGAIN) {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
