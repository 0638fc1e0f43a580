//! The servers really start, serve, and are gone afterwards.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};

use super::{ClosedPort, PeerError, Scratch, Server, run, run_within, tool};

type TestResult = Result<(), PeerError>;

const MEGABYTE: u64 = 1 << 20;

/// Of an export that is opened: nbd-server says 0 to those who only ask, as newer nbdinfos do.
fn size(uri: &str) -> Result<String, PeerError> {
    run(tool("nbdsh")?.args(["-u", uri, "-c", "print(h.get_size())"]))?.success()
}

fn is_alive(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[test]
fn nbdkit_over_unix_leaves_nothing_behind() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    assert_eq!(size(&server.uri())?, "1048576");
    let (pid, dir) = (server.pid(), server.scratch().path().to_owned());
    assert!(is_alive(pid) && dir.is_dir());
    drop(server);
    assert!(!is_alive(pid), "process {pid} outlived its Server");
    assert!(!dir.exists(), "{} outlived its Server", dir.display());
    Ok(())
}

#[test]
fn tcp_servers_get_a_free_port() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk.img", MEGABYTE)?;
    let servers = [
        Server::nbdkit(&["memory", "1M"]).tcp().start()?,
        Server::nbdkit(&["memory", "1M"]).tcp6().start()?,
        Server::qemu_nbd(&["-f", "raw"]).arg(image).tcp().start()?,
    ];
    for server in &servers {
        assert!(server.tcp_address().is_some_and(|address| address.port() != 0));
        assert!(server.unix_path().is_none());
        assert_eq!(size(&server.uri())?, "1048576", "{}", server.uri());
    }
    Ok(())
}

#[test]
fn a_server_that_was_killed_comes_back_at_the_same_place() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk.img", MEGABYTE)?;
    let path = image.to_string_lossy();
    let exports = format!("[disk]\nexportname = {path}\n");
    let servers = [
        Server::nbdkit(&["file", &path]),
        Server::nbdkit(&["file", &path]).tcp(),
        Server::qemu_nbd(&["-f", "raw", "-x", "disk", &path]),
        Server::nbd_server(&exports),
    ];
    for builder in servers {
        let mut server = builder.start()?;
        let (pid, uri) = (server.pid(), server.export_uri("disk"));
        for _ in 0..2 {
            server.kill();
            assert!(!is_alive(pid) && size(&uri).is_err());
            server.start_again()?;
            assert_eq!(size(&uri)?, "1048576");
        }
    }
    Ok(())
}

#[test]
fn qemu_nbd_serves_raw_and_qcow2() -> TestResult {
    let scratch = Scratch::new()?;
    let raw = scratch.raw_image("disk.img", MEGABYTE)?;
    let qcow2 = scratch.qcow2_image("disk.qcow2", 3 * MEGABYTE)?;
    let server = Server::qemu_nbd(&["-f", "raw"]).arg(raw).start()?;
    assert_eq!(size(&server.uri())?, "1048576");
    let server = Server::qemu_nbd(&["-f", "qcow2", "-x", "name"]).arg(qcow2).start()?;
    assert_eq!(size(&server.export_uri("name"))?, "3145728");
    Ok(())
}

#[test]
fn storage_daemon_serves_several_exports() -> TestResult {
    let server = Server::storage_daemon(&[
        "--blockdev",
        "driver=null-co,size=1048576,read-zeroes=on,node-name=n0",
        "--export",
        "nbd,id=e0,node-name=n0,name=alpha",
    ])
    .start()?;
    assert_eq!(size(&server.export_uri("alpha"))?, "1048576");
    Ok(())
}

#[test]
fn nbd_server_serves_two_at_once_and_is_reaped() -> TestResult {
    let scratch = Scratch::new()?;
    let image = scratch.raw_image("disk.img", MEGABYTE)?;
    let exports = format!("[a b]\nexportname = {}\n", image.display());
    let one = Server::nbd_server(&exports).start()?;
    let two = Server::nbd_server(&exports).generic("maxconnections = 2").start()?;
    for server in [one, two] {
        assert_eq!(size(&server.export_uri("a b"))?, "1048576");
        let pid = server.pid();
        drop(server);
        assert!(!is_alive(pid), "process {pid} outlived its Server");
    }
    Ok(())
}

