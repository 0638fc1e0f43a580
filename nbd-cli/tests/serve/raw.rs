//! The bytes of a client, for what no sound client would do.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nbd_sim::peer::Server;

use super::support::LIMIT;

/// A client of simple replies that is driven by hand.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
}

impl Raw {
    /// Connects and sends nothing.
    pub(crate) fn connect(server: &Server) -> Self {
        let stream = UnixStream::connect(server.unix_path().unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream }
    }

    /// Connects, and is about to ask for options.
    pub(crate) fn haggling(server: &Server) -> Self {
        let mut client = Self::connect(server);
        let greeting = client.read(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        client.write(&[0, 0, 0, 3]);
        client
    }

    /// Connects and chooses the default export with `NBD_OPT_EXPORT_NAME`.
    pub(crate) fn established(server: &Server) -> Self {
        let mut client = Self::haggling(server);
        client.write(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
        client.read(10);
        client
    }

    /// Whether the server greets, rather than hangs up.
    pub(crate) fn read_greeting(&mut self) -> bool {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting).is_ok()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Error and cookie of the next replies without data, by cookie: a server answers what is
    /// ready.
    pub(crate) fn replies(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut replies: Vec<_> = (0..count)
            .map(|_| {
                let header = self.read(16);
                let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
                let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
                assert_eq!(header, reply(error, cookie));
                (error, cookie)
            })
            .collect();
        replies.sort_by_key(|(_, cookie)| *cookie);
        replies
    }

    /// Whatever comes until the server closes.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;

/// The header of a request.
pub(crate) fn request(kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::from(0x2560_9513_u32.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// The header of a simple reply.
pub(crate) fn reply(error: u32, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::from(0x6744_6698_u32.to_be_bytes());
    bytes.extend(error.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes
}
