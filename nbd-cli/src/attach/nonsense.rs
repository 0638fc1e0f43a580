//! Servers that answer nonsense while a device is attached, again on every connection: requests
//! end within the limits that are set, and none of them with data that nobody sent.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use nbd_client_mio::ConnectOptions;
use nbd_client_mio::proto::{Command, CommandType, Limits, TransmissionFlags};
use nbd_client_mio::session::replay::Reconnect;
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::{Address, Ask, Case, DATA, DONE_WELL, Outcome, Stage, all};
use nbd_sim::peer::Scratch;

use super::relay::Relay;
use super::status::{Health, News, Status};
use crate::connections::{Others, Servers};

/// Longer than anything here takes on a busy machine, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a server may be silent, and how long one is waited for.
const SILENCE: Duration = Duration::from_millis(100);

/// Whether the kernel could have sent that.
fn is_the_kernels(command: &Command) -> bool {
    let kind = match command.kind {
        CommandType::Read
        | CommandType::Write
        | CommandType::Flush
        | CommandType::Trim
        | CommandType::WriteZeroes => true,
        CommandType::Cache | CommandType::BlockStatus => false,
    };
    kind && command.flags.is_empty()
}

/// What may be expected of each command, where the case is one that a device can come to.
fn answers(case: &Case) -> Option<&[nbd_sim::hostile::Answer]> {
    let fits = case.asks == Ask::Export
        && !case.commands.is_empty()
        && case.commands.iter().all(is_the_kernels)
        && !case.farewell
        // How far a client comes before it notices is for it to say.
        && !case.play(Delivery::Whole, None).hasty;
    match &case.outcome {
        Outcome::Lives(answers) | Outcome::Leaves(answers) | Outcome::Dies(_, answers) => {
            fits.then_some(answers)
        }
        Outcome::Refuse(_)
        | Outcome::RefusedWith(_)
        | Outcome::Waits
        | Outcome::Connects(_)
        | Outcome::Lists(..) => None,
    }
}

fn listen(path: &Path) -> Stage {
    Stage::at(Address::Unix(path.to_owned())).expect("a socket that listens")
}

/// Plays the case to one client after the other, until there are to be no more.
fn play(case: &Case, mut stage: Stage, path: &Path, over: &AtomicBool) {
    let script = case.play(Delivery::Whole, None);
    while !over.load(Ordering::Acquire) {
        // A client may leave in the middle of it, or ask for less when it comes again.
        let _ = stage.play(case, &script, LIMIT);
        fs::remove_file(path).expect("a socket");
        stage = listen(path);
    }
}

/// Ends the server when dropped: while it waits for a client, it has one.
struct Last<'a> {
    over: &'a AtomicBool,
    path: &'a Path,
    server: ScopedJoinHandle<'a, ()>,
}

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        while !self.server.is_finished() {
            let _ = UnixStream::connect(self.path);
            thread::yield_now();
        }
    }
}

/// Sends what the kernel would.
fn ask(kernel: &mut UnixStream, commands: &[Command]) {
    for (cookie, command) in (0_u64..).zip(commands) {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0, 0, 0, command.kind.to_wire() as u8]);
        request.extend(cookie.to_be_bytes());
        request.extend(command.offset.to_be_bytes());
        request.extend((command.length as u32).to_be_bytes());
        if command.kind == CommandType::Write {
            request.resize(request.len() + command.length as usize, DATA);
        }
        kernel.write_all(&request).expect("room in the socket");
    }
}

/// What comes of each command: `None` where the device has ended before.
fn outcomes(kernel: &mut UnixStream, commands: &[Command]) -> Vec<Option<bool>> {
    let mut outcomes = vec![None; commands.len()];
    for _ in commands {
        let mut reply = [0; 16];
        if kernel.read_exact(&mut reply).is_err() {
            break;
        }
        let succeeded = reply[4..8] == [0; 4];
        let cookie = u64::from_be_bytes(reply[8..].try_into().expect("eight bytes")) as usize;
        let command = &commands[cookie];
        if succeeded && command.kind == CommandType::Read {
            let mut data = vec![1; command.length as usize];
            kernel.read_exact(&mut data).expect("what was promised");
            assert!(data.iter().all(|byte| [DATA, 0].contains(byte)), "nobody has sent that");
        }
        outcomes[cookie] = Some(succeeded);
    }
    outcomes
}

fn meet(case: &Case, scratch: &Scratch) {
    let path = scratch.join(case.id);
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let over = AtomicBool::new(false);
    let expected = answers(case).expect("one for a device");
    thread::scope(|scope| {
        let stage = listen(&path);
        let server = scope.spawn(|| play(case, stage, &path, &over));
        let _last = Last { over: &over, path: &path, server };
        let policy = Reconnect::new().max_delay(SILENCE / 10).give_up_after(2 * SILENCE);
        let limits = Limits::default().max_in_flight(16);
        let options = ConnectOptions::new().config(case.config.clone().limits(limits));
        let options = options.uri(&uri).expect("a URI").reconnect(policy).silence(SILENCE);
        let servers = Servers::named(uri.as_ref(), &Others::default()).expect("a URI");
        let status = Arc::new(Status::default());
        let mut relay = Relay::connect(&servers, &options, 1, 0, Arc::clone(&status))
            .unwrap_or_else(|error| panic!("{}: {error}", case.id));
        let flags = relay.export().expect("one").flags & !TransmissionFlags::SEND_FAST_ZERO;
        let (ours, mut kernel) = UnixStream::pair().expect("sockets");
        kernel.set_read_timeout(Some(LIMIT)).expect("a limit");
        relay.serve(ours, flags).expect("a queue");
        let (tell, told) = channel();
        thread::spawn(move || tell.send(relay.run()));
        ask(&mut kernel, &case.commands);
        let outcomes = outcomes(&mut kernel, &case.commands);
        let _ = kernel.shutdown(Shutdown::Both);
        let ended = told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{} hangs", case.id));
        for (outcome, expected) in outcomes.iter().zip(expected) {
            let wrong = *outcome == Some(true) && *expected != DONE_WELL;
            assert!(!wrong, "{}: {outcomes:?}", case.id);
        }
        if outcomes.contains(&None) {
            let error = ended.expect_err("a device that ends by itself tells why");
            let news = status.wait(&News::default());
            assert_eq!(news.health, Health::Failed, "{}: {error}", case.id);
            let trouble = news.trouble.expect("what was the matter");
            assert!(["server", "peer"].iter().any(|who| trouble.contains(who)), "{trouble}");
        }
    });
}

#[test]
fn no_request_hangs_and_none_gets_what_nobody_sent() {
    let scratch = Scratch::new().expect("a temporary directory");
    let cases = all();
    let cases = cases.iter().filter(|case| answers(case).is_some());
    let met = cases.map(|case| meet(case, &scratch)).count();
    assert!(met > 50, "{met} of them");
}
