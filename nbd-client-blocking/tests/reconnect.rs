//! The blocking client over servers that die and come back.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{Command, CommandFlags, Disconnect, RequestStatus, SubmitError};
use nbd_client_blocking::session::replay::{Changed, Reconnect, RecoveryError};
use nbd_client_blocking::transport::{Connection, Endpoint};
use nbd_client_blocking::{
    Client, ConnectOptions, Error, Event, Limit, Options, Rejected, Request, State, Woken,
};
use nbd_sim::peer::{PeerError, Scratch, Server};
use nbd_sim::rng::noise;

const MIB: usize = 1 << 20;

const POLICY: Reconnect = Reconnect::new()
    .first_delay(Duration::from_millis(10))
    .max_delay(Duration::from_millis(50))
    .give_up_after(LONG);

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

/// A server of a file that outlives it.
struct Mortal {
    server: Server,
    // The directory goes last.
    scratch: Scratch,
}

impl Mortal {
    fn new() -> Self {
        Self::with(Server::nbdkit)
    }

    fn with(kind: fn(&[&str]) -> nbd_sim::peer::ServerBuilder) -> Self {
        let scratch = Scratch::new().unwrap();
        let image = scratch.raw_image("disk", MIB as u64).unwrap();
        let server = kind(&["file", image.to_str().unwrap()]).start().unwrap();
        Self { server, scratch }
    }

    fn client(&self) -> Client {
        self.client_by(&ConnectOptions::new().reconnect(POLICY))
    }

    fn client_by(&self, options: &ConnectOptions) -> Client {
        options
            .clone()
            .connect_timeout(LONG)
            .request_timeout(LONG)
            .uri(&self.server.uri())
            .and_then(Client::connect)
            .unwrap()
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start_again().unwrap();
    }

    fn resize(&self, len: u64) {
        let image = std::fs::File::options().write(true).open(self.scratch.join("disk")).unwrap();
        image.set_len(len).unwrap();
    }
}

fn reconnects(client: &Client) -> u64 {
    client.session().stats().connections - 1
}

#[test]
fn every_call_goes_on() {
    let mut mortal = Mortal::new();
    let options = ConnectOptions::new().reconnect(POLICY).meta_context("base:allocation");
    let mut client = mortal.client_by(&options);
    let data = noise(MIB, 1);
    client.write_all_at(&data, 0).unwrap();
    client.flush().unwrap();
    let mut back = vec![0; MIB];
    mortal.restart();
    client.read_exact_at(&mut back, 0).unwrap();
    assert!(back == data);
    mortal.restart();
    client.write_all_at(&data[..1000], 5).unwrap();
    mortal.restart();
    // Not told by a flush that was not asked for: the write was acknowledged before.
    let lost = client.flush().unwrap_err();
    assert!(matches!(lost.recovery(), Some(RecoveryError::UnflushedLost)), "{lost}");
    client.flush().unwrap();
    mortal.restart();
    client.write_zeroes(512, 512, CommandFlags::empty()).unwrap();
    mortal.restart();
    client.trim(1024, 512).unwrap();
    mortal.restart();
    client.cache(0, 4096).unwrap();
    mortal.restart();
    let extents = client.block_status(0, MIB as u64, CommandFlags::empty()).unwrap();
    assert_eq!(extents.iter().map(|(_, extent)| extent.length).sum::<u64>(), MIB as u64);
    mortal.restart();
    let extents = client.extents("base:allocation", 0..MIB as u64).unwrap();
    assert_eq!(extents.map(|extent| extent.unwrap().extent.length).sum::<u64>(), MIB as u64);
    mortal.restart();
    let pieces = client.read_structured(&mut back[..4096], 0, CommandFlags::empty()).unwrap();
    assert_eq!(pieces.iter().map(|chunk| chunk.length).sum::<usize>(), 4096);
    assert!(back[5..512] == data[..507] && back[512..1024].iter().all(|byte| *byte == 0));
    assert_eq!(reconnects(&client), 9);
    client.disconnect().unwrap();
}

