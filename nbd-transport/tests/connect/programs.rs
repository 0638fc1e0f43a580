//! Programs started for a connection: commands, socket activation and ssh.

use crate::support::{LIMIT, assert_given_up, assert_greets, shortly, soon};
use nbd_transport::{
    Activation, CommandSpec, ConnectError, Connection, Dial, DialStep, Endpoint, FdName, NbdUri,
    OnDrop, PeerStderr, Signal, Step, Stream,
};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A shell script whose standard error is captured.
fn script(text: &str) -> CommandSpec {
    CommandSpec::new("sh", ["-c", text]).stderr(PeerStderr::Capture)
}

fn activation(spec: CommandSpec) -> Endpoint {
    Endpoint::SocketActivation(spec.into())
}

fn fails(endpoint: &Endpoint) -> ConnectError {
    endpoint.connect(soon()).expect_err("the program cannot serve")
}

/// Waits until `condition` holds.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process exists, be it as a zombie.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn command_serves_and_is_reaped_on_drop() {
    let endpoint = Endpoint::Command(CommandSpec::new("nbdkit", ["-s", "memory", "1M"]));
    for deadline in [None, soon()] {
        let mut connection = endpoint.connect(deadline).expect("is nbdkit installed?");
        assert_greets(&mut connection);
        let peer = connection.peer.as_mut().unwrap();
        assert!(peer.try_status().unwrap().is_none());
        let pid = peer.pid();
        drop(connection);
        eventually("the server is reaped", || !exists(pid));
    }
}

/// Programs ask the kernel to be told when their parent ends, as nbdkit does; to the kernel that is
/// the thread that started them.
#[test]
fn a_server_outlives_the_thread_that_connected_to_it() {
    let server = "printf NBDMAGICIHAVEOPT; exec sleep 60";
    let arguments = ["--pdeathsig", "KILL", "sh", "-c", server];
    let endpoint = Endpoint::Command(CommandSpec::new("setpriv", arguments));
    let connect = std::thread::spawn(move || endpoint.connect(soon()));
    let mut connection = connect.join().unwrap().expect("setpriv is there");
    let peer = connection.peer.as_mut().unwrap();
    let ended = peer.wait_until(Some(Instant::now() + Duration::from_millis(300))).unwrap();
    assert_eq!(ended, None, "the server is gone");
}

#[test]
fn command_that_ends_by_itself_tells_its_status() {
    let spec = script("printf x; read line; echo farewell >&2; exit 7");
    let connection = Endpoint::Command(spec).connect(soon()).unwrap();
    let mut peer = connection.peer.unwrap();
    assert_eq!(peer.wait_until(shortly()).unwrap(), None);
    drop(connection.stream);
    assert_eq!(peer.wait_until(soon()).unwrap().unwrap().code(), Some(7));
    assert_eq!(peer.try_status().unwrap().unwrap().code(), Some(7));
    assert_eq!(peer.stderr_tail(), "farewell\n");
    peer.kill(Signal::KILL).expect("a signal to what has ended goes nowhere");
}

#[test]
fn command_can_be_signalled() {
    let spec = script("printf x; exec sleep 60");
    let mut peer = Endpoint::Command(spec).connect(soon()).unwrap().peer.unwrap();
    peer.kill(Signal::KILL).unwrap();
    assert_eq!(peer.wait_until(soon()).unwrap().unwrap().signal(), Some(9));
}

/// Real-time signals included, which have no name. None that a program may have been started
/// to ignore, as SIGHUP is by nohup.
#[test]
fn a_signal_is_any_number_that_the_system_has() {
    for number in [9, 10, 15, 40] {
        let spec = script("printf x; exec sleep 60");
        let mut peer = Endpoint::Command(spec).connect(soon()).unwrap().peer.unwrap();
        let signal = Signal::from_number(number).unwrap();
        assert_eq!((signal.number(), signal.to_string()), (number, format!("signal {number}")));
        peer.kill(signal).unwrap();
        assert_eq!(peer.wait().unwrap().signal(), Some(number));
        assert_eq!(peer.wait().unwrap().signal(), Some(number), "it is told again");
    }
    for number in [-1, 0, 65, i32::MAX] {
        assert_eq!(Signal::from_number(number), None);
    }
}

/// What a program does when it is dropped: `end` is called before.
fn dropped(on_drop: OnDrop, end: impl FnOnce(Stream)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let text = format!(
        "exec 2>{}; trap 'echo term >&2; exit' TERM; printf x; read line; echo end >&2",
        told.display()
    );
    let Connection { stream, peer, .. } =
        Endpoint::Command(CommandSpec::new("sh", ["-c", &text])).connect(soon()).unwrap();
    let mut peer = peer.unwrap();
    peer.set_on_drop(on_drop);
    let pid = peer.pid();
    end(stream);
    drop(peer);
    assert!(!exists(pid), "it was not waited for");
    fs::read_to_string(told).unwrap()
}

