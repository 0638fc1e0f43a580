//! What is asked for in addition, and fails, is not the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nbd_sim::hostile::bytes::{FLAGS, ack, claim, export, opt, rep, server as listed};
use nbd_sim::peer::{Finished, PeerError, Scratch, Server, run_within};
use nbd_sim::relay::{Beyond, Relay};
use serde_json::Value;

use super::stub::{Script, stub};
use super::support::{
    Content, LIMIT, MIB, NBD, TestResult, arg, fail, json, nbd, succeed, told_in_one_line,
};

/// Refuses to tell its meta contexts, or hangs up when it is asked.
struct NoContexts(u32);

impl Script for NoContexts {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        match option {
            opt::GO => Some([export(1 << 20, FLAGS), ack(option)].concat()),
            opt::STRUCTURED_REPLY => Some(ack(option)),
            opt::LIST_META_CONTEXT if self.0 == 0 => Some(Vec::new()),
            opt::LIST_META_CONTEXT => Some(claim(option, self.0, 6, b"secret")),
            _ => None,
        }
    }
}

/// A run that shows what is known and fails for the rest.
fn partly(args: &[&str]) -> Result<(Finished, String), PeerError> {
    let finished = nbd(args)?;
    let told = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert_eq!(finished.status.code(), Some(1), "{args:?}: {told}");
    assert!(told.starts_with("nbd: not everything is known: "), "{args:?}: {told}");
    Ok((finished, told))
}

/// What is known to be too much is found out before anything is written.
#[test]
fn more_than_fits() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&Content::Random.image(&scratch, "image", 3 * MIB));
    let server = Server::nbdkit(&["memory", "4M"]).start()?;
    let uri = server.uri();
    for offset in ["2M", "5M"] {
        let told = fail(&["write", "--offset", offset, &uri, &image])?;
        assert!(told.ends_with("nothing was written"), "{told}");
    }
    let script = "cat \"$2\" | \"$0\" write --offset=2M \"$1\"";
    let mut shell = Command::new("sh");
    let finished = run_within(LIMIT, shell.args(["-c", script, NBD, &uri, &image]))?;
    let told = told_in_one_line(&finished, &["write"]);
    assert!(told.ends_with("up to byte 4194304 it is written"), "{told}");
    succeed(&["write", "--offset=1M", &uri, &image]).map(drop)
}

#[test]
fn meta_contexts_that_are_not_told() -> TestResult {
    for code in [rep::ERR_POLICY, rep::ERR_INVALID, rep::ERR_TLS_REQD, rep::ERR_SHUTDOWN, 0] {
        let uri = stub(NoContexts(code));
        let (finished, told) = partly(&["info", "--json", &uri])?;
        let info = json(&String::from_utf8_lossy(&finished.stdout));
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], MIB, "{info:#}");
        assert_eq!(export["contexts"], Value::Null, "{info:#}");
        let reason = export["contexts-error"].as_str().unwrap();
        let word = if code == 0 { "closed the connection" } else { "secret" };
        assert!(reason.contains(word) && told.contains(word), "{reason}: {told}");
        let (finished, _) = partly(&["info", &uri])?;
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        assert!(text.contains("export-size: 1048576") && text.contains("contexts: unknown"));
    }
    // One that has no such thing has told everything.
    let info = json(&succeed(&["info", "--json", &stub(NoContexts(rep::ERR_UNSUP))])?);
    assert_eq!(info["exports"][0]["contexts"], Value::Array(Vec::new()));
    Ok(())
}

/// Lists three exports and opens two of them, by `NBD_OPT_GO` only.
struct ListAndGo;

impl Script for ListAndGo {
    fn option(&self, option: u32, data: &[u8]) -> Option<Vec<u8>> {
        let names: [&[u8]; 3] = [b"one", b"two", b"three"];
        match option {
            opt::LIST => {
                let mut answer: Vec<u8> = names.map(|name| listed(name, b"a disk")).concat();
                answer.extend(ack(option));
                Some(answer)
            }
            opt::GO if data.windows(3).any(|part| part == b"two") => {
                Some(claim(option, rep::ERR_POLICY, 9, b"not today"))
            }
            opt::GO => Some([export(2 << 20, FLAGS), ack(option)].concat()),
            _ => None,
        }
    }
}

#[test]
fn a_server_that_lists_and_does_not_describe() -> TestResult {
    let uri = stub(ListAndGo);
    let (finished, told) = partly(&["info", "--list", "--json", &uri])?;
    assert!(told.contains("not today"), "{told}");
    let info = json(&String::from_utf8_lossy(&finished.stdout));
    let names: Vec<_> = ["one", "two", "three"].into();
    for (export, name) in info["exports"].as_array().unwrap().iter().zip(names) {
        assert_eq!(export["export-name"], name);
        assert_eq!(export["description"], "a disk");
        match name {
            "two" => assert!(export["error"].as_str().unwrap().contains("not today")),
            _ => assert_eq!(export["export-size"], 2 * MIB),
        }
    }
    let (finished, _) = partly(&["info", "--list", &uri])?;
    let text = String::from_utf8_lossy(&finished.stdout).into_owned();
    assert!(text.contains("export=\"two\":\n\tdescription: a disk\n\tunknown: "), "{text}");
    Ok(())
}