/// What was chosen by hand is chosen again.
#[test]
fn the_same_export_and_contexts_are_asked_for() {
    let exports = "driver=null-co,read-zeroes=on";
    let server = Server::storage_daemon(&[
        "--blockdev",
        &format!("{exports},size=1048576,node-name=n0"),
        "--blockdev",
        &format!("{exports},size=2097152,node-name=n1"),
        "--export",
        "nbd,id=e0,node-name=n0,name=",
        "--export",
        "nbd,id=e1,node-name=n1,name=other",
    ]);
    let mut server = server.start().unwrap();
    let options =
        ConnectOptions::new().reconnect(POLICY).connect_timeout(LONG).request_timeout(LONG);
    let mut options = options.uri(&server.uri()).and_then(Options::connect).unwrap();
    options.reconfigure(|config| config.request_meta_contexts(false)).unwrap();
    options.set_export_name("other").unwrap();
    assert_eq!(options.set_meta_contexts(&["base:allocation"]).unwrap().len(), 1);
    let mut client = options.go().unwrap();
    for times in 0..2 {
        assert_eq!(reconnects(&client), times);
        let known = client.context("base:allocation").unwrap();
        let extents = client.block_status(0, 2 << 20, CommandFlags::empty()).unwrap();
        let length = |(_, extent): &(_, nbd_client_blocking::proto::Extent)| extent.length;
        assert!(extents.iter().all(|extent| length(extent) == 2 << 20), "{extents:?}");
        assert!(extents.iter().any(|(context, _)| *context == known), "{extents:?}");
        server.kill();
        server.start_again().unwrap();
        client.read_exact_at(&mut [0; 512], (2 << 20) - 512).unwrap();
    }
}

/// Kills the server in the middle of a deep pipeline, again and again.
#[test]
fn a_pipeline_goes_on() {
    for kind in [Server::nbdkit, serve] {
        let mut mortal = Mortal::with(kind);
        let mut client = mortal.client();
        let data = noise(MIB, 2);
        let mut pipeline = client.pipeline();
        for _ in 0..4 {
            let mut ids = Vec::new();
            for (index, block) in data.chunks(4096).enumerate() {
                ids.push(pipeline.write(block.to_vec(), index as u64 * 4096).unwrap());
                if index == 100 {
                    let done = pipeline.wait().unwrap();
                    done.result.unwrap();
                    ids.retain(|id| *id != done.id);
                    mortal.restart();
                }
            }
            while let Some(done) = pipeline.wait() {
                done.result.unwrap();
                assert_eq!(done.buffer.unwrap().len(), 4096);
                assert!(ids.contains(&done.id));
                ids.retain(|id| *id != done.id);
            }
            assert!(ids.is_empty());
            // Otherwise the next round would change nothing.
            pipeline.write(vec![0; 4096], 0).unwrap();
            assert!(pipeline.wait().unwrap().result.is_ok());
        }
        assert_eq!(pipeline.in_flight(), 0);
        drop(pipeline);
        assert_eq!(reconnects(&client), 4);
        assert!(client.session().stats().sent_again > 0);
        let mut back = vec![1; MIB];
        client.read_exact_at(&mut back, 0).unwrap();
        assert!(back[..4096].iter().all(|byte| *byte == 0) && back[4096..] == data[4096..]);
    }
}

fn serve(args: &[&str]) -> nbd_sim::peer::ServerBuilder {
    let program = nbd_sim::peer::nbd_program().unwrap();
    let all = [&["serve", "--unix", "{socket}", "--file"], &args[1..]].concat();
    Server::command(program.to_str().unwrap(), &all)
}

/// Two writes to one place, the second submitted while there is no server.
#[test]
fn overlapping_writes_keep_their_order() {
    let mut mortal = Mortal::new();
    let mut client = mortal.client();
    let mut pipeline = client.pipeline();
    mortal.server.kill();
    for value in 0..50 {
        pipeline.write(vec![value as u8; 1024], 512 * (value % 3)).unwrap();
    }
    mortal.server.start_again().unwrap();
    while let Some(done) = pipeline.wait() {
        done.result.unwrap();
    }
    drop(pipeline);
    let mut back = vec![0; 2048];
    client.read_exact_at(&mut back, 0).unwrap();
    assert_eq!([back[0], back[511], back[512], back[1024], back[1536]], [48, 48, 49, 49, 47]);
}

/// Keeps what was acknowledged, and puts it back on a server that has lost all.
#[test]
fn a_server_that_loses_its_cache_gets_it_back() {
    let scratch = Scratch::new().unwrap();
    let socket = scratch.join("s");
    let start = || {
        let program = nbd_sim::peer::nbd_program().unwrap();
        let args = ["serve", "--memory", "1M", "--unix", socket.to_str().unwrap()];
        let mut command = std::process::Command::new(program);
        let child = command.args(args).stdout(std::process::Stdio::piped()).spawn().unwrap();
        Child(child).ready()
    };
    let server = start();
    let endpoint = Endpoint::Unix(socket.clone());
    let data = noise(MIB / 2, 3);
    let keep = POLICY.keep_unflushed(64 << 20);
    let mut client =
        Client::connect(ConnectOptions::new().reconnect(keep).endpoint(endpoint)).unwrap();
    client.write_all_at(&data, 0).unwrap();
    client.write_zeroes(1000, 1000, CommandFlags::empty()).unwrap();
    client.write_all_at(&data[..100], 1500).unwrap();
    drop(server);
    let server = start();
    let mut back = vec![0; MIB / 2];
    client.read_exact_at(&mut back, 0).unwrap();
    let mut wanted = data.clone();
    wanted[1000..2000].fill(0);
    wanted[1500..1600].copy_from_slice(&data[..100]);
    assert!(back == wanted);
    // The three, and the read, which was sent to the dead one first.
    assert_eq!((reconnects(&client), client.session().stats().sent_again), (1, 4));
    // A flush makes it the server's own affair: what is lost now is lost.
    client.flush().unwrap();
    drop(server);
    let _server = start();
    client.read_exact_at(&mut back, 0).unwrap();
    assert!(back.iter().all(|byte| *byte == 0));
}

