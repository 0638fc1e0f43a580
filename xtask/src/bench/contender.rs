//! A program under measurement: ours, or the one on libnbd.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Load;
use crate::Outcome;
use crate::steps::{capture, run};
use crate::workspace::{nbd_program, root, target_dir};

/// A benchmark program. All take the same options and print the same JSON.
pub(super) struct Contender {
    name: &'static str,
    program: PathBuf,
    /// Arguments before the options.
    prefix: &'static [&'static str],
}

/// What one round of a program gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measurement {
    /// Requests a second.
    pub(super) ops_per_s: f64,
    /// 2^20 bytes a second.
    pub(super) mib_per_s: f64,
    /// System calls for one request, if the program counts them.
    pub(super) syscalls_per_op: Option<f64>,
}

impl Contender {
    /// Our program first, then the one on libnbd where that can be compiled.
    pub(super) fn all() -> Outcome<Vec<Self>> {
        let ours = Self { name: "nbd", program: nbd_program()?, prefix: &["bench", "--json"] };
        Ok([ours].into_iter().chain(Self::libnbd()?).collect())
    }

    /// The clients of `nbd-bench`, the blocking one first.
    pub(super) fn adapters() -> Outcome<Vec<Self>> {
        const CLIENTS: [&[&str]; 5] =
            [&["blocking"], &["mio"], &["tokio"], &["tokio-threads"], &["smol"]];
        let program = target_dir()?.join("release/nbd-bench");
        let client =
            |prefix: &'static [&str]| Self { name: prefix[0], program: program.clone(), prefix };
        Ok(CLIENTS.into_iter().map(client).collect())
    }

    /// The client of `nbd-bench` that decrypts nothing.
    pub(super) fn unread() -> Outcome<Self> {
        let program = target_dir()?.join("release/nbd-bench");
        Ok(Self { name: "unread", program, prefix: &["unread"] })
    }

    /// The program on libnbd, where that can be compiled.
    pub(super) fn libnbd() -> Outcome<Option<Self>> {
        if Path::new("/usr/include/libnbd.h").is_file() {
            let program = target_dir()?.join("release/libnbd-aio");
            let mut cc = Command::new("cc");
            cc.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program);
            run(cc.arg(root().join("bench/libnbd-aio.c")).arg("-lnbd"))?;
            Ok(Some(Self { name: "libnbd", program, prefix: &[] }))
        } else {
            eprintln!("libnbd-dev is not installed: it is not measured");
            Ok(None)
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The program and its arguments for `count` requests of a load.
    pub(super) fn words(&self, load: &Load, count: u32, uri: &str) -> Vec<OsString> {
        let mut words = vec![self.program.clone().into_os_string()];
        words.extend(self.prefix.iter().map(Into::into));
        let (depth, count) = (load.depth.to_string(), count.to_string());
        let options = [
            ("--rw", load.direction),
            ("--pattern", "rand"),
            ("--size", load.size),
            ("--depth", &depth),
            ("--count", &count),
        ];
        words.extend(options.iter().flat_map(|(option, value)| [option.into(), value.into()]));
        words.push(uri.into());
        words
    }

    /// Runs one round.
    pub(super) fn measure(&self, load: &Load, uri: &str) -> Outcome<Measurement> {
        let words = self.words(load, load.count, uri);
        let (json, _) = capture(Command::new(&self.program).args(&words[1..]))?;
        Measurement::parse(&json)
            .ok_or_else(|| format!("{} printed no measurement but: {json}", self.name))
    }
}

impl Measurement {
    pub(super) fn parse(json: &str) -> Option<Self> {
        Some(Self {
            ops_per_s: number(json, "ops_per_s")?,
            mib_per_s: number(json, "mib_per_s")?,
            syscalls_per_op: number(json, "syscalls_per_op"),
        })
    }
}

/// The number that stands under a key which occurs once in a JSON text.
fn number(json: &str, key: &str) -> Option<f64> {
    let (_, after) = json.split_once(&format!("\"{key}\""))?;
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)));
    value.get(..end.unwrap_or(value.len()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Measurement;

    #[test]
    fn both_programs_are_understood() {
        let ours = r#"{
            "ops_per_s": 41234.5, "mib_per_s" : 161.07,
            "latency_us": {"p50": 1500, "p99": 2100.5, "p99_9": 3e3}, "syscalls_per_op": 0.25
        }"#;
        let expected =
            Measurement { ops_per_s: 41234.5, mib_per_s: 161.07, syscalls_per_op: Some(0.25) };
        assert_eq!(Measurement::parse(ours), Some(expected));
        let theirs = "{\"ops_per_s\": 7, \"mib_per_s\": 2.5e-1}\n";
        let expected = Measurement { ops_per_s: 7.0, mib_per_s: 0.25, syscalls_per_op: None };
        assert_eq!(Measurement::parse(theirs), Some(expected));
    }

    #[test]
    fn anything_else_is_no_measurement() {
        for text in ["", "{}", r#"{"ops_per_s": 1}"#, r#"{"ops_per_s": "1", "mib_per_s": 2}"#] {
            assert_eq!(Measurement::parse(text), None, "{text}");
        }
    }
}
