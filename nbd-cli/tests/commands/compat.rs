//! The program, called by the names of libnbd's tools, beside those tools.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nbd_sim::peer::{Finished, PeerError, Scratch, Server, ServerBuilder, run_within, tool};
use serde_json::Value;

use super::differences::{
    MORE_KEYS, MORE_LINES, NOT_CONNECTED, PACKETS, READS_WHOLE_BLOCKS, percent, same_dump,
};
use super::info::with_bitmaps;
use super::support::{Content, LIMIT, MIB, NBD, TestResult, arg, json};

/// Links to the program by the names of the tools.
struct Links(Scratch);

impl Links {
    fn new() -> Result<Self, PeerError> {
        let scratch = Scratch::new()?;
        for name in ["nbdinfo", "nbdcopy", "nbddump"] {
            symlink(NBD, scratch.join(name)).unwrap();
        }
        Ok(Self(scratch))
    }

    fn run(&self, name: &str, args: &[&str]) -> Result<Finished, PeerError> {
        run_within(LIMIT, Command::new(self.0.join(name)).args(args))
    }

    /// Both outputs, of theirs and of ours, after the same end.
    fn both(&self, name: &str, args: &[&str]) -> Result<[String; 2], PeerError> {
        let theirs = run_within(LIMIT, tool(name)?.args(args))?;
        let ours = self.run(name, args)?;
        let said = String::from_utf8_lossy(&ours.stderr);
        assert_eq!(ours.status.code(), theirs.status.code(), "{name} {args:?}: {said}");
        let text = |finished: Finished| String::from_utf8(finished.stdout).expect("text");
        Ok([text(theirs), text(ours)])
    }

    fn same(&self, name: &str, args: &[&str]) -> TestResult {
        let [theirs, ours] = self.both(name, args)?;
        assert_eq!(ours, theirs, "{name} {args:?}");
        Ok(())
    }
}

fn servers(scratch: &Scratch) -> Result<Vec<ServerBuilder>, PeerError> {
    let raw = arg(&Content::Sparse.image(scratch, "raw", 3 * MIB + 512));
    let qcow2 = arg(&with_bitmaps(scratch)?);
    let list = scratch.join("extents");
    fs::write(&list, "0 1M\n1M 2M hole\n3M 1M zero\n5M 64K hole,zero\n").unwrap();
    let extents = format!("extentlist={}", list.display());
    Ok(vec![
        Server::nbdkit(&["memory", "1M"]),
        Server::nbdkit(&["null", "512"]).tcp(),
        Server::nbdkit(&["pattern", "1000001"]),
        Server::nbdkit(&["-r", "data", "1 2 @131072 3 \"words\"", "size=1M"]),
        Server::nbdkit(&["--no-sr", "memory", "1M"]),
        Server::nbdkit(&["--oldstyle", "pattern", "4096"]),
        Server::nbdkit(&["--mask-handshake=0", "memory", "1M"]),
        Server::nbdkit(&["--filter=extentlist", "memory", "8M", &extents]),
        Server::nbdkit(&["--filter=exportname", "memory", "1M", "exportdesc=fixed:a disk"]),
        Server::nbdkit(&["--filter=blocksize-policy", "pattern", "64K"])
            .arg("blocksize-minimum=512")
            .arg("blocksize-preferred=4096")
            .arg("blocksize-maximum=1M"),
        Server::qemu_nbd(&["-f", "raw", "-D", "words", &raw]),
        Server::qemu_nbd(&["-f", "qcow2", "-r", "-A", "-B", "before", "-B", "after", &qcow2]),
    ])
}

/// Takes away what is meant to differ.
fn common(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // An empty list and none at all say the same.
            let empty = map.get("contexts").is_some_and(|list| list == &Value::Array(Vec::new()));
            map.retain(|key, _| !MORE_KEYS.contains(&&**key) || (key == "contexts" && !empty));
            map.values_mut().for_each(common);
        }
        Value::Array(list) => list.iter_mut().for_each(common),
        _ => {}
    }
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !MORE_LINES.iter().any(|more| line.starts_with(more)));
    lines.map(|line| line.replace(PACKETS[0], PACKETS[1])).collect()
}