/// A server that is killed at the end.
struct Child(std::process::Child);

impl Child {
    fn ready(mut self) -> Self {
        use std::io::BufRead;
        let mut line = String::new();
        std::io::BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("nbd+unix:"), "{line}");
        self
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn gone_for_good_is_told_in_time() {
    let mut mortal = Mortal::new();
    let policy = POLICY.give_up_after(Duration::from_millis(300));
    let mut client = mortal.client_by(&ConnectOptions::new().reconnect(policy));
    let mut pipeline = client.pipeline();
    mortal.server.kill();
    let begin = Instant::now();
    for offset in 0..10 {
        pipeline.read(vec![0; 512], offset * 512).unwrap();
    }
    let mut told = 0;
    while let Some(done) = pipeline.wait() {
        let error = done.result.unwrap_err();
        assert!(error.to_string().contains("not made again"), "{error}");
        assert!(done.buffer.is_some());
        told += 1;
    }
    assert_eq!(told, 10);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    // Nothing waits any more, in whichever way.
    let error = pipeline.write(vec![0; 512], 0).unwrap_err().error;
    assert!(error.to_string().contains("not made again"), "{error}");
    assert!(pipeline.poll(None).is_err());
    drop(pipeline);
    let error = client.flush().unwrap_err();
    assert!(error.to_string().contains("not made again"), "{error}");
    assert_eq!(client.state(), State::Closed);
    let error = client.disconnect().unwrap_err();
    assert!(error.to_string().contains("not made again"), "{error}");
}

#[test]
fn deadlines_hold_while_there_is_no_server() {
    let mut mortal = Mortal::new();
    let mut client = mortal.client();
    client.set_request_timeout(Duration::from_millis(200));
    mortal.server.kill();
    let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("reconnecting"), "{error}");
    assert_eq!(client.state(), State::Reconnecting);
    let mut pipeline = client.pipeline();
    let late = pipeline.write(vec![6; 512], 0).unwrap();
    let done = pipeline.wait().unwrap();
    assert!(done.id == late && done.result.unwrap_err().is_timeout());
    assert_eq!(done.buffer.unwrap(), [6; 512]);
    // Who has the time waits.
    let request = Request::new(Command::write(0, 512)).limit(Limit::Never);
    let id = pipeline.submit_request(request, Some(vec![7; 512])).unwrap();
    let woken = pipeline.poll(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(woken, Woken::TimedOut);
    assert!(pipeline.direction().is_empty(), "there is nothing to poll for");
    // And once there is one, what was waiting is done.
    mortal.server.start_again().unwrap();
    let done = pipeline.wait().unwrap();
    assert_eq!(done.id, id);
    done.result.unwrap();
    drop(pipeline);
    client.set_request_timeout(LONG);
    let mut back = [0; 512];
    client.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, [7; 512]);
}

#[test]
fn another_size_ends_it() {
    let mut mortal = Mortal::new();
    let mut client = mortal.client();
    mortal.server.kill();
    mortal.resize(2 * MIB as u64);
    mortal.server.start_again().unwrap();
    let wanted = Changed::Size { was: MIB as u64, is: 2 * MIB as u64 };
    for _ in 0..2 {
        let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
        let Some(RecoveryError::Changed(changed)) = error.recovery() else { panic!("{error}") };
        assert_eq!(*changed, wanted);
    }
    assert_eq!(reconnects(&client), 0);
}

