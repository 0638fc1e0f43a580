//! Showing how far a copy is, by a thread of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::Copied;
use super::progress::Progress;
use crate::compat::program;
use crate::failure::{self, Failure};
use crate::output::{columns, is_heard, mention, show_bar};

/// From one picture of the bar to the next.
const FRAME: Duration = Duration::from_millis(100);
/// From one line to the next, where standard error is no terminal.
const LINE: Duration = Duration::from_secs(1);
/// Without a byte for so long, it is said that nothing moves.
const STALLED: Duration = Duration::from_secs(3);
/// How long the end of the copy waits for the last picture.
const PATIENCE: Duration = Duration::from_secs(2);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// On standard error: a bar on a terminal, else a line now and then.
    Bar,
    /// Lines of JSON on standard error.
    Json,
    /// Lines `N/100` on a descriptor of this number.
    Descriptor(u32),
}

impl Form {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "bar" => Ok(Self::Bar),
            "json" => Ok(Self::Json),
            number => number
                .parse()
                .map(Self::Descriptor)
                .map_err(|_| "the number of a descriptor is wanted, `json`, or nothing".to_owned()),
        }
    }

    /// Makes sure that there is something to write it to.
    pub(super) fn check(self) -> failure::Result<()> {
        match self {
            Self::Bar | Self::Json => Ok(()),
            Self::Descriptor(number) => match fs::metadata(format!("/dev/fd/{number}")) {
                Ok(_) => Ok(()),
                Err(_) => Err(Failure::new(format!("--progress: descriptor {number} is not open"))),
            },
        }
    }
}

/// Shows progress to a person until it is dropped. Whoever copies never waits for it.
#[derive(Debug)]
pub(super) struct Display {
    /// Dropped to end it.
    running: Option<Sender<()>>,
    /// Closed when it has ended.
    drawn: Receiver<()>,
}

impl Display {
    pub(super) fn start(progress: &Arc<Progress>, total: Option<u64>, form: Form) -> Self {
        let (running, end) = mpsc::channel::<()>();
        let (drawing, drawn) = mpsc::channel();
        let progress = Arc::clone(progress);
        let mut picture = Picture::new(total, form);
        let draw = move || {
            let _drawing: Sender<()> = drawing;
            let mut waiting = true;
            while waiting {
                let wait = end.recv_timeout(picture.interval());
                waiting = matches!(wait, Err(RecvTimeoutError::Timeout));
                picture.draw(progress.copied(), !waiting);
            }
        };
        // Without a thread for it there is no picture, but the copy goes on.
        let started = thread::Builder::new().name("progress".to_owned()).spawn(draw);
        Self { running: started.is_ok().then_some(running), drawn }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if self.running.take().is_some() {
            // The last picture comes before what the program says next, unless nobody looks.
            let _ = self.drawn.recv_timeout(PATIENCE);
        }
    }
}

/// What is drawn.
struct Picture {
    total: Option<u64>,
    pen: Pen,
    begun: Instant,
    bytes: u64,
    moved: Instant,
}

/// What it is drawn with.
enum Pen {
    Bar(ProgressBar),
    Lines,
    Json,
    Percent(File),
    /// The descriptor cannot be written to.
    Nothing,
}

impl Pen {
    fn new(total: Option<u64>, form: Form) -> Self {
        match form {
            Form::Bar if io::stderr().is_terminal() => Self::Bar(bar(total)),
            Form::Bar => Self::Lines,
            Form::Json => Self::Json,
            Form::Descriptor(number) => {
                let file = OpenOptions::new().append(true).open(format!("/dev/fd/{number}"));
                file.map_or(Self::Nothing, Self::Percent)
            }
        }
    }
}

impl Picture {
    fn new(total: Option<u64>, form: Form) -> Self {
        let now = Instant::now();
        Self { total, pen: Pen::new(total, form), begun: now, bytes: 0, moved: now }
    }

    const fn interval(&self) -> Duration {
        match self.pen {
            Pen::Bar(_) | Pen::Percent(_) => FRAME,
            Pen::Lines | Pen::Json | Pen::Nothing => LINE,
        }
    }