#[test]
fn nbdinfo_says_the_same() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    for server in servers(&scratch)? {
        let server = server.start()?;
        let uri = server.uri();
        for args in [&["--json", &uri][..], &["--json", "--no-content", &uri]] {
            let [theirs, ours] = links.both("nbdinfo", args)?;
            let [mut theirs, mut ours] = [json(&theirs), json(&ours)];
            common(&mut theirs);
            common(&mut ours);
            assert_eq!(ours, theirs, "{args:?}");
        }
        let [theirs, ours] = links.both("nbdinfo", &[&uri])?;
        assert_eq!(lines(&ours), lines(&theirs));
        let listed = links.both("nbdinfo", &["--list", &uri])?;
        let [theirs, ours] = listed.map(|text| lines(&text));
        assert_eq!(ours, theirs);
        links.same("nbdinfo", &["--size", &uri])?;
        links.same("nbdinfo", &["--size", "--json", &uri])?;
    }
    Ok(())
}

#[test]
fn nbdinfo_answers_the_same() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    for server in servers(&scratch)? {
        let server = server.start()?;
        for ability in [
            "connect",
            "read",
            "write",
            "cache",
            "df",
            "fast-zero",
            "fast_zero",
            "flush",
            "fua",
            "multi-conn",
            "structured-reply",
            "trim",
            "zero",
            "tls",
            "read-only",
            "rotational",
            "readonly",
            "nonsense",
        ] {
            for question in ["--can", "--is"] {
                links.same("nbdinfo", &[question, ability, &server.uri()])?;
            }
            // They have no such question before 1.20; no is yes there.
            let yes = links.run("nbdinfo", &["--can", ability, &server.uri()])?.status.code();
            for question in ["--cannot", "--isnt", "--hasnt"] {
                let no = links.run("nbdinfo", &[question, ability, &server.uri()])?.status.code();
                let expected = match yes {
                    Some(0) => Some(2),
                    Some(2) => Some(0),
                    failed => failed,
                };
                assert_eq!(no, expected, "{question} {ability}");
            }
        }
    }
    let connect = ["--can", "connect", "nbd+unix:///?socket=/nowhere"];
    let theirs = run_within(LIMIT, tool("nbdinfo")?.args(connect))?.status.code();
    let ours = links.run("nbdinfo", &connect)?.status.code();
    assert_eq!([theirs, ours], NOT_CONNECTED.map(Some));
    links.same("nbdinfo", &["--can", "trim", "nbd+unix:///?socket=/nowhere"])
}

#[test]
fn nbdinfo_draws_the_same_maps() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    for server in servers(&scratch)? {
        let server = server.start()?;
        let uri = server.uri();
        for map in ["--map", "--map=qemu:allocation-depth", "--map=qemu:dirty-bitmap:after"] {
            let known = links.run("nbdinfo", &[map, &uri])?.status.success();
            links.same("nbdinfo", &[map, &uri])?;
            links.same("nbdinfo", &[map, "--totals", &uri])?;
            for args in [&[map, "--json", &uri][..], &[map, "--totals", "--json", &uri]] {
                let [theirs, ours] = links.both("nbdinfo", args)?;
                if known {
                    assert_eq!(rounded(json(&ours)), rounded(json(&theirs)), "{args:?}");
                }
            }
        }
    }
    Ok(())
}

fn rounded(mut rows: Value) -> Value {
    for row in rows.as_array_mut().into_iter().flatten() {
        if let Some(told) = row.get_mut("percent") {
            *told = told.as_f64().map(percent).into();
        }
    }
    rows
}

