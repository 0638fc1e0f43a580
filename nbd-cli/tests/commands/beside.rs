//! The program, called by the names of libnbd's tools, beside those tools, at every kind of
//! server: JSON by value, maps line by line, data by its bytes.

use std::fs;

use nbd_sim::peer::{PeerError, Scratch, run_within, tool};
use serde_json::Value;

use super::all_servers::Files;
use super::compat::Links;
use super::differences::{
    ABOUT_SIZE, NOT_CONNECTED, READS_WHOLE_BLOCKS, Release, exports, has_wrong_size, percent,
    same_dump, without,
};
use super::support::{LIMIT, MIB, TestResult, arg, json};

/// Both programs, and what differs.
struct Beside {
    links: Links,
    /// Of nbdinfo.
    release: &'static Release,
    /// The server that is asked.
    what: &'static str,
    found: Vec<String>,
}

impl Beside {
    fn new() -> Result<Self, PeerError> {
        let (links, release) = (Links::new()?, Release::installed()?);
        Ok(Self { links, release, what: "", found: Vec::new() })
    }

    /// Runs both, which end alike; returns what they print, theirs and ours, where both succeed.
    fn both(&mut self, name: &str, args: &[&str]) -> Result<Option<[String; 2]>, PeerError> {
        self.both_end(name, args, None)
    }

    /// The same, where they may be meant to end with these, theirs and ours.
    fn both_end(
        &mut self,
        name: &str,
        args: &[&str],
        different: Option<[i32; 2]>,
    ) -> Result<Option<[String; 2]>, PeerError> {
        let theirs = run_within(LIMIT, tool(name)?.args(args))?;
        let ours = self.links.run(name, args)?;
        let status = [theirs.status.code(), ours.status.code()];
        if different.map_or(status[0] != status[1], |ends| status != ends.map(Some)) {
            let said = String::from_utf8_lossy(&ours.stderr);
            self.differs(args, &format!("{status:?} {said}"));
        }
        let output = [&theirs.stdout, &ours.stdout];
        let output = output.map(|text| String::from_utf8_lossy(text).into_owned());
        Ok(Some(output).filter(|_| status == [Some(0); 2]))
    }

    /// Both print the same, seen like this.
    fn same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        name: &str,
        args: &[&str],
        seen: impl Fn(&str) -> T,
    ) -> TestResult {
        if let Some(printed) = self.both(name, args)? {
            let [theirs, ours] = printed.map(|text| seen(&text));
            self.are_same(args, &theirs, &ours);
        }
        Ok(())
    }

    fn are_same<T: PartialEq + std::fmt::Debug>(&mut self, args: &[&str], theirs: &T, ours: &T) {
        if ours != theirs {
            self.differs(args, &format!("{theirs:?}\n{ours:?}"));
        }
    }

    /// Of an export, in bytes; 0 where there is none.
    fn size(&self, uri: &str) -> Result<u64, PeerError> {
        let size = self.links.run("nbdinfo", &["--size", uri])?;
        Ok(String::from_utf8_lossy(&size.stdout).trim().parse().unwrap_or(0))
    }

    fn differs(&mut self, args: &[&str], how: &str) {
        self.found.push(format!("{}: {args:?}: {how}", self.what));
    }

    fn end(self) -> TestResult {
        assert!(self.found.is_empty(), "theirs and ours:\n{}", self.found.join("\n"));
        Ok(())
    }
}

/// JSON, as far as it can be compared.
fn common(what: &str, text: &str) -> Value {
    let mut value = json(text);
    if has_wrong_size(what) {
        without(&mut value, &ABOUT_SIZE);
    }
    // An empty list and none at all say the same.
    for export in exports(&mut value) {
        if export["contexts"] == Value::Array(Vec::new()) {
            without(export, &["contexts"]);
        }
    }
    value
}

fn lines(what: &str, text: &str) -> Vec<String> {
    let is_wrong = |line: &str| {
        let key = line.trim_start().split(':').next().unwrap_or_default();
        has_wrong_size(what) && ABOUT_SIZE.contains(&key)
    };
    text.lines().filter(|line| !is_wrong(line)).map(str::to_owned).collect()
}

#[test]
fn nbdinfo_says_the_same() -> TestResult {
    let (mut beside, files) = (Beside::new()?, Files::new()?);
    let release = beside.release;
    for row in files.servers() {
        let (what, _server, uri) = row.start()?;
        beside.what = what;
        for args in [
            &["--json", &uri][..],
            &["--json", "--no-content", &uri],
            &["--list", "--json", "--no-content", &uri],
        ] {
            let ends = release.ends_for_all(what, args);
            if let Some(printed) = beside.both_end("nbdinfo", args, ends)? {
                let [theirs, ours] = printed.map(|text| common(what, &text));
                beside.are_same(args, &theirs, &release.json(what, ours));
            }
        }
        for args in [&[&*uri][..], &["--list", &uri]] {
            let ends = release.ends_for_all(what, args);
            if let Some(printed) = beside.both_end("nbdinfo", args, ends)? {
                let [theirs, ours] = printed.map(|text| lines(what, &text));
                beside.are_same(args, &theirs, &release.lines(what, ours));
            }
        }
        for args in [&["--size", &*uri][..], &["--size", "--json", &uri]] {
            let ends = release.ends_for_size(what);
            if let Some([theirs, ours]) = beside.both_end("nbdinfo", args, ends)? {
                beside.are_same(args, &theirs, &release.size(what, ours));
            }
        }
    }
    beside.end()
}