/// A server that accepts, agrees, and dies of whatever it is asked: its return alone is no
/// progress.
#[test]
fn a_server_that_dies_of_a_command_is_not_asked_for_ever() {
    let policy = POLICY.give_up_after(Duration::from_millis(500));
    // What is killed leaves its directory behind.
    let fatal = "pread=rm -r \"$tmpdir\"; kill -9 $PPID";
    let server = Server::nbdkit(&["eval", "get_size=echo 1048576", fatal]);
    let mut server = server.start().unwrap();
    let mut client = ConnectOptions::new()
        .reconnect(policy)
        .uri(&server.uri())
        .and_then(Client::connect)
        .unwrap();
    let attempts = thread::spawn(move || client.read_exact_at(&mut [0; 512], 0).unwrap_err());
    while !attempts.is_finished() {
        if server.try_wait().is_some() {
            match server.start_again() {
                // It may be asked, and so be dead again, before it is seen to be ready.
                Ok(()) | Err(PeerError::Exited { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    let error = attempts.join().unwrap();
    assert!(error.to_string().contains("not made again"), "{error}");
}

#[test]
fn a_connection_that_was_handed_over_needs_a_way_back() {
    let mut mortal = Mortal::new();
    let path = mortal.server.unix_path().unwrap().to_owned();
    let endpoint = Endpoint::Unix(path);
    let options = ConnectOptions::new().reconnect(POLICY);
    let handed = endpoint.connect(None).unwrap();
    let error = Client::connect_over(options.clone(), handed).unwrap_err();
    assert!(matches!(error.recovery(), Some(RecoveryError::NoWayBack)), "{error}");
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let dial = move |deadline| -> Result<Connection, Error> {
        *counted.lock().unwrap() += 1;
        Ok(endpoint.connect(deadline)?)
    };
    // It is the only one to connect, whatever server the options name.
    let options = options.unix("/nobody");
    let mut client = Client::connect_with(options, dial).unwrap();
    mortal.restart();
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!((reconnects(&client), *calls.lock().unwrap()), (1, 2));
}

#[test]
fn all_is_told_to_who_wants_to_know() {
    let mut mortal = Mortal::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let mut client = mortal.client();
    client.on_event(move |event| {
        telling.lock().unwrap().push(match event {
            Event::Lost { .. } => "lost",
            Event::Failed { .. } => "failed",
            Event::Reconnected { .. } => "reconnected",
            _ => "gave up",
        });
    });
    mortal.server.kill();
    client.set_request_timeout(Duration::from_millis(300));
    let begin = Instant::now();
    while told.lock().unwrap().last() != Some(&"failed") {
        assert!(client.read_exact_at(&mut [0; 512], 0).is_err());
        assert!(begin.elapsed() < LONG, "it does not try");
    }
    mortal.server.start_again().unwrap();
    client.set_request_timeout(None);
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    let mut told = told.lock().unwrap().clone();
    assert!(told.len() > 2, "{told:?}");
    told.dedup();
    assert_eq!(told, ["lost", "failed", "reconnected"]);
}

/// The rules of a pipeline are the same with and without.
#[test]
fn commands_that_make_no_sense_are_refused_at_once() {
    let mortal = Mortal::new();
    let limits = nbd_client_blocking::proto::Limits::default().max_in_flight(2);
    let config = nbd_client_blocking::proto::ClientConfig::new().limits(limits);
    let mut client = mortal.client_by(&ConnectOptions::new().config(config).reconnect(POLICY));
    let mut pipeline = client.pipeline();
    let refused = |rejected: Rejected<Vec<u8>>| {
        assert_eq!(rejected.buffer.expect("it comes back"), [0; 512]);
        rejected.error.submit_error().expect("it was not sent")
    };
    let beyond = pipeline.read(vec![0; 512], MIB as u64).unwrap_err();
    assert_eq!(refused(beyond), SubmitError::OutOfBounds);
    let first = pipeline.read(vec![0; 512], 0).unwrap();
    assert_eq!(pipeline.status(first), RequestStatus::InFlight);
    pipeline.submit(Command::flush(), None).unwrap();
    assert!(pipeline.is_full());
    assert_eq!(refused(pipeline.read(vec![0; 512], 0).unwrap_err()), SubmitError::Full);
    pipeline.disconnect(Disconnect::AfterReplies);
    let late = pipeline.read(vec![0; 512], 0).unwrap_err();
    assert_eq!(refused(late), SubmitError::Disconnecting);
    let mut done = Vec::new();
    while let Some(completion) = pipeline.wait() {
        completion.result.unwrap();
        done.push(completion.id);
    }
    assert_eq!(done.len(), 2);
    assert_eq!(pipeline.status(first), RequestStatus::Retired);
    drop(pipeline);
    client.disconnect().unwrap();
}

#[test]
fn a_dropped_pipeline_leaves_nothing_to_do_again() {
    let mut mortal = Mortal::new();
    let mut client = mortal.client();
    let mut pipeline = client.pipeline();
    for offset in 0..50 {
        pipeline.write(vec![9; 4096], offset * 4096).unwrap();
    }
    mortal.server.kill();
    drop(pipeline);
    mortal.server.start_again().unwrap();
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!(reconnects(&client), 1);
    // The read was sent to the dead server first.
    assert_eq!(client.session().stats().sent_again, 1, "nobody waits for the others");
}
