//! Whether a destination still holds what a state file says: it may have been made anew.

use std::sync::Arc;

use super::destination::Destination;
use super::job::Job;
use super::part::Part;
use super::plan::{Compare, Plan};
use super::record::Record;
use super::source::Source;
use super::transfer::{WorkerCount, transfer};
use super::workers::Regions;
use crate::failure::Result;
use crate::target::Target;

/// Reads parts of what was copied from both ends, before anything is written.
pub(super) fn check(
    record: &Record,
    (from, to): (&Target, &Target),
    part: &Part,
    plan: Plan,
) -> Result<()> {
    let plan = Plan { compare: Some(Compare::First), ..plan };
    let source = Source::open(from, &plan)?;
    let end = source.size().map(|_| part.end());
    let (destination, _) = Destination::open(to, end, &plan)?;
    let plan = plan.between(&source, &destination);
    let samples = record.samples(plan.block.max(source.block()) as u64);
    let job = Job::new(plan, part.clone(), 0..0, 1)?;
    let regions = Regions::new(samples, 1, plan.request_size as u64);
    let job = Arc::new(Job { regions, ..job });
    transfer(source, destination, &job, WorkerCount::ONE)?;
    match job.differences.found().first {
        None => Ok(()),
        Some(at) => Err(record.outdated(at)),
    }
}