    fn draw(&mut self, copied: Copied, last: bool) {
        let bytes = copied.bytes();
        if bytes != self.bytes {
            (self.bytes, self.moved) = (bytes, Instant::now());
        }
        let stalled = !last && self.moved.elapsed() >= STALLED;
        let (line, json) = (self.line(stalled), self.json(copied, last));
        let percent = self.percent();
        match &mut self.pen {
            Pen::Bar(bar) if is_heard(0) => {
                bar.set_message(if stalled { "stalled" } else { "" });
                bar.set_position(bytes);
                bar.tick();
                show_bar(!last);
                if last {
                    bar.finish_and_clear();
                }
            }
            Pen::Lines => mention(&line),
            Pen::Json => mention(&json),
            // Whoever gave the descriptor reads it; nobody else waits for that.
            Pen::Percent(file) => drop(writeln!(file, "{percent}/100")),
            Pen::Bar(_) | Pen::Nothing => {}
        }
    }

    /// How much of it is done; all, when there is nothing to do.
    fn percent(&self) -> u64 {
        let total = u128::from(self.total.unwrap_or(u64::MAX));
        let percent = (u128::from(self.bytes) * 100).checked_div(total);
        percent.map_or(100, |percent| percent.min(100) as u64)
    }

    fn json(&self, copied: Copied, last: bool) -> String {
        let line = json!({
            "version": 1,
            "bytes": self.bytes,
            "data": copied.data,
            "zeroes": copied.zeroes,
            "again": copied.again,
            "lost": copied.lost,
            "total": self.total,
            "seconds": self.begun.elapsed().as_secs_f64(),
            "ended": last,
        });
        format!("{line}\n")
    }

    /// Such as `nbd: 45% 1.20 GiB of 2.60 GiB, 310.00 MiB/s, 4 seconds left`.
    fn line(&self, stalled: bool) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let rate = self.bytes as f64 / seconds;
        let mut line = match self.total {
            Some(total) => {
                let (done, total) = (BinaryBytes(self.bytes), BinaryBytes(total));
                format!("{}: {}% {done} of {total}", program(), self.percent())
            }
            None => format!("{}: {}", program(), BinaryBytes(self.bytes)),
        };
        if stalled {
            return line + ", stalled\n";
        }
        line += &format!(", {}/s", BinaryBytes(rate as u64));
        if let Some(left) = self.total.map(|total| total.saturating_sub(self.bytes))
            && left > 0
            && rate >= 1.0
        {
            let left = Duration::from_secs((left as f64 / rate) as u64);
            line += &format!(", {} left", HumanDuration(left));
        }
        line + "\n"
    }
}

/// Columns of a terminal that has room for everything about a copy.
const ROOMY: u16 = 72;

/// A bar over so many bytes, or a counter where the size is unknown.
fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) if columns(io::stderr()) < ROOMY => {
            "{wide_bar:.cyan} {percent:>3}% {binary_bytes_per_sec} {eta} {msg}"
        }
        Some(_) => {
            "{wide_bar:.cyan} {percent:>3}% {binary_bytes}/{binary_total_bytes} \
             {binary_bytes_per_sec} {eta} {msg}"
        }
        None => "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// What was done, in a line.
pub(super) fn summary(copied: &Copied, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = BinaryBytes((copied.bytes() as f64 / seconds) as u64);
    let bytes = BinaryBytes(copied.bytes());
    let (data, zeroes) = (BinaryBytes(copied.data), BinaryBytes(copied.zeroes));
    let name = program();
    let mut line = format!(
        "{name}: {bytes} in {seconds:.2} s, {rate}/s: {data} of data, {zeroes} of zeroes\n"
    );
    if copied.lost > 0 {
        let lost = if copied.lost == 1 { "connection was" } else { "connections were" };
        let again = BinaryBytes(copied.again);
        line +=
            &format!("{name}: {} {lost} lost and made again, {again} copied again\n", copied.lost);
    }
    line
}
