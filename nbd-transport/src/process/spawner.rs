//! The thread that starts programs.
//!
//! A program may ask to be killed when its parent ends, as `nbdkit --exit-with-parent` does. To Linux the parent
//! is the *thread* that started it, so a connection made in a short-lived thread, or moved out of
//! one, would lose its server. One thread, as lasting as this process, starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();

/// Starts a program.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        // Without the thread the inbox is gone, and each order fails.
        let _ = thread::Builder::new().name("nbd-spawn".to_owned()).spawn(move || {
            for (mut command, answer) in inbox {
                let result = command.spawn();
                // Its end of the connection goes first: when the program dies nobody must be left
                // to hold what nobody serves.
                drop(command);
                let _ = answer.send(result);
            }
        });
        orders
    });
    let gone = || io::Error::other("the thread that starts programs is gone");
    let (answer, result) = channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}
