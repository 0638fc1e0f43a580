//! What other commands are made of: copies to this program, or to nowhere.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::destination::Destination;
use super::display::Form;
use super::job::Job;
use super::part::{Asked, Part};
use super::plan::{Compare, Plan};
use super::source::Source;
use super::transfer::{self, WorkerCount};
use super::{Copied, CopyOptions, NO_STREAM, Reporting, copy};
use crate::checksum::Kind;
use crate::failure::{Failure, Result};
use crate::target::Target;

/// Copies between two targets with the defaults, for `nbd demo`.
pub(crate) fn between(from: &Target, to: &Target, limit: Duration) -> Result<Copied> {
    let plan = Plan { limit: Some(limit), ..Plan::default() };
    let form = io::stderr().is_terminal().then_some(Form::Bar);
    let reporting = Reporting { form, ..Reporting::default() };
    copy(from, to, plan, &CopyOptions::default(), reporting).map(|outcome| outcome.copied)
}

/// Reads a part of a server or file, in order, into what `writer` makes. `wanted` says which,
/// when it is told how many bytes there are. `writer` is told where
/// reading begins, and which bytes are wanted: those before and behind are there because
/// reads are in whole blocks.
pub(crate) fn read<'a>(
    from: &Target,
    wanted: impl FnOnce(u64) -> Result<Range<u64>>,
    limit: Option<Duration>,
    writer: impl FnOnce((u64, Range<u64>)) -> Box<dyn Write + 'a>,
) -> Result<()> {
    let plan = Plan { limit, ..Plan::default() };
    let source = Source::open(from, &plan)?;
    let size = source.size().ok_or_else(|| Failure::new("a server or a file is needed"))?;
    let Range { start: offset, end } = wanted(size)?;
    let block = source.block() as u64;
    let begin = offset - offset % block;
    let whole = begin..end.next_multiple_of(block).min(size);
    let writer = writer((begin, offset..end));
    let destination = Destination::Program(writer, begin);
    let plan = plan.between(&source, &destination);
    let part = Part { range: whole.clone(), to: begin };
    let job = Job::new(plan, part, whole, 1)?;
    transfer::transfer(source, destination, &Arc::new(job), WorkerCount::ONE)
}

/// The checksum of a target, and of how many bytes.
pub(crate) fn checksum(
    from: &Target,
    (offset, length): (Option<u64>, Option<u64>),
    kind: Kind,
    limit: Option<Duration>,
) -> Result<(String, u64)> {
    let plan = Plan { limit, ..Plan::default() };
    let part = Asked { offset, length, to: None };
    let options = CopyOptions { part, checksum: Some(kind), ..CopyOptions::default() };
    let outcome = copy(from, &Target::Null, plan, &options, Reporting::default())?;
    let sum = outcome.checksum.ok_or_else(|| Failure::new("there is no checksum"))?;
    Ok((sum, outcome.copied.bytes()))
}

/// How two targets compare.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The first byte that differs, as far as both go.
    pub(crate) first: Option<u64>,
    /// What differs, in blocks of 512 bytes; of the first difference only its own, unless all
    /// are wanted.
    pub(crate) ranges: Vec<Range<u64>>,
    /// There are more of them.
    pub(crate) more: bool,
    /// Bytes in both.
    pub(crate) sizes: (u64, u64),
}

/// Compares two servers or files, as far as both go.
pub(crate) fn compare(
    a: &Target,
    b: &Target,
    all: bool,
    limit: Option<Duration>,
) -> Result<Comparison> {
    let compare = Some(if all { Compare::All } else { Compare::First });
    let plan = Plan { limit, compare, ..Plan::default() };
    let outcome = copy(a, b, plan, &CopyOptions::default(), Reporting::default())?;
    let (Some(first), Some(second)) = outcome.sizes else {
        return Err(Failure::new(NO_STREAM));
    };
    Ok(Comparison {
        first: outcome.found.first,
        ranges: outcome.found.ranges.iter().cloned().collect(),
        more: outcome.found.more,
        sizes: (first, second),
    })
}