/// What nbdinfo is asked for with `--can` and `--is`.
const ABILITIES: [&str; 23] = [
    "connect",
    "read",
    "write",
    "block-status-payload",
    "cache",
    "df",
    "extended-headers",
    "fast-zero",
    "fast_zero",
    "fastzero",
    "flush",
    "fua",
    "multi-conn",
    "multiconn",
    "structured-reply",
    "structured replies",
    "trim",
    "zero",
    "tls",
    "read-only",
    "rotational",
    "readonly",
    "nonsense",
];

/// Of each server a few questions are asked; of all of them, each is asked of many.
#[test]
fn nbdinfo_answers_the_same() -> TestResult {
    let (mut beside, files) = (Beside::new()?, Files::new()?);
    for (number, row) in files.servers().into_iter().enumerate() {
        let (what, _server, uri) = row.start()?;
        beside.what = what;
        let asked = |(index, ability): &(usize, &str)| {
            let differs = beside.release.ends(what, ability).is_some();
            (differs || index % 5 == number % 5) && beside.release.knows(ability)
        };
        let asked: Vec<_> = ABILITIES.into_iter().enumerate().filter(asked).collect();
        for (_, ability) in asked {
            let ends = beside.release.ends(what, ability);
            for question in ["--can", "--is"] {
                beside.both_end("nbdinfo", &[question, ability, &uri], ends)?;
            }
            // They have no such question before 1.20; no is yes there.
            let yes = beside.links.run("nbdinfo", &["--can", ability, &uri])?.status.code();
            for question in ["--cannot", "--isnt", "--hasnt"] {
                let no = beside.links.run("nbdinfo", &[question, ability, &uri])?.status.code();
                let expected = match yes {
                    Some(0) => Some(2),
                    Some(2) => Some(0),
                    failed => failed,
                };
                assert_eq!(no, expected, "{what}: {question} {ability}");
            }
        }
    }
    beside.what = "nowhere";
    let nowhere = "nbd+unix:///?socket=/nowhere";
    beside.both_end("nbdinfo", &["--can", "connect", nowhere], Some(NOT_CONNECTED))?;
    beside.both("nbdinfo", &["--can", "trim", nowhere])?;
    beside.end()
}

#[test]
fn nbdinfo_draws_the_same_maps() -> TestResult {
    /// So many bytes in parts of at most 4 GiB are asked about for years, by both.
    const LARGEST: u64 = 1 << 60;
    let (mut beside, files) = (Beside::new()?, Files::new()?);
    for row in files.servers() {
        let (what, _server, uri) = row.start()?;
        beside.what = what;
        if beside.size(&uri)? > LARGEST {
            continue;
        }
        for map in ["--map", "--map=qemu:allocation-depth", "--map=qemu:dirty-bitmap:bitmap1"] {
            if beside.both("nbdinfo", &[map, &uri])?.is_some() {
                beside.same("nbdinfo", &[map, &uri], str::to_owned)?;
                beside.same("nbdinfo", &[map, "--totals", &uri], str::to_owned)?;
                beside.same("nbdinfo", &[map, "--json", &uri], json)?;
                beside.same("nbdinfo", &[map, "--totals", "--json", &uri], rounded)?;
            }
        }
    }
    beside.end()
}

fn rounded(text: &str) -> Value {
    let mut rows = json(text);
    for row in rows.as_array_mut().into_iter().flatten() {
        if let Some(told) = row.get_mut("percent") {
            *told = told.as_f64().map(percent).into();
        }
    }
    rows
}

#[test]
fn nbddump_prints_the_same() -> TestResult {
    let (mut beside, files) = (Beside::new()?, Files::new()?);
    for row in files.servers() {
        let (what, _server, uri) = row.start()?;
        beside.what = what;
        for length in ["0", "1", "17", "48", "4096", "70000"] {
            let args = ["-n", length, &uri];
            let theirs = run_within(LIMIT, tool("nbddump")?.args(args))?;
            let ours = beside.links.run("nbddump", &args)?;
            let [told, ours_told] = [&theirs, &ours].map(|f| String::from_utf8_lossy(&f.stdout));
            let same = match (theirs.status.success(), ours.status.success()) {
                (true, true) => same_dump(&ours_told, &told),
                (false, true) => READS_WHOLE_BLOCKS,
                (true, false) => false,
                (false, false) => true,
            };
            if !same {
                beside.differs(&args, &format!("{told}\n{ours_told}"));
            }
        }
    }
    beside.end()
}

#[test]
fn nbdcopy_copies_the_same() -> TestResult {
    /// More than that would only take long.
    const MOST: u64 = 16 * MIB;
    let (mut beside, files, scratch) = (Beside::new()?, Files::new()?, Scratch::new()?);
    let mut copied = 0;
    for row in files.servers() {
        let (what, _server, uri) = row.start()?;
        beside.what = what;
        if beside.size(&uri)? > MOST {
            continue;
        }
        let [theirs, ours] = ["theirs", "ours"].map(|name| scratch.join(name));
        let end = run_within(LIMIT, tool("nbdcopy")?.args([&uri, &arg(&theirs)]))?.status;
        let our_end = beside.links.run("nbdcopy", &[&uri, &arg(&ours)])?.status;
        if our_end.success() != end.success() {
            beside.differs(&[&uri], &format!("{end} {our_end}"));
        } else if end.success() {
            if fs::read(&ours).unwrap() != fs::read(&theirs).unwrap() {
                beside.differs(&[&uri], "other bytes");
            }
            copied += 1;
        }
        // They leave a file behind where they fail, and may not have made one.
        let _ = (fs::remove_file(&theirs), fs::remove_file(&ours));
    }
    assert!(copied > 40, "{copied}");
    beside.end()
}
