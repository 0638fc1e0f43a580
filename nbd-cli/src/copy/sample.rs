//! Whether a destination holds what was copied, by a sample: it may have been made anew since.

use std::ops::Range;
use std::sync::Arc;

use rangemap::RangeSet;

use super::destination::Destination;
use super::job::Job;
use super::part::Part;
use super::plan::{Compare, Plan};
use super::source::Source;
use super::transfer::{WorkerCount, transfer};
use super::workers::Regions;
use crate::failure::Result;
use crate::target::Target;

/// How much is looked at: so many parts of at least so many bytes.
const SAMPLES: u64 = 16;
const SAMPLE: u64 = 4096;

/// Reads a sample of what was copied, parts of the source in order, from both ends. Returns the
/// first byte that differs.
pub(super) fn check(
    copied: &[Range<u64>],
    (from, to): (&Target, &Target),
    part: &Part,
    plan: Plan,
) -> Result<Option<u64>> {
    let plan = Plan { compare: Some(Compare::First), ..plan };
    let source = Source::open(from, &plan)?;
    let end = source.size().map(|_| part.end());
    let (destination, _) = Destination::open(to, end, &plan)?;
    let plan = plan.between(&source, &destination);
    let sample = sample(copied, plan.block.max(source.block()) as u64);
    let job = Job::new(plan, part.clone(), 0..0, 1)?;
    let regions = Regions::new(sample, 1, plan.request_size as u64);
    let job = Arc::new(Job { regions, ..job });
    transfer(source, destination, &job, WorkerCount::ONE)?;
    Ok(job.differences.found().first)
}

/// Some of what was copied, in whole blocks of so many bytes, a power of two: the first and the
/// last of it, and blocks between them.
fn sample(copied: &[Range<u64>], block: u64) -> Vec<Range<u64>> {
    let length = block.max(SAMPLE);
    let whole: Vec<Range<u64>> = copied
        .iter()
        .map(|range| range.start.next_multiple_of(block)..range.end - range.end % block)
        .filter(|range| range.start < range.end)
        .collect();
    let bytes: u64 = whole.iter().map(|range| range.end - range.start).sum();
    let last = bytes.saturating_sub(length);
    let mut sample = RangeSet::new();
    for n in 0..SAMPLES {
        // The last one ends with the last byte.
        let mut at = if n == SAMPLES - 1 { last } else { last / (SAMPLES - 1) * n };
        for range in &whole {
            let here = range.end - range.start;
            if at < here {
                let start = range.start + at - at % block;
                sample.insert(start..(start + length).min(range.end));
                break;
            }
            at -= here;
        }
    }
    sample.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts and ends of what is looked at, and of what was copied.
    fn looked_at(copied: &[(u64, u64)], block: u64) -> Vec<(u64, u64)> {
        let copied: Vec<_> = copied.iter().map(|(start, end)| *start..*end).collect();
        sample(&copied, block).into_iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn whole_blocks_of_what_was_copied() {
        const MIB: u64 = 1 << 20;
        assert_eq!(looked_at(&[], 512), []);
        assert_eq!(looked_at(&[(5, 511)], 512), []);
        assert_eq!(looked_at(&[(5, 1500)], 512), [(512, 1024)]);
        assert_eq!(looked_at(&[(0, 10)], 1), [(0, 10)]);
        let many = looked_at(&[(MIB, 9 * MIB), (64 * MIB, 72 * MIB)], 512);
        assert_eq!((many.len(), many[0]), (16, (MIB, MIB + 4096)));
        assert_eq!(many[15], (72 * MIB - 4096, 72 * MIB));
        assert!(many.iter().all(|(start, end)| start % 512 == 0 && end - start == 4096));
        let large = looked_at(&[(0, 9 * MIB)], MIB);
        assert_eq!((large[0].0, large[large.len() - 1].1), (0, 9 * MIB));
    }
}
