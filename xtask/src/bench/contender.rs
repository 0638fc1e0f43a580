//! A program under measurement.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::data::{Sample, Side};
use super::load::Load;
use crate::Outcome;
use crate::steps::{capture, run};
use crate::workspace::{has_program, root, target_dir};

/// A program that keeps requests in flight.
#[derive(Clone)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) side: Side,
    kind: Kind,
    /// Where it is to find libnbd, if not where the system has it.
    library: Option<PathBuf>,
    /// The only processor that it is to run on.
    processor: Option<u32>,
}

#[derive(Clone)]
enum Kind {
    /// Takes the options of `nbd-bench`, and prints what that prints.
    Bench {
        program: PathBuf,
        /// Arguments before the options.
        prefix: &'static [&'static str],
    },
    /// With its engine for NBD, or for files around the page cache.
    Fio { of_files: bool },
}

/// So long a client that polls stays awake, in microseconds.
const AWAKE: &str = "50";

const CLIENTS: [(&str, &[&str]); 8] = [
    ("blocking", &["blocking"]),
    ("blocking, busy polling", &["blocking", "--busy-poll-us", AWAKE]),
    ("mio", &["mio"]),
    ("tokio", &["tokio"]),
    ("tokio, busy polling", &["tokio", "--busy-poll-us", AWAKE]),
    ("tokio, its threads", &["tokio-threads"]),
    ("smol", &["smol"]),
    ("smol, busy polling", &["smol", "--busy-poll-us", AWAKE]),
];

impl Contender {
    /// The clients of this project, the blocking one first.
    pub(super) fn ours() -> Outcome<Vec<Self>> {
        CLIENTS.iter().map(|(name, prefix)| Self::bench(name, Side::Ours, prefix)).collect()
    }

    /// The blocking client.
    pub(super) fn blocking() -> Outcome<Self> {
        Self::bench("blocking", Side::Ours, &["blocking"])
    }

    /// The client for tokio, in one thread.
    pub(super) fn tokio() -> Outcome<Self> {
        Self::bench("tokio", Side::Ours, &["tokio"])
    }

    /// The loop that does no more than it must.
    pub(super) fn by_hand() -> Outcome<Self> {
        Self::bench("by hand", Side::Limit, &["by-hand"])
    }

    /// The client that decrypts nothing.
    pub(super) fn unread() -> Outcome<Self> {
        Self::bench("nothing decrypted", Side::Limit, &["unread"])
    }