#[test]
fn nbddump_prints_the_same() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    for server in servers(&scratch)? {
        let server = server.start()?;
        let uri = server.uri();
        let same = |args: &[&str]| -> TestResult {
            let theirs = run_within(LIMIT, tool("nbddump")?.args(args))?;
            let ours = links.run("nbddump", args)?.success()? + "\n";
            let told = String::from_utf8_lossy(&theirs.stdout);
            let same = match theirs.status.success() {
                true => same_dump(ours.trim_start(), &told),
                false => READS_WHOLE_BLOCKS,
            };
            assert!(same, "{args:?}: {ours}{told}");
            Ok(())
        };
        same(&[&uri])?;
        for length in ["0", "1", "16", "17", "32", "48", "4096"] {
            same(&["-n", length, &uri])?;
            same(&[&format!("--length={length}"), "--no-color", &uri])?;
        }
    }
    for words in ["1 2 3", "1*32", "(0*48 1)*2", "1*16 2*16 1*16", "1*33", "1*48 2"] {
        links.same("nbddump", &["[", "nbdkit", "data", words, "]"])?;
    }
    Ok(())
}

#[test]
fn nbdcopy_copies_the_same() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    let image = arg(&Content::Sparse.image(&scratch, "image", 5 * MIB + 512));
    let before = fs::read(&image).unwrap();
    let options: [&[&str]; 12] = [
        &[],
        &["-p"],
        &["-C", "2", "-T1", "-R", "4", "-S0"],
        &["--queue-size=1M", "--request-size=64k", "--requests=8", "--threads=2"],
        &["--connections=1", "--sparse=64k", "--no-extents"],
        &["--synchronous"],
        &["--allocated", "--flush"],
        &["--target-is-zero"],
        &["--destination-is-zero"],
        &["-v"],
        &["--verbose", "--progress"],
        &["--progress=1"],
    ];
    for option in options {
        let (ours, back) = (scratch.join("ours"), scratch.join("back"));
        let server = Server::nbdkit(&["memory", "5243392"]).start()?;
        let uri = server.uri();
        let output = links.run("nbdcopy", &[option, &[&image, &uri]].concat())?.success()?;
        assert_eq!(output.ends_with("100/100"), option == ["--progress=1"], "{output}");
        links.run("nbdcopy", &[&[&*uri][..], option, &[&arg(&ours)]].concat())?.success()?;
        run_within(LIMIT, tool("nbdcopy")?.args([&uri, &arg(&back)]))?.success()?;
        assert!(fs::read(&ours).unwrap() == before, "{option:?}");
        assert!(fs::read(&back).unwrap() == before, "{option:?}");
    }
    Ok(())
}

/// As completion in a shell asks for them: all of theirs, and some more.
#[test]
fn options_and_versions_are_told() -> TestResult {
    let links = Links::new()?;
    for name in ["nbdinfo", "nbdcopy", "nbddump"] {
        for list in ["--long-options", "--short-options"] {
            let [theirs, ours] = links.both(name, &[list])?;
            // An option is taken by any of its names; only the first few are offered.
            let hidden = |name: &str| {
                ["color", "colour", "total", "target-is-zero"]
                    .iter()
                    .any(|part| name.contains(part))
            };
            let theirs: BTreeSet<_> = theirs.lines().filter(|name| !hidden(name)).collect();
            let ours: BTreeSet<_> = ours.lines().collect();
            let missing: Vec<_> = theirs.difference(&ours).collect();
            assert!(missing.is_empty(), "{name} {list}: {missing:?}");
        }
        let version = links.run(name, &["--version"])?.success()?;
        assert_eq!(version, links.run(name, &["-V"])?.success()?);
        let (first, second) = version.split_once('\n').expect("two lines");
        assert!(first.starts_with(&format!("{name} ")) && second.starts_with("libnbd "));
        // What it says begins with its name.
        let finished = links.run(
            name,
            &["nbd+unix:///?socket=/nowhere", "null:"][..1 + usize::from(name == "nbdcopy")],
        )?;
        let said = String::from_utf8_lossy(&finished.stderr);
        assert!(said.starts_with(&format!("{name}: ")), "{said}");
    }
    Ok(())
}