#[test]
fn drop_can_wait_for_the_end() {
    assert_eq!(dropped(OnDrop::Wait, drop), "end\n");
    let mut kept = None;
    assert_eq!(dropped(OnDrop::TerminateAndWait, |stream| kept = Some(stream)), "term\n");
}

/// To Linux, the parent of a program is the thread that started it.
#[test]
fn a_program_can_be_started_from_the_calling_thread() {
    let server = "printf NBDMAGICIHAVEOPT; exec sleep 60";
    let arguments = ["--pdeathsig", "USR1", "sh", "-c", server];
    let mut dial = Dial::new(Endpoint::Command(CommandSpec::new("setpriv", arguments)));
    dial = dial.await_greeting(true);
    let step = dial.advance(Instant::now()).unwrap();
    let DialStep::Spawn(spawn) = step else { panic!("{step:?}") };
    assert_eq!(spawn.program(), "setpriv");
    let (started, wait) = std::sync::mpsc::channel();
    let (over, last) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        started.send(spawn.start_from_this_thread()).unwrap();
        // Until it has asked to be told of the end.
        let _ = last.recv();
    });
    dial.spawned(wait.recv().unwrap());
    let mut connection = loop {
        match dial.advance(Instant::now()).unwrap() {
            DialStep::Connected(connection) => break connection,
            _ => std::thread::yield_now(),
        }
    };
    drop(over);
    thread.join().unwrap();
    let status = connection.peer.as_mut().unwrap().wait_until(soon()).unwrap();
    assert_eq!(status.expect("it ends with the thread").signal(), Some(10));
}

#[test]
fn drop_asks_a_program_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let text = format!(
        "trap 'echo >{}; exit' TERM; printf x; while :; do sleep 0.05; done",
        told.display()
    );
    let connection = Endpoint::Command(script(&text)).connect(soon()).unwrap();
    drop(connection);
    eventually("the program is told by SIGTERM", || told.exists());
}

#[test]
fn drop_does_not_wait_and_a_deaf_program_is_killed() {
    let spec = script("trap '' TERM; printf x; while :; do sleep 0.1; done");
    // A busy machine may hold this up for as long as the program is given.
    let returned_in_time = (0..5).any(|_| {
        let connection = Endpoint::Command(spec.clone()).connect(soon()).unwrap();
        let pid = connection.peer.as_ref().unwrap().pid();
        drop(connection);
        let is_there = exists(pid);
        eventually("the program is killed", || !exists(pid));
        is_there
    });
    assert!(returned_in_time, "drop waited, or the program was killed at once");
}

#[test]
fn program_that_does_not_exist_is_a_clear_error() {
    let error = fails(&Endpoint::Command(CommandSpec::new("no-such-server", ["-s"])));
    assert!(matches!(error, ConnectError::Spawn { .. }), "{error:?}");
    assert_eq!(error.errno(), Errno::NOENT.raw_os_error());
    assert!(error.to_string().starts_with("cannot start \"no-such-server\": No such"), "{error}");

    let spec = CommandSpec::new("no-such-server", ["-s"]).stderr(PeerStderr::Capture);
    let text = fails(&activation(spec)).to_string();
    assert!(text.contains("\"no-such-server\" closed the connection"), "{text}");
    assert!(text.contains("exit status: 127 (not found?)"), "{text}");
    assert!(text.contains("it wrote: "), "{text}");
}

#[test]
fn program_that_ends_early_is_told_with_status_and_words() {
    let spec = script("echo reasons >&2; exit 3");
    for endpoint in [Endpoint::Command(spec.clone()), activation(spec)] {
        let start = Instant::now();
        let error = fails(&endpoint);
        assert!(start.elapsed() < LIMIT / 2);
        assert_eq!(error.errno(), Errno::NOTCONN.raw_os_error());
        let text = error.to_string();
        assert_eq!(
            text,
            "\"sh\" closed the connection before it spoke NBD and ended: exit status: 3; it \
             wrote: reasons"
        );
    }
}

#[test]
fn silent_program_runs_into_the_deadline_and_is_reaped() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let text = format!("echo $$ >{}; exec sleep 60", pid_file.display());
    for endpoint in [Endpoint::Command(script(&text)), activation(script(&text))] {
        // A busy machine may take its time to start it at all.
        let deadlines = [300, 3_000, 20_000].map(Duration::from_millis);
        let pid = deadlines.into_iter().find_map(|patience| {
            let start = Instant::now();
            let error = endpoint.connect(Some(start + patience)).expect_err("it never greets");
            assert!(start.elapsed() < LIMIT, "the deadline did not hold");
            assert!(
                matches!(error, ConnectError::TimedOut { step: Step::Greeting, .. }),
                "{error:?}"
            );
            let pid = fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
            fs::remove_file(&pid_file).unwrap();
            Some(pid)
        });
        let pid = pid.expect("it is started");
        eventually("the program is reaped", || !exists(pid));
    }
}

