//! The thread that starts programs.
//!
//! A program may ask to be killed when its parent ends, as `nbdkit --exit-with-parent` does. To Linux the parent
//! is the *thread* that started it, so a connection made in a short-lived thread, or moved out of
//! one, would lose its server. One thread, as lasting as this process, starts them all.
//!
//! A process that forks leaves its threads behind: the child has the memory of one that is not
//! there. So each process makes its own.

use std::io;
use std::process::{self, Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

/// The thread of one process, and of those that were forked from it since.
#[derive(Debug)]
struct Spawner {
    process: u32,
    orders: Sender<Order>,
    of_a_fork: OnceLock<Box<Self>>,
}

static FIRST: OnceLock<Box<Spawner>> = OnceLock::new();

/// Starts a program.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts programs is gone");
    let (answer, result) = channel();
    of_this_process()?.orders.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn of_this_process() -> io::Result<&'static Spawner> {
    let process = process::id();
    let mut place = &FIRST;
    loop {
        let spawner = match place.get() {
            Some(spawner) => spawner,
            None => {
                // It exists before it is put in place: nothing may be half done when another
                // thread forks. When somebody else was faster, it goes unused.
                let spawner = Spawner::start(process)?;
                place.get_or_init(|| spawner)
            }
        };
        if spawner.process == process {
            return Ok(spawner);
        }
        place = &spawner.of_a_fork;
    }
}

impl Spawner {
    fn start(process: u32) -> io::Result<Box<Self>> {
        let (orders, inbox) = channel::<Order>();
        thread::Builder::new().name("nbd-spawn".to_owned()).spawn(move || {
            for (mut command, answer) in inbox {
                let result = command.spawn();
                // Its end of the connection goes first: when the program dies nobody must be left
                // to hold what nobody serves.
                drop(command);
                // Whoever gave the order waits for this.
                let _ = answer.send(result);
            }
        })?;
        Ok(Box::new(Self { process, orders, of_a_fork: OnceLock::new() }))
    }
}
