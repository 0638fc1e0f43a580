//! Many commands at the same time.

use nbd_proto::{Command, CommandFlags};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::Op;
use crate::site::Kind;
use crate::subject::Session;

const THREAD: Need = Need::Server(&[Kind::Nbdkit], "the others cannot be kept from working ahead");
const REPLIES: Need = Need::PlainOnly("how much is under way is the same behind TLS");

cases! {
    many_small_reads,
    mixed_reads,
    large_reads,
    one_place_read_by_many,
    mixed_writes,
    large_writes,
    reads_and_writes_side_by_side,
    who_only_wrote_would_never_end [THREAD, REPLIES],
    every_command_at_once,
    crowd_after_crowd,
}

/// Lengths that are small, large and odd in turn.
const LENGTHS: [usize; 8] = [512, 4096, 1, 65_536, 513, 131_071, 8192, 33_000];

/// Reads many pieces of data that lies at the start of the disk, all at once.
pub(crate) fn reads_match(disk: &mut dyn Session, data: &[u8], count: usize) {
    let place = |index: usize| {
        let length = LENGTHS[index % LENGTHS.len()].min(data.len() / 2);
        let at = index * 7919 * 13 % (data.len() - length);
        (at, length)
    };
    let ops = (0..count).map(place).map(|(at, length)| Op::read(at as u64, length)).collect();
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        let (at, length) = place(index);
        let back = outcome.unwrap_or_else(|failure| panic!("{length} at {at}: {failure}")).data;
        assert!(back == data[at..at + length], "{length} bytes at {at}");
    }
}

fn prepared<'a>(
    fixture: &'a mut Fixture<'_>,
    data: &[u8],
) -> Result<&'a mut dyn Session, crate::outcome::Failure> {
    let disk = fixture.disk()?;
    disk.write(0, data, CommandFlags::empty())?;
    Ok(disk)
}

fn many_small_reads(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(256 << 10, 1);
    let disk = prepared(fixture, &data)?;
    let ops = (0..256).map(|index| Op::read(index << 10, 1024)).collect();
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        assert!(outcome?.data == data[index << 10..][..1024], "number {index}");
    }
    Ok(())
}

fn mixed_reads(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(1 << 20, 2);
    reads_match(prepared(fixture, &data)?, &data, 256);
    Ok(())
}

fn large_reads(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(2 << 20, 3);
    let disk = prepared(fixture, &data)?;
    let ops = (0..8).map(|index| Op::read(index << 17, 1 << 20)).collect();
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        assert!(outcome?.data == data[index << 17..][..1 << 20], "number {index}");
    }
    Ok(())
}

fn one_place_read_by_many(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(8192, 4);
    let disk = prepared(fixture, &data)?;
    let outcomes = disk.batch(vec![Op::read(0, 8192); 100], &mut || ());
    for outcome in outcomes {
        assert!(outcome?.data == data);
    }
    Ok(())
}

fn mixed_writes(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(8 << 20, 5);
    let mut ops = Vec::new();
    let mut at = 0;
    for index in 0..256 {
        let length = LENGTHS[index % LENGTHS.len()];
        ops.push(Op::write(at as u64, data[at..at + length].to_vec()));
        at += length;
    }
    for outcome in disk.batch(ops, &mut || ()) {
        outcome?;
    }
    assert!(disk.read(0, at)? == data[..at]);
    Ok(())
}

fn large_writes(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(1 << 20, 6);
    let ops = (0..8).map(|index| Op::write(index << 20, data.clone())).collect();
    for outcome in disk.batch(ops, &mut || ()) {
        outcome?;
    }
    for index in 0..8 {
        assert!(disk.read(index << 20, 1 << 20)? == data, "number {index}");
    }
    Ok(())
}

fn reads_and_writes_side_by_side(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(1 << 20, 7);
    let disk = prepared(fixture, &data)?;
    let write = |index: u64| Op::write((4 << 20) + (index << 18), data[..1 << 18].to_vec());
    let read = |index: u64| Op::read((index % 4) << 18, 1 << 18);
    let ops = (0..16).flat_map(|index| [write(index), read(index)]).collect();
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        let reply = outcome?;
        if index % 2 == 1 {
            let at = (index / 2 % 4) << 18;
            assert!(reply.data == data[at..][..1 << 18], "number {index}");
        }
    }
    Ok(())
}

/// One request at a time, and the replies are as large as the requests.
fn who_only_wrote_would_never_end(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&["-t", "1", "memory", "64M"])?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let data = noise(1 << 20, 11);
    let pair =
        |index: u64| [Op::read(index << 20, 1 << 20), Op::write((16 + index) << 20, data.clone())];
    for outcome in disk.batch((0..16).flat_map(pair).collect(), &mut || ()) {
        outcome?;
    }
    assert!(disk.read(31 << 20, 1 << 20)? == data);
    Ok(())
}

fn every_command_at_once(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(64 << 10, 8);
    let disk = prepared(fixture, &data)?;
    let kinds = |at: u64| {
        [
            Op::read(0, 64 << 10),
            Op::write(at, data[..5000].to_vec()),
            Op::run(Command::write_zeroes(at + (8 << 10), 5000)),
            Op::run(Command::trim(at + (16 << 10), 5000)),
            Op::run(Command::block_status(0, 64 << 10)),
            Op::run(Command::flush()),
        ]
    };
    let ops: Vec<_> = (4..24).flat_map(|index| kinds(index << 16)).collect();
    let count = ops.len();
    let mut places = vec![false; count];
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        let reply = outcome?;
        places[reply.place] = true;
        assert_eq!(reply.extents.is_empty(), index % 6 != 4);
        if index % 6 == 0 {
            assert!(reply.data == data);
        }
    }
    assert!(places.into_iter().all(|taken| taken), "each finished once");
    Ok(())
}

fn crowd_after_crowd(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(256 << 10, 9);
    let disk = prepared(fixture, &data)?;
    for count in [1, 2, 63, 64, 65, 7] {
        reads_match(disk, &data, count);
    }
    Ok(())
}