    fn bench(name: &'static str, side: Side, prefix: &'static [&'static str]) -> Outcome<Self> {
        let program = target_dir()?.join("release/nbd-bench");
        Ok(Self {
            name,
            side,
            kind: Kind::Bench { program, prefix },
            library: None,
            processor: None,
        })
    }

    /// The loop in C on libnbd, where that can be compiled.
    pub(super) fn libnbd() -> Outcome<Option<Self>> {
        let kind = |program| Kind::Bench { program, prefix: &[] };
        let found = in_c("libnbd-aio")?.map(kind);
        Ok(found.map(|kind| Self {
            name: "libnbd",
            side: Side::Theirs,
            kind,
            library: None,
            processor: None,
        }))
    }

    /// fio, whose engine is libnbd, where it is installed.
    pub(super) fn fio() -> Option<Self> {
        Self::by_fio(false)
    }

    /// fio on a file that is named in place of a URI.
    pub(super) fn fio_on_file() -> Option<Self> {
        Self::by_fio(true)
    }

    fn by_fio(of_files: bool) -> Option<Self> {
        let (side, kind) = (Side::Theirs, Kind::Fio { of_files });
        has_program("fio").then_some(Self {
            name: "fio",
            side,
            kind,
            library: None,
            processor: None,
        })
    }

    /// The same program with another libnbd.
    pub(super) fn on(self, library: Option<PathBuf>) -> Self {
        Self { library, ..self }
    }

    /// The same on one processor only.
    pub(super) fn on_processor(self, processor: u32) -> Self {
        Self { processor: Some(processor), ..self }
    }

    /// Whether [`words`](Self::words) can be counted per request.
    pub(super) const fn is_countable(&self) -> bool {
        matches!(self.kind, Kind::Bench { .. })
    }

    /// The program and its arguments for `count` requests of a load; `pattern` is where.
    pub(super) fn words(&self, load: &Load, count: u64, pattern: &str, uri: &str) -> Vec<OsString> {
        let (depth, requests) = (load.depth.to_string(), count.to_string());
        match &self.kind {
            Kind::Bench { program, prefix } => {
                let mut words = vec![program.clone().into_os_string()];
                words.extend(prefix.iter().map(Into::into));
                let options = [
                    ("--rw", load.direction),
                    ("--pattern", pattern),
                    ("--size", load.size),
                    ("--depth", &depth),
                    ("--count", &requests),
                ];
                let pairs = options.iter().flat_map(|(name, value)| [name.into(), value.into()]);
                words.extend(pairs);
                words.push(uri.into());
                words
            }
            Kind::Fio { of_files } => {
                let bytes = load.bytes() * count;
                let mut words = vec![
                    "fio".to_owned(),
                    "--name=load".to_owned(),
                    "--output-format=json".to_owned(),
                    // From submitting on, as the others have it.
                    "--lat_percentiles=1".to_owned(),
                    "--clat_percentiles=0".to_owned(),
                    format!("--bs={}", load.size),
                    format!("--iodepth={depth}"),
                ];
                if *of_files {
                    words.extend(["--ioengine=libaio", "--direct=1"].map(Into::into));
                    words.push(format!("--filename={uri}"));
                } else {
                    words.push("--ioengine=nbd".to_owned());
                    words.push(format!("--uri={uri}"));
                }
                if pattern == "check" {
                    // It writes, reads what it has written, and compares.
                    words.extend(
                        ["--rw=write", "--verify=crc32c", "--verify_state_save=0"].map(Into::into),
                    );
                    words.push("--size=32M".to_owned());
                } else {
                    words.push(format!("--rw=rand{}", load.direction));
                    words.push("--norandommap".to_owned());
                    words.push("--size=256M".to_owned());
                    words.push(format!("--io_size={bytes}"));
                }
                words.into_iter().map(Into::into).collect()
            }
        }
    }

    /// Runs one round.
    ///
    /// # Errors
    /// The program failed, or did something else than it was told.
    pub(super) fn measure(&self, load: &Load, uri: &str) -> Outcome<Sample> {
        let json = self.said(&self.words(load, load.count, "rand", uri))?;
        let sample = match &self.kind {
            Kind::Bench { .. } => numbers(&json),
            Kind::Fio { .. } => fio(&json, load),
        };
        let done = sample.get("operations").copied().unwrap_or_default();
        if done != load.count as f64 {
            return Err(format!("{}: {done} requests of {} were done", self.name, load.count));
        }
        Ok(sample)
    }

    /// Goes over the whole export, where what is written is known and what is read is compared.
    pub(super) fn check(&self, load: &Load, uri: &str) -> Outcome {
        self.said(&self.words(load, load.count, "check", uri)).map(drop)
    }

    fn said(&self, words: &[OsString]) -> Outcome<Value> {
        let place =
            self.processor.map(|number| ["taskset".into(), "-c".into(), number.to_string().into()]);
        let mut words = place.iter().flatten().chain(words);
        // fio leaves files where it runs.
        let mut command = Command::new(words.next().ok_or("no program")?);
        command.args(words).current_dir(std::env::temp_dir());
        command.envs(self.library.iter().map(|directory| ("LD_LIBRARY_PATH", directory)));
        let (json, _) = capture(&mut command)?;
        // fio says that it is connected first.
        let object = json.find('{').and_then(|start| json.get(start..)).unwrap_or_default();
        serde_json::from_str(object)
            .map_err(|error| format!("{} printed no measurement but: {json} ({error})", self.name))
    }

    /// The numbers of another command that prints what `nbd-bench` does, or `nbd bench`.
    pub(super) fn numbers_of(command: &mut Command) -> Outcome<Sample> {
        let (json, _) = capture(command)?;
        let value = serde_json::from_str(&json);
        value.map(|value| numbers(&value)).map_err(|error| format!("no JSON but: {json} ({error})"))
    }
}

/// Compiles a program of ours in C, where there is libnbd.
pub(super) fn in_c(name: &str) -> Outcome<Option<PathBuf>> {
    if !Path::new("/usr/include/libnbd.h").is_file() {
        eprintln!("libnbd-dev is not installed: {name} is not measured");
        return Ok(None);
    }
    let program = target_dir()?.join("release").join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program);
    run(cc.arg(root().join("bench").join(name).with_extension("c")).arg("-lnbd"))?;
    Ok(Some(program))
}

