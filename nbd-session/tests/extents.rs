//! The walk over extents, with servers that answer as they like.

use nbd_proto::{
    BlockSizes, ContextId, Errno, ExportInfo, Extent, HeaderStyle, MetaContext, Negotiated,
    TransmissionFlags,
};
use nbd_session::ErrorKind;
use nbd_session::extents::{ExtentWalk, StatusQuery};
use proptest::collection::vec;
use proptest::prelude::*;
use std::task::Poll;

const NAMES: [&str; 3] = ["base:allocation", "qemu:dirty-bitmap:b", "x:y"];

/// An export with all of [`NAMES`].
fn facts(size: u64, block: u32, headers: HeaderStyle, flags: TransmissionFlags) -> Negotiated {
    let mut export = ExportInfo::new(size, flags);
    export.block_sizes = Some(BlockSizes { minimum: block, preferred: block, maximum: 1 << 25 });
    let contexts = NAMES.iter().zip(5..);
    let contexts =
        contexts.map(|(name, id)| MetaContext { id: ContextId(id), name: (*name).to_owned() });
    let mut facts = Negotiated::new(export);
    facts.headers = headers;
    facts.contexts = contexts.collect();
    facts
}

fn plain(size: u64) -> Negotiated {
    facts(size, 1, HeaderStyle::Structured, TransmissionFlags::empty())
}

/// What a server knows: for each context the end of each of its extents, and its status.
#[derive(Clone, Debug)]
struct Disk {
    size: u64,
    contexts: Vec<Vec<(u64, u64)>>,
}

impl Disk {
    fn status(&self, context: usize, at: u64) -> (u64, u64) {
        let extents = &self.contexts[context];
        let found = extents.iter().find(|(end, _)| at < *end);
        *found.expect("within the export")
    }

    /// Extents of one context from `at` on: so many, and cut at `end` unless more is told.
    fn extents(&self, context: usize, at: u64, end: u64, most: usize, more: bool) -> Vec<Extent> {
        let (mut at, mut extents) = (at, Vec::new());
        while at < end && extents.len() < most {
            let (next, status) = self.status(context, at);
            let next = if more { next } else { next.min(end) };
            extents.push(Extent { length: next - at, status });
            at = next;
        }
        extents
    }

    /// The whole truth about a range: where each run of equal statuses starts, how long it is,
    /// and the statuses.
    fn truth(&self, asked: &[usize], from: u64, to: u64) -> Vec<(u64, u64, Vec<u64>)> {
        let mut runs: Vec<(u64, u64, Vec<u64>)> = Vec::new();
        let mut at = from;
        while at < to {
            let here: Vec<_> = asked.iter().map(|context| self.status(*context, at)).collect();
            let end = here.iter().map(|(end, _)| *end).fold(to, u64::min);
            let statuses: Vec<_> = here.iter().map(|(_, status)| *status).collect();
            match runs.last_mut() {
                Some((_, length, last)) if *last == statuses => *length += end - at,
                _ => runs.push((at, end - at, statuses)),
            }
            at = end;
        }
        runs
    }
}

/// Asks and answers until the walk is over, in an order that `choices` decides.
fn walk_over(
    facts: &Negotiated,
    disk: &Disk,
    asked: &[usize],
    from: u64,
    to: u64,
    choices: &[u8],
) -> Vec<(u64, u64, Vec<u64>)> {
    let names: Vec<_> = asked.iter().map(|context| NAMES[*context]).collect();
    let mut walk = ExtentWalk::new(facts, &names, from..to).expect("all were granted");
    let block = u64::from(facts.export.as_ref().unwrap().minimum_block());
    let filtered = walk.asked_contexts().is_some();
    let mut choices = choices.iter().copied().cycle();
    let mut choose = move |most: usize| usize::from(choices.next().unwrap_or(0)) % most;
    let mut open: Vec<StatusQuery> = Vec::new();
    let mut found = Vec::new();
    let mut refusals = 20;
    for _ in 0..100_000 {
        if let Some(query) = walk.next_query() {
            let command = query.command;
            assert!(command.length > 0 && command.offset + command.length <= disk.size);
            assert_eq!(command.offset % block, 0);
            let end = command.offset + command.length;
            assert!(end % block == 0 || end == disk.size);
            if choose(7) == 0 && refusals > 0 {
                refusals -= 1;
                walk.not_sent(query.number);
                continue;
            }
            open.push(query);
            assert!(open.len() <= 4);
            if choose(5) == 0 && refusals > 0 {
                refusals -= 1;
                // Withdrawn, and to be asked again.
                let withdrawn = open.swap_remove(choose(open.len()));
                walk.not_sent(withdrawn.number);
            }
            continue;
        }
        match walk.next_segment() {
            Poll::Ready(Some(segment)) => {
                let segment = segment.expect("nothing failed");
                found.push((segment.offset, segment.length, segment.statuses));
                continue;
            }
            Poll::Ready(None) => return found,
            Poll::Pending => {}
        }
        assert!(!open.is_empty(), "it waits for an answer, and nothing was asked");
        // Several may have come before the next segment is asked for.
        for _ in 0..=choose(open.len()) {
            let StatusQuery { number, command, .. } = open.swap_remove(choose(open.len()));
            let (most, more) = (1 + choose(4), choose(2) == 0);
            let told = if filtered { asked.to_vec() } else { (0..NAMES.len()).collect() };
            let end = command.offset + command.length;
            let mut answer = Vec::new();
            for context in told {
                let id = ContextId(5 + context as u32);
                let extents = disk.extents(context, command.offset, end, most, more);
                answer.extend(extents.into_iter().map(|extent| (id, extent)));
            }
            walk.answered(number, Ok(&answer));
        }
    }
    panic!("it never ends");
}

