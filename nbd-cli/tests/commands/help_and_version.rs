//! How the program speaks of itself.

use std::fs;
use std::process::Command;

use nbd_sim::peer::{Scratch, Server};

use super::support::{NBD, TestResult, arg, json, nbd, succeed};

/// Every command of the program, but for those that it has from its library.
const COMMANDS: [&str; 22] = [
    "info",
    "list",
    "map",
    "copy",
    "dump",
    "compare",
    "checksum",
    "read",
    "write",
    "zero",
    "trim",
    "cache",
    "flush",
    "bench",
    "serve",
    "attach",
    "mount",
    "detach",
    "attached",
    "demo",
    "completions",
    "help",
];

#[test]
fn help_tells_of_all_commands() -> TestResult {
    let help = succeed(&["help"])?;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    assert!(help.contains("Examples:") && help.contains("Exit status"), "{help}");
    for command in &COMMANDS[..19] {
        assert_eq!(succeed(&["help", command])?, succeed(&[command, "--help"])?);
    }
    Ok(())
}

#[test]
fn a_near_miss_is_told() -> TestResult {
    for (words, meant) in
        [(&["inof"][..], "'info'"), (&["copy", "--verfy", "a", "b"], "'--verify'")]
    {
        let finished = nbd(words)?;
        let said = String::from_utf8_lossy(&finished.stderr).into_owned();
        assert_eq!(finished.status.code(), Some(2), "{said}");
        assert!(said.contains(meant) && !said.contains('\x1b'), "{said}");
    }
    Ok(())
}

#[test]
fn servers_named_by_less() -> TestResult {
    let unix = Server::nbdkit(&["memory", "1M"]).start()?;
    let path = arg(unix.unix_path().unwrap());
    assert_eq!(succeed(&["info", "--size", &path])?, "1048576");
    let tcp = Server::nbdkit(&["memory", "2M"]).tcp().start()?;
    let port = tcp.tcp_address().unwrap().port();
    assert_eq!(succeed(&["info", "--size", &format!("localhost:{port}")])?, "2097152");
    Ok(())
}

#[test]
fn documents_have_a_version() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&scratch.raw_image("image", 4096)?);
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let uri = server.uri();
    let table: [(&[&str], &str); 11] = [
        (&["info", &uri], r#"{"TLS": false, "structured": true}"#),
        (&["list", &uri], r#"{"exports": [{"name": "", "size": 1048576, "read_only": false}]}"#),
        (&["map", &uri], "{}"),
        (&["bench", "--count=1", &uri], "{}"),
        (&["attached"], "{}"),
        (&["compare", &uri, &uri], r#"{"same": true, "sizes": [1048576, 1048576]}"#),
        (&["checksum", "--length=1k", &image], r#"{"kind": "sha256", "length": 1024}"#),
        (&["write", &uri, &image], r#"{"offset": 0, "length": 4096, "durable": true}"#),
        (
            &["zero", "-o", "4k", "-n", "8k", "--no-flush", &uri],
            r#"{"offset": 4096, "length": 8192, "durable": false}"#,
        ),
        (&["trim", &uri], r#"{"offset": 0, "length": 1048576, "durable": true}"#),
        (&["flush", &uri], r#"{"durable": true}"#),
    ];
    for (args, expected) in table {
        let told = json(&succeed(&[&[args[0], "--json"], &args[1..]].concat())?);
        assert_eq!(told["version"], 1, "{args:?}");
        for (key, value) in json(expected).as_object().unwrap() {
            assert_eq!(&told[key], value, "{args:?}: {key}");
        }
    }
    let cached = json(&succeed(&["cache", "--json", "--length=1k", &uri])?);
    assert_eq!(cached, json(r#"{"version": 1, "offset": 0, "length": 1024}"#));
    let refusing = ["eval", "list_exports=echo a; echo b", "open=[ $3 = a ] || exit 1"];
    let refusing = Server::nbdkit(&refusing).arg("get_size=echo 512").start()?;
    let told = nbd(&["list", "--json", &refusing.uri()])?;
    assert_eq!(told.status.code(), Some(1));
    let exports = &json(&String::from_utf8_lossy(&told.stdout))["exports"];
    assert_eq!(exports[0]["size"], 512);
    assert!(exports[1]["error"].is_string() && exports[1]["name"] == "b", "{exports}");
    Ok(())
}

#[test]
fn pages_and_completions() -> TestResult {
    let scratch = Scratch::new()?;
    succeed(&["man", &arg(scratch.path())])?;
    for page in ["nbd", "nbd-copy", "nbd-serve", "nbdinfo", "nbdcopy", "nbdzero"] {
        let page = fs::read_to_string(scratch.join(&format!("{page}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let text = succeed(&["completions", shell])?;
        assert!(text.contains("checksum") && text.contains("reconnect"), "{shell}");
    }
    let bash = succeed(&["completions", "bash"])?;
    let checked = Command::new("bash").args(["-n", "-c", &bash]).status().unwrap();
    assert!(checked.success());
    Ok(())
}

#[test]
fn discarding_by_another_name() -> TestResult {
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    for name in ["nbdzero", "nbddiscard"] {
        let link = scratch.join(name);
        std::os::unix::fs::symlink(NBD, &link).unwrap();
        let mut write = Command::new("sh");
        let script = format!("head -c 4096 /dev/urandom | '{NBD}' write '{}'", server.uri());
        assert!(write.args(["-c", &script]).status().unwrap().success());
        let done = Command::new(&link).args(["--length=4k", &server.uri()]).status().unwrap();
        assert!(done.success());
        assert!(nbd(&["read", "-n", "4k", &server.uri()])?.stdout == [0; 4096]);
        let version = Command::new(&link).arg("--version").output().unwrap().stdout;
        assert!(version.starts_with(format!("{name} ").as_bytes()));
    }
    Ok(())
}
