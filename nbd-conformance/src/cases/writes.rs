//! Writing.

use nbd_proto::{CommandFlags, Errno};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, cases};
use crate::fixture::Fixture;
use crate::outcome::{Who, fails};
use crate::site::SIZE;

cases! {
    neighbours_are_left_alone,
    odd_places_and_lengths,
    the_last_bytes,
    written_through,
    the_last_write_wins,
    flush_with_and_without_something_to_flush,
    another_connection_sees_what_was_flushed,
    more_than_one_command_carries,
}

fn neighbours_are_left_alone(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.write(0, &[9; 4096], CommandFlags::empty())?;
    disk.write(1000, &[5; 100], CommandFlags::empty())?;
    let back = disk.read(0, 4096)?;
    assert!(back[..1000].iter().all(|byte| *byte == 9));
    assert_eq!(back[1000..1100], [5; 100]);
    assert!(back[1100..].iter().all(|byte| *byte == 9));
    Ok(())
}

fn odd_places_and_lengths(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for (seed, (at, length)) in
        (1..).zip([(3, 1), (511, 2), (65_535, 2), (12_345, 67_890), (131_071, 65_537)])
    {
        let data = noise(length, seed);
        disk.write(at, &data, CommandFlags::empty())?;
        assert!(disk.read(at, length)? == data, "{length} bytes at {at}");
    }
    Ok(())
}

fn the_last_bytes(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(777, 5);
    disk.write(SIZE - 777, &data, CommandFlags::empty())?;
    assert_eq!(disk.read(SIZE - 777, 777)?, data);
    Ok(())
}

fn written_through(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(5000, 6);
    disk.write(3000, &data, CommandFlags::FUA)?;
    assert_eq!(disk.read(3000, 5000)?, data);
    Ok(())
}

fn the_last_write_wins(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for round in 0..20 {
        disk.write(u64::from(round), &[round; 512], CommandFlags::empty())?;
    }
    let back = disk.read(0, 19 + 512)?;
    let first: Vec<u8> = (0..19).collect();
    assert_eq!(back[..19], first);
    assert_eq!(back[19..], [19; 512]);
    Ok(())
}

fn flush_with_and_without_something_to_flush(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut fresh = fixture.connect(crate::fixture::as_is)?;
    fresh.flush()?;
    fresh.write(0, &[1; 512], CommandFlags::empty())?;
    fresh.flush()?;
    fresh.flush()?;
    Ok(())
}

fn another_connection_sees_what_was_flushed(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut other = fixture.connect(crate::fixture::as_is)?;
    let disk = fixture.disk()?;
    for round in 0..5 {
        let data = noise(4096, 100 + round);
        disk.write(8192, &data, CommandFlags::empty())?;
        disk.flush()?;
        assert_eq!(other.read(8192, 4096)?, data);
    }
    Ok(())
}

/// Whoever does not tell a longest payload is not asked for more than 32 MiB.
fn more_than_one_command_carries(fixture: &mut Fixture<'_>) -> CaseResult {
    let splits = fixture.subject.splits();
    let disk = fixture.disk()?;
    let mut data = vec![3; (32 << 20) + 4096];
    let tail = noise(8192, 7);
    let cut = data.len() - tail.len();
    data[cut..].copy_from_slice(&tail);
    let sizes = disk.facts().export.and_then(|export| export.block_sizes);
    let longest = sizes.map_or(32 << 20, |sizes| sizes.maximum);
    let written = disk.write(512, &data, CommandFlags::empty());
    if splits || data.len() as u64 <= u64::from(longest) {
        written?;
        assert_eq!(disk.read(512 + cut as u64, tail.len())?, tail);
        assert_eq!(disk.read(512, 1)?, [3]);
    } else {
        fails(written, Who::Caller, Errno::Range);
    }
    Ok(())
}