/// A disk whose extents are whole blocks, and a range of it: small ones, that are asked for at
/// once, and such as need many queries.
fn disks() -> impl Strategy<Value = (u32, Disk, u64, u64)> {
    let block = prop_oneof![Just(1_u32), Just(512), Just(4096)];
    let scale = prop_oneof![Just(1_u64), Just(1 << 22)];
    let extents = vec((1..40_u64, 0..3_u64), 1..20);
    (block, scale, vec(extents, 3), 1..400_u64, any::<(u64, u64)>()).prop_map(
        |(block, scale, lists, units, (from, to))| {
            let unit = u64::from(block) * scale;
            let size = units * unit;
            let lists = lists.into_iter().map(|list| {
                let mut at = 0;
                let mut ends: Vec<_> = list
                    .into_iter()
                    .map(|(length, status)| {
                        at += length * unit;
                        (at.min(size), status)
                    })
                    .collect();
                if at < size {
                    ends.push((size, 7));
                }
                ends
            });
            let disk = Disk { size, contexts: lists.collect() };
            let (from, to) = (from % (size + 1), to % (size + 1));
            (block, disk, from.min(to), from.max(to))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However it is asked and answered, what comes out is the truth.
    #[test]
    fn the_truth_comes_out(
        (block, disk, from, to) in disks(),
        asked in prop_oneof![Just(vec![0]), Just(vec![1, 0]), Just(vec![0, 1, 2]), Just(vec![2])],
        filters: bool,
        choices in vec(any::<u8>(), 1..50),
    ) {
        let flags = match filters {
            true => TransmissionFlags::BLOCK_STATUS_PAYLOAD,
            false => TransmissionFlags::empty(),
        };
        let facts = facts(disk.size, block, HeaderStyle::Extended, flags);
        let found = walk_over(&facts, &disk, &asked, from, to, &choices);
        prop_assert_eq!(found, disk.truth(&asked, from, to));
    }
}

#[test]
fn windows_grow_while_answers_tell_little_and_stay_within_32_bits() {
    for (headers, longest) in
        [(HeaderStyle::Structured, u64::from(u32::MAX)), (HeaderStyle::Extended, 1 << 62)]
    {
        let size = 1 << 50;
        let facts = facts(size, 4096, headers, TransmissionFlags::empty());
        let mut walk = ExtentWalk::new(&facts, &NAMES[..1], 1..size - 1).unwrap();
        let mut lengths = Vec::new();
        // As far as it takes to see how they grow.
        while lengths.len() < 40
            && let Some(StatusQuery { number, command, .. }) = walk.next_query()
        {
            assert!(command.offset.is_multiple_of(4096) && command.length.is_multiple_of(4096));
            assert!(command.length <= longest, "{}", command.length);
            lengths.push(command.length);
            let extent = Extent { length: command.length, status: 0 };
            walk.answered(number, Ok(&[(ContextId(5), extent)]));
        }
        assert_eq!(lengths[0], 64 << 20);
        let most = lengths.iter().max().unwrap();
        match headers {
            HeaderStyle::Extended => assert!(*most > 1 << 40, "{most}"),
            _ => assert_eq!(*most, (1 << 32) - (1 << 16)),
        }
    }
}

#[test]
fn little_is_asked_ahead_of_one_who_does_not_take_it() {
    let facts = plain(1 << 40);
    let mut walk = ExtentWalk::new(&facts, &NAMES[..1], 0..1 << 40).unwrap();
    let mut queries = 0;
    while let Some(StatusQuery { number, command, .. }) = walk.next_query() {
        queries += 1;
        let count = 1 << 16;
        let length = command.length / count;
        let extents: Vec<_> =
            (0..count).map(|index| (ContextId(5), Extent { length, status: index % 2 })).collect();
        walk.answered(number, Ok(&extents));
    }
    assert_eq!(queries, 1);
    assert!(matches!(walk.next_segment(), Poll::Ready(Some(Ok(_)))));
    // So there is room.
    assert!(walk.next_query().is_some());
}

#[test]
fn a_failure_is_told_once_behind_what_is_known() {
    let facts = plain(1 << 40);
    let error = || nbd_session::Error::check_payload(&nbd_proto::Command::flush(), 1).unwrap_err();
    let mut walk = ExtentWalk::new(&facts, &[], 0..1 << 40).unwrap();
    assert_eq!(walk.contexts().len(), 3);
    let first = walk.next_query().unwrap();
    let second = walk.next_query().unwrap();
    let third = walk.next_query().unwrap();
    let whole = |query: &StatusQuery, status| {
        [5, 6, 7].map(|id| (ContextId(id), Extent { length: query.command.length, status }))
    };
    walk.answered(third.number, Ok(&whole(&third, 3)));
    walk.answered(first.number, Ok(&whole(&first, 1)));
    while walk.next_query().is_some() {}
    assert!(walk.next_segment().is_pending(), "it may go on");
    walk.answered(second.number, Err(error()));
    let Poll::Ready(Some(Ok(segment))) = walk.next_segment() else { panic!("it is known") };
    assert_eq!((segment.offset, segment.length), (0, first.command.length));
    assert_eq!(segment.statuses, [1, 1, 1]);
    let Poll::Ready(Some(Err(error))) = walk.next_segment() else { panic!("one has failed") };
    assert_eq!(error.kind(), ErrorKind::NotSent);
    assert!(matches!(walk.next_segment(), Poll::Ready(None)));
    // Nobody waits for what comes now.
    walk.answered(first.number, Ok(&[]));
    assert!(matches!(walk.next_segment(), Poll::Ready(None)));
}

#[test]
fn an_answer_that_leads_nowhere_is_the_servers_fault() {
    let facts = plain(1 << 20);
    let mut walk = ExtentWalk::new(&facts, &NAMES[..2], 0..1 << 20).unwrap();
    let query = walk.next_query().unwrap();
    let extent = Extent { length: 512, status: 0 };
    walk.answered(query.number, Ok(&[(ContextId(5), extent)]));
    assert!(walk.next_query().is_none(), "it is asked for ever");
    let Poll::Ready(Some(Err(error))) = walk.next_segment() else { panic!("no answer is right") };
    assert_eq!(error.errno(), Errno::Proto.to_linux());
}

/// A server whose extents are finer than its blocks, asked from the middle of one.
#[test]
fn what_lies_before_the_range_is_left_out() {
    let facts = facts(2048, 512, HeaderStyle::Structured, TransmissionFlags::empty());
    let mut walk = ExtentWalk::new(&facts, &NAMES[..1], 300..1024).unwrap();
    let query = walk.next_query().unwrap();
    assert_eq!((query.command.offset, query.command.length), (0, 1024));
    let extents = [(100, 1), (150, 2), (262, 3), (2000, 4)];
    let extents = extents.map(|(length, status)| (ContextId(5), Extent { length, status }));
    walk.answered(query.number, Ok(&extents));
    for (offset, length, status) in [(300, 212, 3), (512, 512, 4)] {
        let Poll::Ready(Some(Ok(segment))) = walk.next_segment() else { panic!("it is known") };
        let placed = segment.placed();
        assert_eq!((placed.offset, placed.extent), (offset, Extent { length, status }));
    }
    assert!(matches!(walk.next_segment(), Poll::Ready(None)));
}

#[test]
fn what_was_not_granted_is_refused_and_nothing_is_nothing() {
    let mut facts = plain(1 << 20);
    assert!(ExtentWalk::new(&facts, &["no:such"], 0..512).is_err());
    let mut walk = ExtentWalk::new(&facts, &NAMES[..1], 512..512).unwrap();
    assert!(matches!(walk.next_segment(), Poll::Ready(None)));
    facts.contexts.clear();
    assert!(ExtentWalk::new(&facts, &[], 0..512).is_err());
}

/// Where a range is left open, the export's own ends take the place.
#[test]
fn an_open_range_is_the_whole_export() {
    let facts = plain(1 << 20);
    let first = |walk: Result<ExtentWalk, nbd_session::Error>| {
        let query = walk.expect("a context was granted").next_query().expect("something is asked");
        (query.command.offset, query.command.length)
    };
    let walk = |range: (std::ops::Bound<u64>, std::ops::Bound<u64>)| {
        first(ExtentWalk::new(&facts, &NAMES[..1], range))
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    assert_eq!(first(ExtentWalk::new(&facts, &NAMES[..1], ..)), (0, 1 << 20));
    assert_eq!(walk((Included(4096), Unbounded)), (4096, (1 << 20) - 4096));
    assert_eq!(walk((Excluded(4095), Included(8191))), (4096, 4096));
    assert_eq!(walk((Unbounded, Excluded(512))), (0, 512));
}