/// The numbers in an object, those of objects in it too: `latency_us.p50` is `p50_us`.
pub(super) fn numbers(value: &Value) -> Sample {
    let mut sample = Sample::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64() {
            sample.insert(name.clone(), number);
        }
    }
    for (name, value) in value["latency_us"].as_object().into_iter().flatten() {
        sample.extend(value.as_f64().map(|number| (format!("{name}_us"), number)));
    }
    sample
}

/// What fio tells of its one job.
fn fio(json: &Value, load: &Load) -> Sample {
    let job = &json["jobs"][0];
    let done = &job[load.direction];
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let seconds = number(&done["runtime"]) / 1000.0;
    let micros = |rank: &str| number(&done["lat_ns"]["percentile"][rank]) / 1000.0;
    let operations = number(&done["total_ios"]);
    // Its clock has milliseconds; the rate is told more exactly.
    let exact = operations / number(&done["iops"]);
    Sample::from(
        [
            ("operations", operations),
            ("bytes", operations * load.bytes() as f64),
            ("seconds", if exact.is_finite() { exact } else { seconds }),
            ("user_s", number(&job["usr_cpu"]) / 100.0 * seconds),
            ("system_s", number(&job["sys_cpu"]) / 100.0 * seconds),
            ("p50_us", micros("50.000000")),
            ("p99_us", micros("99.000000")),
            ("p99_9_us", micros("99.900000")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LOAD: Load = Load { name: "a load", direction: "read", size: "4k", depth: 1, count: 7 };

    #[test]
    fn every_program_is_understood() {
        let sample = numbers(&json!({"operations": 7, "text": "x", "latency_us": {"p50": 1.5}}));
        assert_eq!((sample["operations"], sample["p50_us"], sample.len()), (7.0, 1.5, 2));
        let job = json!({"usr_cpu": 25.0, "sys_cpu": 50.0, "read": {
            "runtime": 2000, "total_ios": 7, "iops": 3.5,
            "lat_ns": {"percentile": {
                "50.000000": 1000, "99.000000": 2000, "99.900000": 3000
            }}
        }});
        let sample = fio(&json!({"jobs": [job]}), &LOAD);
        assert_eq!((sample["seconds"], sample["user_s"], sample["system_s"]), (2.0, 0.5, 1.0));
        assert_eq!((sample["bytes"], sample["p99_9_us"]), (7.0 * 4096.0, 3.0));
    }

    #[test]
    fn who_does_less_than_it_is_told_is_not_measured() {
        let says = |text: &'static str| {
            let kind = Kind::Bench { program: "/bin/echo".into(), prefix: &[] };
            let contender = Contender {
                name: "echo",
                side: Side::Theirs,
                kind,
                library: None,
                processor: None,
            };
            // It prints its words; the URI is the last one.
            contender.said(&["/bin/echo".into(), text.into()])
        };
        assert!(says("{}").is_ok() && says("no numbers").is_err());
        let kind = Kind::Bench { program: "/bin/sh".into(), prefix: &["-c", "echo {}"] };
        let contender =
            Contender { name: "idler", side: Side::Theirs, kind, library: None, processor: None };
        let told = contender.measure(&LOAD, "x").expect_err("it has done nothing");
        assert_eq!(told, "idler: 0 requests of 7 were done");
    }
}
