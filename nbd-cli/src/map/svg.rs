//! A picture of a map.

use std::fmt::Write;

use super::cells::Cells;
use super::describe;

/// Cells in a line.
pub(super) const CELLS: usize = 800;

/// Sizes in pixels.
const HEIGHT: usize = 36;
const LINE: usize = 20;
const MARGIN: usize = 12;

const PAINT: [&str; 6] = ["#2f6fb0", "#c9ccd1", "#7fc4cf", "#eceef1", "#e0a030", "#9a5fb5"];

pub(super) fn render(names: &[&str], cells: &Cells) -> String {
    let lines: usize = (0..names.len()).map(|index| cells.sums(index).count() + 1).sum();
    let height = MARGIN + names.len() * (HEIGHT + MARGIN) + lines * LINE;
    let width = CELLS + 2 * MARGIN;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let mut y = MARGIN;
    for (index, name) in names.iter().enumerate() {
        let _ = writeln!(text, "<text x=\"{MARGIN}\" y=\"{}\">{}</text>", y + 12, escape(name));
        y += LINE;
        strip(&mut text, cells, index, y);
        y += HEIGHT + MARGIN;
        for (status, bytes) in cells.sums(index) {
            let words = describe(name, status).unwrap_or_else(|| status.to_string());
            let size = indicatif::BinaryBytes(bytes);
            let _ = writeln!(
                text,
                "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\" \
                 stroke=\"#888888\"/><text x=\"{}\" y=\"{}\">{} {size}</text>",
                y,
                paint(status),
                MARGIN + 20,
                y + 11,
                escape(&words)
            );
            y += LINE;
        }
    }
    text += "</svg>\n";
    text
}

/// Neighbours of one colour are one rectangle.
fn strip(text: &mut String, cells: &Cells, context: usize, y: usize) {
    let mut run: Option<(usize, usize, u64)> = None;
    let count = cells.of(context).count().max(1);
    let mut draw = |run: Option<(usize, usize, u64)>| {
        let Some((from, to, status)) = run else { return };
        let edge = |cell: usize| MARGIN + cell * CELLS / count;
        let _ = writeln!(
            text,
            "<rect x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{HEIGHT}\" fill=\"{}\"/>",
            edge(from),
            edge(to) - edge(from),
            paint(status)
        );
    };
    for (cell, status) in cells.of(context).enumerate() {
        run = match run {
            Some((from, _, last)) if last == status => Some((from, cell + 1, status)),
            run => {
                draw(run);
                Some((cell, cell + 1, status))
            }
        };
    }
    draw(run);
}

fn paint(status: u64) -> &'static str {
    PAINT[usize::try_from(status).unwrap_or(usize::MAX).min(PAINT.len() - 1)]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