#[test]
fn nobody_waits_for_a_silent_program_once_it_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let text = format!("echo $$ >>{}; exec sleep 60", pids.display());
    for endpoint in [Endpoint::Command(script(&text)), activation(script(&text))] {
        assert_given_up(&endpoint);
    }
    eventually("the programs are reaped", || {
        fs::read_to_string(&pids)
            .is_ok_and(|pids| pids.lines().all(|pid| pid.parse().is_ok_and(|pid| !exists(pid))))
    });
}

#[test]
fn environment_and_standard_error() {
    let spec = script("echo \"$GIVEN ${TAKEN-unset}\" >&2; exit 1")
        .env("GIVEN", "given")
        .env("TAKEN", "x")
        .env_remove("TAKEN");
    let text = fails(&Endpoint::Command(spec.clone())).to_string();
    assert!(text.ends_with("it wrote: given unset"), "{text}");
    let text = fails(&Endpoint::Command(spec.stderr(PeerStderr::Null))).to_string();
    assert!(text.ends_with("exit status: 1"), "{text}");
}

#[test]
fn standard_error_is_drained_and_its_end_kept() {
    // Far more than a pipe holds: without a reader the program would never get to the end.
    let spec = script("head -c 1000000 /dev/zero | tr '\\0' . >&2; echo the end >&2; exit 1");
    let ConnectError::PeerClosed { stderr, .. } = fails(&Endpoint::Command(spec)) else {
        panic!("the program did not end");
    };
    assert_eq!(stderr.len(), 16 * 1024);
    assert!(stderr.ends_with("...the end\n"));
}

#[test]
fn activation_serves_nbdkit_and_qemu_nbd_and_cleans_up() {
    for spec in [
        CommandSpec::new("nbdkit", ["memory", "1M"]),
        CommandSpec::new("qemu-nbd", ["-t", "-e", "2", "-f", "raw", "null-co://"]),
    ] {
        let mut connection = activation(spec).connect(soon()).expect("is the server installed?");
        assert_greets(&mut connection);
        let Stream::Unix(stream) = &connection.stream else { panic!("not a Unix socket") };
        let address = stream.peer_addr().unwrap();
        let socket = address.as_pathname().unwrap().to_owned();
        let directory = socket.parent().unwrap();
        let mode = fs::metadata(directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        // The same server takes more connections.
        assert_greets(&mut Endpoint::Unix(socket.clone()).connect(soon()).unwrap());

        let pid = connection.peer.as_ref().unwrap().pid();
        drop(connection);
        assert!(!directory.exists(), "the directory is left behind");
        eventually("the server is reaped", || !exists(pid));
    }
}

#[test]
fn activation_follows_the_systemd_convention() {
    let tell = "[ \"$LISTEN_PID\" = $$ ] && [ -S /dev/fd/3 ] && [ ! -S /dev/fd/0 ] && \
                echo \"$LISTEN_FDS $LISTEN_FDNAMES\"; exit 4";
    // What is inherited from a caller that was itself activated must not shine through.
    let spec =
        script(tell).env("LISTEN_PID", "1").env("LISTEN_FDS", "9").env("LISTEN_FDNAMES", "x");
    let text = fails(&activation(spec.clone())).to_string();
    assert!(text.ends_with("it wrote: 1 unknown"), "{text}");
    let named = Activation::new(spec, FdName::new("disk0").unwrap());
    let text = fails(&Endpoint::SocketActivation(named)).to_string();
    assert!(text.ends_with("it wrote: 1 disk0"), "{text}");
}

#[test]
fn ssh_is_run_as_a_command() {
    let directory = tempfile::tempdir().unwrap();
    let fake = directory.path().join("ssh");
    fs::write(&fake, "#!/bin/sh\necho \"$#: $*\" >&2\nexec nbdkit -s memory 1M\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());

    let uri: NbdUri = "nbd+ssh://alice@box:2222/?socket=/run/my%20disk&compress=1".parse().unwrap();
    let Endpoint::Ssh(target) = uri.endpoint() else { panic!("not ssh") };
    let spec = target.command().unwrap().env("PATH", path).stderr(PeerStderr::Capture);
    let mut connection = Endpoint::Command(spec).connect(soon()).expect("is nbdkit installed?");
    assert_greets(&mut connection);
    let mut peer = connection.peer.unwrap();
    // A thread reads it, in its own time.
    let words = "8: -C -p 2222 -l alice -- box nc -U '/run/my disk'\n";
    eventually("ssh gets its words", || peer.stderr_tail() == words);
}
