//! The program, called by the names of libnbd's tools, beside those tools.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nbd_sim::peer::{Finished, PeerError, Scratch, Server, run_within, tool, version};

use super::support::{Content, LIMIT, MIB, NBD, TestResult, arg};

/// Links to the program by the names of the tools.
pub(crate) struct Links(Scratch);

impl Links {
    pub(crate) fn new() -> Result<Self, PeerError> {
        let scratch = Scratch::new()?;
        for name in ["nbdinfo", "nbdcopy", "nbddump"] {
            symlink(NBD, scratch.join(name)).unwrap();
        }
        Ok(Self(scratch))
    }

    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Result<Finished, PeerError> {
        run_within(LIMIT, Command::new(self.0.join(name)).args(args))
    }

    /// Both outputs, of theirs and of ours, after the same end.
    pub(crate) fn both(&self, name: &str, args: &[&str]) -> Result<[String; 2], PeerError> {
        let theirs = run_within(LIMIT, tool(name)?.args(args))?;
        let ours = self.run(name, args)?;
        let said = String::from_utf8_lossy(&ours.stderr);
        assert_eq!(ours.status.code(), theirs.status.code(), "{name} {args:?}: {said}");
        let text = |finished: Finished| String::from_utf8(finished.stdout).expect("text");
        Ok([text(theirs), text(ours)])
    }

    pub(crate) fn same(&self, name: &str, args: &[&str]) -> TestResult {
        let [theirs, ours] = self.both(name, args)?;
        assert_eq!(ours, theirs, "{name} {args:?}");
        Ok(())
    }
}

#[test]
fn nbddump_prints_the_same() -> TestResult {
    let links = Links::new()?;
    for words in ["1 2 3", "1*32", "(0*48 1)*2", "1*16 2*16 1*16", "1*33", "1*48 2"] {
        links.same("nbddump", &["[", "nbdkit", "data", words, "]"])?;
    }
    Ok(())
}

/// nbddump does since 1.22.
#[test]
fn nbddump_begins_further_on() -> TestResult {
    let links = Links::new()?;
    let theirs_does = version("nbddump")? >= (1, 22);
    let server = ["[", "nbdkit", "data", "1*48 2*3", "size=1M", "]"];
    let printed = |at: &str, bytes: &str, text: &str| format!("{at}: {bytes:<48} |{text:<16}|\n");
    let ones = "01 01 01 01 01 01 01 01  01 01 01 01 01 01 01 01";
    for (args, expected) in [
        (&["--skip=16", "-n", "16"][..], printed("0000000010", ones, &".".repeat(16))),
        (&["-o", "45", "-n6"], printed("000000002d", "01 01 01 02 02 02", "......")),
        (&["-o3", "--length", "5"], printed("0000000003", "01 01 01 01 01", ".....")),
        (&["--offset=1048575", "--limit", "5"], printed("00000fffff", "00", ".")),
        (&["--skip=1048576", "--length", "5"], String::new()),
    ] {
        let args = [args, &server].concat();
        let ours = links.run("nbddump", &args)?;
        assert!(ours.status.success(), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ours.stdout), expected, "{args:?}");
        if theirs_does {
            links.same("nbddump", &args)?;
        }
    }
    let beyond = [&["--skip=1048577"], &server[..]].concat();
    assert_eq!(links.run("nbddump", &beyond)?.status.code(), Some(1));
    if theirs_does {
        links.same("nbddump", &beyond)?;
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

/// Servers that compare what is written with what they hold are tested so.
#[test]
fn nbdcopy_takes_one_export_for_both_ends() -> TestResult {
    let (links, scratch) = (Links::new()?, Scratch::new()?);
    let server = Server::nbdkit(&["sparse-random", "size=32M", "percent=30"]).start()?;
    let uri = server.uri();
    for option in [&[][..], &["--synchronous"], &["--allocated", "-S0"], &["--no-extents"]] {
        let args = [option, &[&uri, &uri]].concat();
        run_within(LIMIT, tool("nbdcopy")?.args(&args))?.success()?;
        links.run("nbdcopy", &args)?.success()?;
    }
    let image = Content::Sparse.image(&scratch, "image", 5 * MIB + 512);
    let memory = Server::nbdkit(&["memory", "5243392"]).start()?;
    let uri = memory.uri();
    links.run("nbdcopy", &[&arg(&image), &uri])?.success()?;
    links.run("nbdcopy", &[&uri, &uri])?.success()?;
    let same = ["--offset=1k", "--destination-offset=1k", &uri, &uri];
    links.run("nbdcopy", &same)?.success()?;
    // What moves would be read after it is written.
    for option in ["--offset=512", "--destination-offset=512"] {
        let refused = links.run("nbdcopy", &[option, "--length=1k", &uri, &uri])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("are one export"), "{said}");
    }
    let back = scratch.join("back");
    links.run("nbdcopy", &[&uri, &arg(&back)])?.success()?;
    assert!(fs::read(&back).unwrap() == fs::read(&image).unwrap());
    Ok(())
}

/// All the names that nbdinfo 1.22 has for it, of which completion offers a few.
#[test]
fn every_name_of_cannot() -> TestResult {
    let links = Links::new()?;
    let server = Server::nbdkit(&["--filter=nozero", "memory", "1M"]).start()?;
    let stems = ["can", "is", "has", "have"];
    let names = stems.iter().flat_map(|stem| [format!("--{stem}not"), format!("--{stem}-not")]);
    let contractions = ["--cant", "--isnt", "--hasnt", "--havent"].map(str::to_owned);
    for name in names.chain(contractions) {
        for (ability, status) in [("zero", 0), ("write", 2)] {
            let finished = links.run("nbdinfo", &[&name, ability, &server.uri()])?;
            assert_eq!(finished.status.code(), Some(status), "{name} {ability}");
        }
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
                let words = ["color", "colour", "total", "target-is-zero", "have", "cant"];
                let negations = ["can-not", "isnot", "is-not", "hasnot", "has-not"];
                words.iter().chain(&negations).any(|part| name.contains(part))
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