#[test]
fn a_server_may_outlive_the_thread_that_started_it() -> TestResult {
    let started = std::thread::spawn(|| Server::nbdkit(&["memory", "1M"]).start()).join();
    let mut server = started.expect("the thread does not panic")?;
    assert_eq!(server.wait_within(Duration::from_millis(100)), None);
    assert_eq!(size(&server.uri())?, "1048576");
    Ok(())
}

#[test]
fn any_command_with_a_socket_will_do() -> TestResult {
    let real = Server::nbdkit(&["pattern", "1M"]).start()?;
    let connect = format!("UNIX-CONNECT:{}", real.scratch().join("s").display());
    let relay = ["-b", "1", "UNIX-LISTEN:{socket},fork", &connect];
    let server = Server::command("socat", &relay).start()?;
    assert_eq!(size(&server.uri())?, "1048576");
    Ok(())
}

#[test]
fn a_frozen_server_answers_nothing_until_it_goes_on() -> TestResult {
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let path = server.unix_path().expect("it listens on a Unix socket");
    server.stop()?;
    let mut client = UnixStream::connect(path).expect("the kernel accepts");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout is set");
    let mut greeting = [0; 18];
    let silence = io::Read::read_exact(&mut client, &mut greeting).map_err(|error| error.kind());
    assert_eq!(silence, Err(io::ErrorKind::WouldBlock));
    server.cont()?;
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout is set");
    io::Read::read_exact(&mut client, &mut greeting).expect("the greeting comes");
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    // Dropped while frozen, it must still end within the grace period.
    server.stop()
}

#[test]
fn an_early_end_is_told_in_the_servers_own_words() -> TestResult {
    let error = Server::nbdkit(&["no-such-plugin"]).start().expect_err("there is no such plugin");
    assert!(matches!(error, PeerError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("no-such-plugin"), "{error}");
    let error = Server::nbd_server("[a]\nreadonly = true\n").start().expect_err("no exportname");
    assert!(matches!(error, PeerError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("exportname"), "{error}");
    Ok(())
}

#[test]
fn a_closed_port_refuses_everybody_and_is_nobody_elses() -> TestResult {
    let port = ClosedPort::new()?;
    for host in ["127.0.0.1", "::1"] {
        let refused = TcpStream::connect((host, port.number())).map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(io::ErrorKind::ConnectionRefused), "{host}");
        let taken = TcpListener::bind((host, port.number())).map_err(|error| error.kind());
        assert_eq!(taken.err(), Some(io::ErrorKind::AddrInUse), "{host}");
    }
    Ok(())
}

#[test]
fn a_missing_program_is_named() {
    let error = tool("no-such-tool").expect_err("there is no such tool").to_string();
    assert!(error.contains("`no-such-tool` is not installed"), "{error}");
}

#[test]
fn a_tool_that_hangs_is_killed_with_its_children() -> TestResult {
    // A busy machine may take its time until the shell has begun at all.
    for limit in [200, 2_000, 20_000].map(Duration::from_millis) {
        let mut hang = tool("sh")?;
        hang.args(["-c", "echo begun; sleep 1000 & wait"]);
        match run_within(limit, &mut hang).expect_err("it hangs") {
            PeerError::TimedOut { output, .. } if output.is_empty() => {}
            PeerError::TimedOut { output, .. } => {
                assert_eq!(output, "begun\n");
                return Ok(());
            }
            other => return Err(other),
        }
    }
    panic!("it never begins");
}

#[test]
fn a_failing_tool_is_an_error_only_when_success_is_asked_for() -> TestResult {
    let finished = run(tool("sh")?.args(["-c", "echo out; echo err >&2; exit 3"]))?;
    assert_eq!(finished.status.code(), Some(3));
    assert_eq!((&finished.stdout[..], &finished.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    let error = finished.success().expect_err("3 is no success").to_string();
    assert!(error.contains("exit status: 3") && error.contains("err"), "{error}");
    Ok(())
}

#[test]
fn a_crash_is_seen() -> TestResult {
    let mut server = Server::nbdkit(&["memory", "1M"]).start()?;
    assert_eq!(server.try_wait(), None);
    server.kill();
    assert!(server.try_wait().is_some_and(|status: ExitStatus| !status.success()));
    Ok(())
}

#[test]
fn nbdsh_finds_the_systems_own_interpreter() -> TestResult {
    let mut shell = tool("nbdsh")?;
    shell.args(["-c", "print(nbd.NBD().get_package_name())"]);
    assert_eq!(run(&mut shell)?.success()?, "libnbd");
    Ok(())
}
