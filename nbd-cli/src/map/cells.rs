//! A range cut into as many cells as a line has. Each is of the status that most of it has.

use std::collections::BTreeMap;
use std::ops::Range;

use nbd_client_blocking::Segment;

/// Statuses that are told apart; what is beyond counts as one more.
const MOST: usize = 16;

pub(super) struct Cells {
    range: Range<u64>,
    /// Bytes of each status, for each cell of each context.
    contexts: Vec<Vec<BTreeMap<u64, u64>>>,
    /// The same of the whole range.
    sums: Vec<BTreeMap<u64, u64>>,
}

impl Cells {
    /// So many cells, or as many as there are bytes.
    pub(super) fn new(range: Range<u64>, contexts: usize, count: usize) -> Self {
        let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let cells = vec![BTreeMap::new(); count.min(bytes)];
        Self { range, contexts: vec![cells; contexts], sums: vec![BTreeMap::new(); contexts] }
    }

    pub(super) fn add(&mut self, segment: &Segment) {
        let end = segment.offset + segment.length;
        for ((cells, sums), status) in
            self.contexts.iter_mut().zip(&mut self.sums).zip(&segment.statuses)
        {
            count(sums, *status, segment.length);
            let (first, last) = (
                place(&self.range, segment.offset, cells.len()),
                place(&self.range, end - 1, cells.len()),
            );
            let total = cells.len();
            for (index, cell) in cells.iter_mut().enumerate().take(last + 1).skip(first) {
                let cell_range = bounds(&self.range, index, total);
                let part = end.min(cell_range.end) - segment.offset.max(cell_range.start);
                count(cell, *status, part);
            }
        }
    }

    /// What most of each cell is, by a context.
    pub(super) fn of(&self, context: usize) -> impl Iterator<Item = u64> + '_ {
        let cells = self.contexts.get(context).map_or(&[][..], Vec::as_slice);
        cells.iter().map(|cell| {
            let most = cell.iter().max_by_key(|(status, bytes)| (**bytes, !**status));
            most.map_or(0, |(status, _)| *status)
        })
    }

    /// Bytes of each status, by a context.
    pub(super) fn sums(&self, context: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.sums.get(context).into_iter().flatten().map(|(status, bytes)| (*status, *bytes))
    }

    pub(super) const fn range(&self) -> &Range<u64> {
        &self.range
    }
}

fn count(statuses: &mut BTreeMap<u64, u64>, status: u64, bytes: u64) {
    let known = statuses.len() < MOST || statuses.contains_key(&status);
    *statuses.entry(if known { status } else { u64::MAX }).or_default() += bytes;
}

/// The cell in which an offset lies.
fn place(range: &Range<u64>, offset: u64, cells: usize) -> usize {
    let (at, size) = (u128::from(offset - range.start), u128::from(range.end - range.start));
    // The first cell whose end lies behind it.
    (((at + 1) * cells as u128).div_ceil(size.max(1)) as usize).saturating_sub(1)
}

fn bounds(range: &Range<u64>, cell: usize, cells: usize) -> Range<u64> {
    let size = u128::from(range.end - range.start);
    let edge = |cell: usize| range.start + (size * cell as u128 / cells.max(1) as u128) as u64;
    edge(cell)..edge(cell + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_cell() {
        for (size, cells) in [(1, 1), (7, 3), (100, 7), (1 << 20, 61), (u64::MAX, 13)] {
            let range = 0..size;
            let mut end = 0;
            for cell in 0..cells {
                let bounds = bounds(&range, cell, cells);
                assert_eq!(bounds.start, end);
                for offset in [bounds.start, bounds.end - 1] {
                    assert_eq!(place(&range, offset, cells), cell, "{size} {cells} {offset}");
                }
                end = bounds.end;
            }
            assert_eq!(end, size);
        }
    }
}