/// With a server that others wrote.
#[test]
fn one_export_of_several_that_cannot_be_opened() -> TestResult {
    let server = Server::nbdkit(&["eval", "list_exports=echo NAMES; echo good; echo bad"])
        .arg("open=[ \"$3\" = good ] || { echo EIO broken >&2; exit 1; }")
        .arg("get_size=echo 1M")
        .arg("pread=head -c $3 /dev/zero")
        .start()?;
    let (finished, _) = partly(&["info", "--list", "--json", &server.uri()])?;
    let info = json(&String::from_utf8_lossy(&finished.stdout));
    assert_eq!(info["exports"][0]["export-size"], MIB, "{info:#}");
    assert!(info["exports"][1]["error"].is_string(), "{info:#}");
    Ok(())
}

/// An answer to `NBD_OPT_INFO` that is not what `NBD_OPT_GO` says.
struct TwoFaced;

impl Script for TwoFaced {
    fn option(&self, option: u32, _data: &[u8]) -> Option<Vec<u8>> {
        const INFO: u32 = 6;
        match option {
            opt::LIST => Some([listed(b"", b""), ack(option)].concat()),
            INFO => {
                let mut told = export(0, FLAGS);
                // It answers the option it was asked.
                told[11] = INFO as u8;
                Some([told, ack(option)].concat())
            }
            opt::GO => Some([export(7 << 20, FLAGS), ack(option)].concat()),
            _ => None,
        }
    }
}

#[test]
fn what_is_printed_is_true_of_a_connection() -> TestResult {
    let uri = stub(TwoFaced);
    for args in [&["info", "--json", &uri][..], &["info", "--list", "--json", &uri]] {
        assert_eq!(json(&succeed(args)?)["exports"][0]["export-size"], 7 * MIB, "{args:?}");
    }
    let scratch = Scratch::new()?;
    let disk = arg(&scratch.raw_image("disk", MIB)?);
    let server = Server::nbd_server(&format!("[disk]\nexportname = {disk}\n")).start()?;
    for args in [&["--json", &server.export_uri("disk")][..], &["--list", "--json", &server.uri()]]
    {
        let info = json(&succeed(&[&["info"], args].concat())?);
        assert_eq!(info["exports"][0]["export-size"], MIB, "{args:?}");
    }
    Ok(())
}

/// A server has room for one client, and leaves the others waiting for ever; so would a copy
/// that waited for it.
#[test]
fn connections_that_never_come() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 64 * MIB);
    let from = Server::nbdkit(&["file"]).arg(&image).start()?;
    let to = Server::nbdkit(&["memory", "64M"]).start()?;
    let relays =
        [&from, &to].map(|server| Relay::start(server.unix_path().unwrap(), 1, Beyond::Silence));
    let (one_from, one_to) = (relays[0].uri(&from.uri()), relays[1].uri(&to.uri()));
    let copy = ["copy", "--timeout=0", "--connections=4"];
    let back = scratch.join("back");
    succeed(&[&copy[..], &[&one_from, &to.uri()]].concat())?;
    succeed(&[&copy[..], &[&from.uri(), &one_to]].concat())?;
    succeed(&[&copy[..], &[&to.uri(), &arg(&back)]].concat())?;
    assert!(fs::read(&back).unwrap() == fs::read(&image).unwrap());
    Ok(())
}

/// The same where they are refused, by a server with such a limit.
#[test]
fn connections_that_are_refused() -> TestResult {
    let scratch = Scratch::new()?;
    let disk = Content::Sparse.image(&scratch, "disk", 64 * MIB);
    let config = format!("[disk]\nexportname = {}\nmaxconnections = 1\n", disk.display());
    let server = Server::nbd_server(&config).start()?;
    let back = scratch.join("back");
    let uri = server.export_uri("disk");
    succeed(&["copy", "--timeout=0", "--connections=4", &uri, &arg(&back)])?;
    assert!(fs::read(&back).unwrap() == fs::read(&disk).unwrap());
    Ok(())
}

/// Runs the program where not one thread can be made.
fn without_threads(scratch: &Scratch, args: &[&str]) -> Result<Finished, PeerError> {
    // For whoever that is.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = scratch.join("nbd");
    if !program.exists() {
        fs::copy(NBD, &program).unwrap();
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", "ulimit -u 1; exec \"$@\"", "bash"]).arg(&program).args(args);
    if rustix::process::getuid().is_root() {
        // Root has no such limit.
        shell.uid(65534).gid(65534);
    }
    run_within(LIMIT, &mut shell)
}

#[test]
fn a_copy_without_threads() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 64 * MIB);
    let server = Server::nbdkit(&["memory", "64M"]).tcp().start()?;
    let (uri, file) = (server.uri(), arg(&scratch.join("file")));
    for [from, to] in
        [[arg(&image), uri.clone()], [uri.clone(), file.clone()], [uri, "null:".to_owned()]]
    {
        let args = ["copy", "--progress", "--connections=4", &from, &to];
        let finished = without_threads(&scratch, &args)?;
        let said = String::from_utf8_lossy(&finished.stderr).into_owned();
        assert!(finished.status.success(), "{said}");
        // What was done, and nothing else.
        assert!(said.starts_with("nbd: 64.00 MiB in ") && said.lines().count() == 1, "{said}");
    }
    assert!(fs::read(&file).unwrap() == fs::read(&image).unwrap());
    Ok(())
}

/// With one connection accepted and everything else refused.
#[test]
fn a_listener_that_goes_away() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 64 * MIB);
    let server = Server::nbdkit(&["file"]).arg(&image).start()?;
    let relay = Relay::start(server.unix_path().unwrap(), 1, Beyond::Refusal);
    let back = scratch.join("back");
    succeed(&["copy", "--connections=4", &relay.uri(&server.uri()), &arg(&back)])?;
    assert_eq!(relay.connections(), 1);
    assert!(fs::read(&back).unwrap() == fs::read(&image).unwrap());
    Ok(())
}
