//! The whole table over real sockets, for any client.

use std::error::Error as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use nbd_proto::{Command, CommandType};
use nbd_session::{Error, ErrorKind};

use super::{Address, Ask, Case, Failure, Played, Stage, all, scenes};
use crate::delivery::Delivery;
use crate::peer::Scratch;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let source = error.source();
        if error.is_timeout() {
            Self::TimedOut
        } else if let Some(failed) = error.command_failure() {
            Self::Command(failed.error)
        } else if error.kind() == ErrorKind::Tls {
            Self::Tls
        } else if let Some(protocol) = source.and_then(|it| it.downcast_ref()) {
            Self::Protocol(nbd_proto::Error::clone(protocol))
        } else if let Some(io) = source.and_then(|it| it.downcast_ref::<io::Error>()) {
            Self::Io(io.kind())
        } else if error.submit_error().is_some() {
            Self::NotSent
        } else {
            Self::Other(error.to_string())
        }
    }
}

/// The most memory that a client may use for a case beyond the payload of its commands,
/// in bytes.
const MOST: usize = 16 << 20;

/// Plays every case over a Unix socket and over TCP to the client that `play` is, which
/// is given the case and the server's URI. `allocated`, if nothing else goes on in the
/// process, tells how many bytes it has allocated so far, freed again or not: the peak of the
/// memory in use is below that.
///
/// # Panics
/// When a case ends in another way than in memory, a client neither speaks nor leaves for
/// a minute, or it allocates too much.
pub fn tour(allocated: Option<fn() -> usize>, mut play: impl FnMut(&Case, &str) -> Played) {
    let scratch = Scratch::new().expect("a temporary directory");
    for (n, case) in all().iter().enumerate() {
        let unix = Address::Unix(scratch.join(&n.to_string()));
        let tcp = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        for address in [unix, tcp] {
            let stage = Stage::at(address).expect("a socket that listens");
            let (uri, address) = (stage.uri(), stage.address().clone());
            let script = case.play(Delivery::Whole, None);
            let before = allocated.map_or(0, |allocated| allocated());
            let (played, sent) = thread::scope(|scope| {
                let server = scope.spawn(|| stage.play(case, &script, case.patience(true)));
                let played = then_look_in(&address, || play(case, &uri));
                (played, server.join().expect("no panic"))
            });
            let taken = allocated.map_or(0, |allocated| allocated()) - before;
            let most = MOST + due_to_caller(case);
            assert!(taken < most, "{}, {uri}: {taken} bytes", case.id);
            let sent = sent.unwrap_or_else(|error| panic!("{}, {uri}: {error}", case.id));
            if let Err(difference) = case.judge(&played, &sent) {
                panic!("{}, {uri}: {difference}", case.id);
            }
        }
    }
}

/// Bytes that the caller wants. Payload passes through a buffer of its command, of the
/// socket's other side, and of the test, which counts it, too; names are kept by whoever
/// asked for them.
fn due_to_caller(case: &Case) -> usize {
    let payload = |command: &Command| match command.kind {
        CommandType::Read | CommandType::Write => 8 * command.length as usize,
        _ => 0,
    };
    let names = if case.asks == Ask::Export { 0 } else { case.len() };
    names + case.commands.iter().map(payload).sum::<usize>()
}

/// Plays every scene over a Unix socket to a client, as [`tour`] does.
///
/// # Panics
/// When a scene ends in another way than it should.
pub fn play_scenes(mut play: impl FnMut(&Case, &str) -> Played) {
    let scratch = Scratch::new().expect("a temporary directory");
    for scene in scenes() {
        let case = &scene.case;
        let serve = |mut client| scene.perform(&mut client);
        let played = over_unix(&scratch, case, serve, |uri| play(case, uri));
        assert!((scene.ends_well)(&played), "{}: {played:?}", case.id);
    }
}

/// Plays one server over a Unix socket to the client that `play` is, which is given the
/// server's URI.
///
/// # Panics
/// When the server cannot play its part.
pub(super) fn over_unix(
    scratch: &Scratch,
    case: &Case,
    serve: impl FnOnce(UnixStream) -> io::Result<()> + Send,
    play: impl FnOnce(&str) -> Played,
) -> Played {
    let path = scratch.join(case.id);
    let listener = UnixListener::bind(&path).expect("a socket that listens");
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let address = Address::Unix(path);
    let (played, served) = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let client = listener.accept()?.0;
            client.set_read_timeout(Some(case.patience(true)))?;
            client.set_write_timeout(Some(case.patience(true)))?;
            serve(client)
        });
        let played = then_look_in(&address, || play(&uri));
        (played, server.join().expect("no panic"))
    });
    served.unwrap_or_else(|error| panic!("{}: {error}", case.id));
    played
}

/// Lets a client play, and then connects once more, whether it panicked or not. A server that
/// still waits for its client, which gave up before it came, is released by that; to any other
/// it makes no difference.
fn then_look_in<T>(address: &Address, play: impl FnOnce() -> T) -> T {
    struct Last<'a>(&'a Address);

    impl Drop for Last<'_> {
        fn drop(&mut self) {
            // A server that is done does not listen any more.
            match self.0 {
                Address::Unix(path) => drop(UnixStream::connect(path)),
                Address::Tcp(address) => drop(TcpStream::connect(address)),
            }
        }
    }

    let _last = Last(address);
    play()
}
