//! A line for each context in a terminal, and what its colours mean.

use std::fmt::Write;

use super::cells::Cells;
use super::describe;

/// Where the width of the terminal is not known.
const WIDTH: usize = 80;

/// Colours of a terminal, in the order in which statuses come, and what stands for them where
/// there is no colour.
const LOOKS: [(&str, char); 6] = [
    ("\x1b[44m", '#'),
    ("\x1b[100m", '.'),
    ("\x1b[46m", '0'),
    ("\x1b[47m", ' '),
    ("\x1b[43m", '%'),
    ("\x1b[45m", '+'),
];
const PLAIN: &str = "\x1b[0m";

/// How many columns the terminal has.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(WIDTH, |size| usize::from(size.ws_col)).clamp(20, 400)
}

pub(super) fn render(names: &[&str], cells: &Cells, color: bool) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        if names.len() > 1 {
            let _ = writeln!(text, "{name}");
        }
        let cells_of: Vec<u64> = cells.of(index).collect();
        for run in cells_of.chunk_by(|a, b| a == b) {
            text += &look(run[0], run.len(), color);
        }
        text.push('\n');
        for (status, bytes) in cells.sums(index) {
            let size = (cells.range().end - cells.range().start).max(1);
            let words = describe(name, status).unwrap_or_else(|| status.to_string());
            let percent = 100.0 * bytes as f64 / size as f64;
            let _ = writeln!(
                text,
                " {} {words:12} {:>12} {percent:5.1}%",
                look(status, 1, color),
                indicatif::BinaryBytes(bytes).to_string()
            );
        }
        text.push('\n');
    }
    text
}

/// So many cells.
fn look(status: u64, count: usize, color: bool) -> String {
    let (paint, sign) = LOOKS[usize::try_from(status).unwrap_or(usize::MAX).min(LOOKS.len() - 1)];
    if color { format!("{paint}{:count$}{PLAIN}", "") } else { sign.to_string().repeat(count) }
}
