//! Copies to and from a server that forgets what was not flushed, with both ends killed at
//! moments that follow from a seed: whoever says that it is done has done it for good.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nbd_sim::lossy::{Fate, Lossy, Request};
use nbd_sim::peer::Scratch;
use nbd_sim::rng::Rng;
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Content, LIMIT, MIB, TestResult, arg, ended_by_signals};

/// How many stories are told; by hand more of them, such as
/// `NBD_COPY_SEEDS=60 cargo test -p nbd-cli --test commands lossy`.
fn seeds() -> u64 {
    std::env::var("NBD_COPY_SEEDS").map_or(6, |seeds| seeds.parse().expect("a number"))
}

#[test]
fn whole_or_not_done() -> TestResult {
    let (mut crashes, mut attempts) = (0, 0);
    for seed in 0..seeds() {
        let story = Story::new(seed)?;
        attempts += story.tell();
        crashes += story.server.crashes();
    }
    // Each attempt ends with a crash that no copy could notice.
    let noticed = crashes.saturating_sub(attempts);
    println!("{noticed} crashes were noticed, in {attempts} attempts");
    assert!(noticed > seeds() / 2 && attempts > seeds());
    Ok(())
}

/// The copy that is under way, and what is to become of it.
#[derive(Debug, Default)]
struct Copy {
    child: Option<Child>,
    /// A signal was sent.
    killed: bool,
}

/// Decides what happens at which request.
struct Plot {
    rng: Rng,
    copy: Arc<Mutex<Copy>>,
    /// The numbers of the requests at which the server crashes.
    crashes: Vec<u64>,
    /// Those at which the copy is killed.
    kills: Vec<u64>,
    /// The server crashes at flushes only.
    at_flushes: bool,
}

impl Plot {
    fn fate(&mut self, request: Request) -> Fate {
        let is_due = |times: &mut Vec<u64>| times.pop_if(|at| *at <= request.number).is_some();
        if is_due(&mut self.kills) {
            let mut copy = self.copy.lock().unwrap();
            copy.killed = true;
            let signal = self.rng.pick(&[Signal::KILL, Signal::KILL, Signal::INT]);
            // It is not reaped as long as it is here, so the number is its own.
            if let Some(child) = &copy.child {
                kill_process(Pid::from_child(child), signal).unwrap();
            }
        }
        if (!self.at_flushes || request.kind == 3) && is_due(&mut self.crashes) {
            return self.rng.pick(&[Fate::CrashBefore, Fate::CrashAfter]);
        }
        Fate::Answered
    }
}

struct Story {
    seed: u64,
    scratch: Scratch,
    server: Lossy,
    copy: Arc<Mutex<Copy>>,
    /// What is to be there in the end.
    content: Vec<u8>,
    /// The file at the other end.
    file: PathBuf,
    to_server: bool,
    /// The source is standard input, or a pipe from which it can be read once.
    stream: bool,
    options: Vec<String>,
    /// How many more of these there will be.
    attempts: usize,
}

impl Story {
    fn new(seed: u64) -> Result<Self, nbd_sim::peer::PeerError> {
        let mut rng = Rng::new(seed);
        let scratch = Scratch::new()?;
        let size = rng.pick(&[MIB, 5 * MIB + 4096, 24 * MIB, 96 * MIB]);
        let content = rng.pick(&[Content::Random, Content::Sparse]);
        let image = content.image(&scratch, "image", size);
        let content = fs::read(&image).unwrap();
        let (to_server, stream) = (!rng.one_in(4), rng.one_in(4));
        let request = rng.pick(&[16, 64, 256]);
        // About so many requests there are, if nothing goes wrong.
        let requests = size as usize / (request << 10) + 1;
        let times = |rng: &mut Rng, times: usize| {
            let mut times: Vec<_> = (0..times).map(|_| rng.below(requests) as u64).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times
        };
        let (crashes, kills) = (rng.between(1, 6), rng.below(4));
        let (crashes, kills) = (times(&mut rng, crashes), times(&mut rng, kills));
        let attempts = kills.len() + 1;
        let mut options = vec![
            // The server may hang up on a few before it says a word.
            "--wait=300".to_owned(),
            format!("--request-size={request}k"),
            format!("--connections={}", rng.between(1, 4)),
            format!("--requests={}", rng.pick(&[1, 4, 64])),
        ];
        let mut option = |chance, name: &str| {
            if rng.one_in(chance) {
                options.push(name.to_owned());
            }
        };
        option(3, "--verify");
        option(5, "--no-extents");
        let resume = format!("--resume={}", arg(&scratch.join("state")));
        if !stream || !to_server {
            option(1, &resume);
        }
        let (at_flushes, mut noise) = (rng.one_in(3), vec![0; content.len()]);
        rng.fill(&mut noise);
        let copy = Arc::<Mutex<Copy>>::default();
        let mut plot =
            Plot { rng: rng.fork(), copy: Arc::clone(&copy), crashes, kills, at_flushes };
        let disk = if to_server { noise } else { content.clone() };
        let server = Lossy::start(disk, rng.bits(), move |request| plot.fate(request));
        let file = if to_server { image } else { scratch.join("copy") };
        Ok(Self {
            seed,
            scratch,
            server,
            copy,
            content,
            file,
            to_server,
            stream: stream && to_server,
            options,
            attempts,
        })
    }

    /// Copies until it is done; tells how many attempts that took.
    fn tell(&self) -> u64 {
        println!("seed {}: {:?}", self.seed, self.options);
        for attempt in 1..=self.attempts as u64 {
            let (done, killed, said) = self.attempt();
            let seed = self.seed;
            assert!(!said.contains("panicked"), "seed {seed}: {said}");
            if done {
                // What was promised is still there when the server dies now.
                self.server.crash();
                let copied = match self.to_server {
                    true => self.server.bytes(),
                    false => fs::read(&self.file).unwrap(),
                };
                let differs = copied.iter().zip(&self.content).position(|(a, b)| a != b);
                assert_eq!((differs, copied.len()), (None, self.content.len()), "seed {seed}");
                assert!(!self.scratch.join("state").exists(), "seed {seed}: the state is left");
                return attempt;
            }
            // It goes on when the server dies, whenever that is.
            assert!(killed, "seed {seed}: {said}");
            if self.stream {
                return attempt;
            }
            self.server.crash();
        }
        panic!("seed {}: it is never done", self.seed);
    }

    /// Whether it was done, whether it was killed, and what it said.
    fn attempt(&self) -> (bool, bool, String) {
        let (file, uri) = (arg(&self.file), self.server.uri());
        let mut command = ended_by_signals();
        command.arg("copy").args(&self.options);
        match (self.to_server, self.stream) {
            (true, true) => {
                command.stdin(fs::File::open(&self.file).unwrap()).args(["-", &uri]);
            }
            (true, false) => drop(command.args([&file, &uri])),
            (false, _) => drop(command.args([&uri, &file])),
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        *self.copy.lock().unwrap() = Copy { child: Some(child), killed: false };
        let deadline = Instant::now() + LIMIT;
        let (status, killed) = loop {
            {
                let mut copy = self.copy.lock().unwrap();
                if let Some(status) = copy.child.as_mut().and_then(|c| c.try_wait().unwrap()) {
                    copy.child = None;
                    break (status, copy.killed);
                }
                if Instant::now() > deadline {
                    let mut child = copy.child.take().unwrap();
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("seed {}: it hangs", self.seed);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        (status.success(), killed, said)
    }
}
