//! A script over a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use super::{Case, Word};

/// A socket, both halves of which can be used at the same time.
pub trait Wire: Read + Write + Send + Sized {
    /// The same socket once more.
    ///
    /// # Errors
    /// Those of the system.
    fn twin(&self) -> io::Result<Self>;

    /// Nothing more will be said.
    ///
    /// # Errors
    /// Those of the system.
    fn finish(&self) -> io::Result<()>;
}

impl Wire for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Wire for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// What a server behind a socket made of a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// What it answered, behind its greeting.
    pub words: Vec<Word>,
    /// It hung up by itself.
    pub closed: bool,
    /// The client's last question was answered.
    pub lives: bool,
}

impl Case {
    /// Says the script to a server, whose patience the socket's timeouts are.
    ///
    /// # Errors
    /// Those of the system, [`ErrorKind::WouldBlock`] when the server neither answers nor
    /// hangs up, and [`ErrorKind::InvalidData`] when it sends what is no message.
    pub fn perform<S: Wire>(&self, mut socket: S) -> io::Result<Visit> {
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting)?;
        let mut mouth = socket.twin()?;
        thread::scope(|scope| {
            let talking = scope.spawn(move || match self.say(&mut mouth) {
                // A server may hang up whenever it has heard enough.
                Err(error) if has_left(&error) => Ok(()),
                result => result,
            });
            let listened = self.listen(&mut socket);
            if listened.is_err() {
                // Or the other half would wait for nobody.
                let _ = socket.finish();
            }
            talking.join().expect("no panic")?;
            listened
        })
    }

    fn say<S: Wire>(&self, mouth: &mut S) -> io::Result<()> {
        for burst in &self.says {
            mouth.write_all(burst)?;
        }
        if self.closes { mouth.finish() } else { Ok(()) }
    }

    fn listen<S: Wire>(&self, socket: &mut S) -> io::Result<Visit> {
        let mut visit = Visit::default();
        while visit.words.len() < self.hears.len() {
            match next(socket)? {
                Some(word) => visit.words.push(word),
                None => {
                    visit.closed = true;
                    return Ok(visit);
                }
            }
        }
        if let Some((question, answer)) = self.question() {
            socket.write_all(&question)?;
            let mut words = Vec::new();
            while words.len() < answer.len()
                && let Some(word) = next(socket)?
            {
                words.push(word);
            }
            visit.lives = words == answer;
            return Ok(visit);
        }
        while let Some(word) = next(socket)? {
            visit.words.push(word);
        }
        visit.closed = true;
        Ok(visit)
    }
}

/// The next message; a server that has not read everything resets the connection.
fn next(socket: &mut impl Read) -> io::Result<Option<Word>> {
    match Word::read(socket) {
        Err(error) if has_left(&error) => Ok(None),
        result => result,
    }
}

fn has_left(error: &io::Error) -> bool {
    [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind())
}
