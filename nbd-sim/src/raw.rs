//! A client that is driven by hand, byte by byte, for what no sound client would do.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than anything takes that is waited for, so that a hang is a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// `NBD_CMD_READ`.
pub const READ: u16 = 0;
/// `NBD_CMD_WRITE`.
pub const WRITE: u16 = 1;
/// `NBD_CMD_FLUSH`.
pub const FLUSH: u16 = 3;
/// `NBD_CMD_BLOCK_STATUS`.
pub const STATUS: u16 = 7;

/// A server that a [`Raw`] client can reach.
pub trait Reach {
    /// A new connection to it.
    fn connect(&self) -> UnixStream;
}

#[cfg(feature = "peers")]
impl Reach for crate::peer::Server {
    fn connect(&self) -> UnixStream {
        let path = self.unix_path().expect("a server on a Unix socket");
        UnixStream::connect(path).expect("a connection")
    }
}

/// A client of simple replies. Everything fails the test that it cannot do.
#[derive(Debug)]
pub struct Raw {
    /// Its connection.
    pub stream: UnixStream,
}

impl Raw {
    /// Over a connection on which nothing has happened.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream }
    }

    /// Connects and sends nothing.
    #[must_use]
    pub fn connect(server: &impl Reach) -> Self {
        Self::over(server.connect())
    }

    /// Connects, and is about to ask for options.
    #[must_use]
    pub fn negotiating(server: &impl Reach) -> Self {
        let mut client = Self::connect(server);
        client.negotiate();
        client
    }

    /// Connects and chooses the default export with `NBD_OPT_EXPORT_NAME`.
    #[must_use]
    pub fn established(server: &impl Reach) -> Self {
        let mut client = Self::negotiating(server);
        assert!(client.choose(), "the default export is refused");
        client
    }

    /// Takes the greeting, and answers it.
    pub fn negotiate(&mut self) {
        assert_eq!(&self.read(18)[..16], b"NBDMAGICIHAVEOPT");
        self.write(&[0, 0, 0, 3]);
    }

    /// Chooses the default export. Tells whether it gets it.
    pub fn choose(&mut self) -> bool {
        self.write(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
        self.stream.read_exact(&mut [0; 10]).is_ok()
    }

    /// Sends.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Receives.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends the header of a request.
    pub fn ask(&mut self, kind: u16, cookie: u64, offset: u64, length: u32) {
        self.write(&request(kind, cookie, offset, length));
    }

    /// Error and cookie of the next reply.
    pub fn reply(&mut self) -> (u32, u64) {
        let header = self.read(16);
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
        assert_eq!(header, reply(error, cookie));
        (error, cookie)
    }

    /// Error and cookie of the next replies without data, by cookie: a server answers what is
    /// ready.
    pub fn replies(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut replies: Vec<_> = (0..count).map(|_| self.reply()).collect();
        replies.sort_by_key(|(_, cookie)| *cookie);
        replies
    }

    /// Reads `len` bytes of the export at `offset`, alone.
    pub fn get(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.ask(READ, 4711, offset, len as u32);
        assert_eq!(self.reply(), (0, 4711));
        self.read(len)
    }

    /// Whether the server hangs up, with nothing more to say.
    pub fn is_hung_up(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Whatever comes until the server closes.
    ///
    /// # Errors
    /// Those of reading.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The header of a request.
#[must_use]
pub fn request(kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::from(0x2560_9513_u32.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// The header of a simple reply.
#[must_use]
pub fn reply(error: u32, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::from(0x6744_6698_u32.to_be_bytes());
    bytes.extend(error.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes
}
