//! Signals that ask for the end, at every command.

use std::fs;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nbd_sim::hostile::bytes::{FLAGS, ack, context, export, opt};
use nbd_sim::peer::Scratch;
use rustix::process::{Pid, Signal, kill_process};

use super::stub::{Request, Script, stub};
use super::support::{Content, MIB, NBD, TestResult, arg, ended_by_signals, eventually};

/// Answers no request.
struct Mute(Arc<AtomicU64>);

impl Script for Mute {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(MIB, FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            opt::SET_META_CONTEXT => Some([context(1, b"base:allocation"), ack(option)].concat()),
            _ => None,
        }
    }

    fn request(&self, request: &Request, client: &mut TcpStream) -> io::Result<()> {
        if request.kind == 1 {
            client.read_exact(&mut vec![0; request.length as usize])?;
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn start(args: &[&str]) -> Child {
    let mut command = ended_by_signals();
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends a signal; returns the exit status and what was said.
fn end(mut child: Child, signal: Signal) -> (Option<i32>, String) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn what_is_left_behind_is_told() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", MIB));
    let new = arg(&scratch.join("new"));
    let asked = Arc::new(AtomicU64::new(0));
    let uri = stub(Mute(Arc::clone(&asked)));
    let table: [(&[&str], &str); 17] = [
        (&["info", "--content", &uri], ""),
        (&["info", "--map", &uri], ""),
        (&["map", &uri], ""),
        (&["dump", &uri], ""),
        (&["compare", &uri, &image], ""),
        (&["compare", "--json", &image, &uri], ""),
        (&["checksum", &uri], ""),
        (&["read", &uri], ""),
        (&["write", &uri, &image], "may have been changed from byte 0 on"),
        (&["zero", "--offset=8k", &uri], "may have been changed from byte 8192 on"),
        (&["trim", &uri], "may have been changed from byte 0 on"),
        (&["cache", &uri], ""),
        (&["flush", &uri], ""),
        (&["bench", &uri], ""),
        (&["copy", &uri, "null:"], ""),
        (&["copy", &uri, &new], "was not made"),
        (&["copy", &image, &uri], "is incomplete: 0 of 1048576 bytes were copied"),
    ];
    for (args, left) in table {
        let before = asked.load(Ordering::Relaxed);
        let child = start(args);
        eventually(&format!("{args:?}"), || asked.load(Ordering::Relaxed) > before);
        let (status, said) = end(child, Signal::INT);
        assert_eq!(status, Some(130), "{args:?}: {said}");
        assert!(said.starts_with("nbd: interrupted"), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.contains(left) && said.contains(';') != left.is_empty(), "{args:?}: {said}");
    }
    assert!(!fs::exists(&new).unwrap());
    Ok(())
}

/// A server that accepts and says nothing.
#[test]
fn while_connecting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/", listener.local_addr().unwrap());
    for (command, signal, status) in [
        ("info", Signal::INT, 130),
        ("list", Signal::TERM, 143),
        ("map", Signal::HUP, 129),
        ("write", Signal::INT, 130),
    ] {
        let child = start(&[command, &uri]);
        let _client = listener.accept().unwrap();
        let (ended, said) = end(child, signal);
        assert_eq!((ended, &*said), (Some(status), "nbd: interrupted\n"), "{command}");
    }
}

/// As nohup(1) has it.
#[test]
fn what_is_ignored_stays_ignored() {
    let asked = Arc::new(AtomicU64::new(0));
    let uri = stub(Mute(Arc::clone(&asked)));
    let script = "trap '' HUP; exec \"$0\" read \"$1\"";
    let mut shell = Command::new("env");
    shell
        .args(["--default-signal=INT", "sh", "-c", script, NBD, &uri])
        .stderr(Stdio::piped())
        .stdout(Stdio::null());
    let child = shell.spawn().unwrap();
    eventually("a request has come", || asked.load(Ordering::Relaxed) > 0);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert_eq!(end(child, Signal::INT).0, Some(130));
}

/// A server that was started for the command has nobody else to end it.
#[test]
fn a_server_of_its_own_ends_too() -> TestResult {
    let scratch = Scratch::new()?;
    let pid = scratch.join("pid");
    let script = format!("echo $$ > '{}'; exec nbdkit -f pattern 1T 2> /dev/null", arg(&pid));
    let args = ["checksum", "[", "sh", "-c", &script, "]"];
    let child = start(&args);
    let server = || fs::read_to_string(&pid).ok()?.trim().parse::<u32>().ok();
    let command = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    eventually("it runs", || server().is_some_and(|pid| command(pid).starts_with("nbdkit")));
    let server = server().unwrap();
    assert_eq!(end(child, Signal::TERM).0, Some(143));
    // Nobody may have collected it yet.
    eventually("it ends", || command(server).is_empty());
    Ok(())
}
