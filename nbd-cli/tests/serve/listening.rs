//! Where the server listens, and what it says about it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use nbd_sim::peer::{Finished, PeerError, Scratch, run};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::support::{NBD, TestResult, eventually, nbdsh, serve};

/// A server that is killed and reaped at the end.
struct Running(Child);

impl Running {
    /// Starts the server and returns the URI it prints.
    fn start(args: &[&str]) -> (Self, String) {
        let mut command = Command::new(NBD);
        command.arg("serve").args(args).stdout(Stdio::piped());
        let mut server = Self(command.spawn().unwrap());
        let stdout = server.0.stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (server, line.trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fails(args: &[&str]) -> Result<(Finished, String), PeerError> {
    let finished = run(Command::new(NBD).arg("serve").args(args))?;
    assert!(!finished.status.success());
    let words = String::from_utf8_lossy(&finished.stderr).into_owned();
    Ok((finished, words))
}

#[test]
fn tcp_takes_a_free_port_and_tells_it() -> TestResult {
    for host in ["127.0.0.1:0", "localhost:0", "[::1]:0", "0.0.0.0:0"] {
        let args = ["--memory", "1M", "--export", "a b/c", "--tcp", host];
        let (_server, uri) = Running::start(&args);
        assert!(uri.starts_with("nbd://"), "{uri}");
        assert!(uri.ends_with("/a%20b/c") && !uri.contains(":0/"), "{uri}");
        nbdsh(&uri, "h.pwrite(b'x' * 100000, 1)\nassert h.get_size() == 1 << 20")?;
    }
    Ok(())
}

#[test]
fn the_uri_of_a_unix_socket_is_absolute() -> TestResult {
    let scratch = Scratch::new()?;
    let socket = scratch.join("a socket");
    let args = ["--memory", "1M", "--unix", &socket.to_string_lossy()];
    let (_server, uri) = Running::start(&args);
    assert!(uri.starts_with("nbd+unix:///?socket=/"), "{uri}");
    assert!(uri.ends_with("/a%20socket"), "{uri}");
    nbdsh(&uri, "assert h.get_size() == 1 << 20")?;
    Ok(())
}

#[test]
fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() -> TestResult {
    let scratch = Scratch::new()?;
    let socket = scratch.join("s");
    let path = socket.to_string_lossy();
    let args = ["--memory", "1M", "--unix", &path];
    let listener = UnixListener::bind(&socket).unwrap();
    let (_, words) = fails(&args)?;
    assert!(words.contains("another server is listening"), "{words}");
    assert!(words.contains(&*path) && words.lines().count() == 1, "{words}");
    drop(listener);
    // A program that another test is about to start has it until it begins.
    eventually("nobody listens", || UnixStream::connect(&socket).is_err());
    let (_server, uri) = Running::start(&args);
    nbdsh(&uri, "assert h.get_size() == 1 << 20")?;
    let file = scratch.join("file");
    fs::write(&file, "precious").unwrap();
    let (_, words) = fails(&["--memory", "1M", "--unix", &file.to_string_lossy()])?;
    assert!(words.contains("is not a socket"), "{words}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    Ok(())
}

#[test]
fn a_server_that_was_killed_comes_back_at_its_socket() -> TestResult {
    let mut server = serve(&["--memory", "1M"]).start()?;
    let socket = server.unix_path().unwrap().to_owned();
    for _ in 0..3 {
        server.kill();
        assert!(socket.exists(), "SIGKILL leaves no time to tidy up");
        server.start_again()?;
        nbdsh(&server.uri(), "assert h.get_size() == 1 << 20")?;
    }
    Ok(())
}

/// One that does not answer is still there, and its socket is not taken from it.
#[test]
fn a_stopped_server_keeps_its_socket() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    let socket = server.unix_path().unwrap().to_owned();
    server.stop()?;
    // As many as fit into the queue of the listening socket, after which a connection would wait.
    let mut waiting = Vec::new();
    let full = loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match connect(&client, &SocketAddrUnix::new(&socket).unwrap()) {
            Ok(()) => waiting.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(full, Errno::AGAIN);
    let (_, words) = fails(&["--memory", "1M", "--unix", &socket.to_string_lossy()])?;
    assert!(words.contains("another server is listening"), "{words}");
    drop(waiting);
    server.cont()?;
    nbdsh(&server.uri(), "assert h.get_size() == 1 << 20")?;
    Ok(())
}

#[test]
fn mistakes_on_the_command_line_are_explained() -> TestResult {
    let mistakes: [(&[&str], &str); 7] = [
        (&["--memory", "1M"], "--unix"),
        (&["--unix", "s"], "--memory"),
        (&["--memory", "1M", "--file", "f", "--unix", "s"], "cannot be used with"),
        (&["--memory", "1Q", "--unix", "s"], "no unit"),
        (&["--memory", "99E", "--unix", "s"], "64 bits"),
        (&["--file", "/nowhere/at/all", "--unix", "s"], "/nowhere/at/all"),
        (&["--memory", "1M", "--tcp", "127.0.0.1:x"], "127.0.0.1:x"),
    ];
    for (args, words) in mistakes {
        let (_, said) = fails(args)?;
        assert!(said.contains(words), "{args:?}: {said}");
    }
    Ok(())
}

#[test]
fn an_export_name_that_no_client_could_send_is_refused() -> TestResult {
    let scratch = Scratch::new()?;
    let socket = scratch.join("s");
    let name = "x".repeat(5000);
    let (_, words) =
        fails(&["--memory", "1M", "--export", &name, "--unix", &socket.to_string_lossy()])?;
    assert!(words.contains("export name"), "{words}");
    assert!(!socket.exists());
    Ok(())
}

#[test]
fn the_server_that_the_tests_wait_for_prints_one_line() -> TestResult {
    let server = serve(&["--memory", "1M"]).start()?;
    // The socket is there a little earlier than the line.
    eventually("the line", || server.log().ends_with('\n'));
    assert_eq!(server.log().trim_end(), server.uri());
    Ok(())
}
