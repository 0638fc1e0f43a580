//! One run of the machine.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

use super::image::LAST_WORD;
use super::kit::Kit;

/// The emulator, ended and reaped when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already, most likely.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the machine with an image, shows what it says, and waits for its end. Returns the lines
/// that were shown.
///
/// # Errors
///
/// When the script fails, the machine ends without it, or `patience` is over.
pub(super) fn run(kit: &Kit, image: &Path, patience: Duration) -> Outcome<Vec<String>> {
    let end = Instant::now() + patience;
    let mut command = Command::new(&kit.emulator);
    let share = |name: &str| kit.root.join("usr/share").join(name);
    command.env("LD_LIBRARY_PATH", kit.root.join("usr/lib/x86_64-linux-gnu"));
    command.arg("-L").arg(share("qemu")).arg("-L").arg(share("seabios"));
    command.args(["-accel", "tcg", "-m", "1024", "-smp", "2", "-display", "none", "-nic", "none"]);
    command.args(["-no-reboot", "-monitor", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&kit.kernel).arg("-initrd").arg(image);
    // Programs read that clock without asking the kernel, as on real machines.
    let clock = "no_timer_check tsc=reliable clocksource=tsc";
    let words = format!("console=ttyS0 quiet loglevel=1 panic=-1 {clock}");
    command.arg("-append").arg(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let failed = |error| format!("cannot start {}: {error}", kit.emulator.display());
    let mut machine = Machine(command.spawn().map_err(failed)?);
    let output = machine.0.stdout.take().ok_or("the machine has no output")?;
    let (say, hear) = channel();
    // It ends with the machine.
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.by_ref().read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if say.send(readable(&line)).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut said = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match hear.recv_timeout(left) {
            Ok(line) => match line.split_once(LAST_WORD) {
                Some((_, "0")) => return Ok(said),
                Some((_, status)) => return Err(format!("the script ended with {status}")),
                None if line.is_empty() => {}
                None => {
                    eprintln!("    | {line}");
                    said.push(line);
                }
            },
            Err(RecvTimeoutError::Timeout) => return Err(format!("not done in {patience:?}")),
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the machine ended before the script did".to_owned());
            }
        }
    }
}

/// A line of a terminal without what is meant for terminals.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut readable = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // An escape sequence ends with a letter.
            '\u{1b}' => drop(letters.by_ref().find(|end| end.is_ascii_alphabetic())),
            letter if letter.is_control() => {}
            letter => readable.push(letter),
        }
    }
    readable
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn what_is_meant_for_terminals_is_left_out() {
        assert_eq!(readable(b"\x1b[2J\x1bca\tb\r\n"), "ab");
        assert_eq!(readable(b"\xff\n"), "\u{fffd}");
    }
}
