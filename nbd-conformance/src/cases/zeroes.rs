//! Zeroing, trimming, caching.

use nbd_proto::{Command, CommandFlags, Errno, TransmissionFlags};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, cases};
use crate::fixture::Fixture;
use crate::outcome::{Who, fails};
use crate::site::SIZE;
use crate::subject::Session;

cases! {
    zeroes_and_nothing_but,
    zeroes_of_the_whole_disk,
    zeroes_without_a_hole,
    zeroes_written_through,
    zeroes_if_they_are_fast,
    every_flag_at_the_same_time,
    what_is_trimmed_reads_as_zeroes,
    trimmed_through,
    trimming_parts_of_a_block_spares_the_rest,
    cached_if_the_server_can,
}

const BLOCK: u64 = 64 << 10;

/// Zeroes a range in the midst of data and makes sure that nothing else is gone.
fn zeroed(disk: &mut dyn Session, at: u64, length: u64, command: Command) -> CaseResult {
    let data = noise(4 * BLOCK as usize, at ^ length);
    disk.write(0, &data, CommandFlags::empty())?;
    disk.run(command)?;
    let back = disk.read(0, data.len())?;
    let (from, to) = (at as usize, (at + length) as usize);
    assert!(back[..from] == data[..from], "before");
    assert!(back[from..to].iter().all(|byte| *byte == 0), "in between");
    assert!(back[to..] == data[to..], "behind");
    Ok(())
}

fn zeroes_and_nothing_but(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for (at, length) in [(0, 1), (1, 511), (511, 4097), (BLOCK, BLOCK), (BLOCK - 1, BLOCK + 2)] {
        zeroed(disk, at, length, Command::write_zeroes(at, length))?;
    }
    Ok(())
}

fn zeroes_of_the_whole_disk(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.write(0, &[1; 512], CommandFlags::empty())?;
    disk.write(SIZE - 512, &[1; 512], CommandFlags::empty())?;
    disk.run(Command::write_zeroes(0, SIZE))?;
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    assert_eq!(disk.read(SIZE - 512, 512)?, [0; 512]);
    Ok(())
}

fn flagged(fixture: &mut Fixture<'_>, flags: CommandFlags) -> CaseResult {
    let disk = fixture.disk()?;
    zeroed(disk, BLOCK, BLOCK, Command::write_zeroes(BLOCK, BLOCK).with(flags))
}

fn zeroes_without_a_hole(fixture: &mut Fixture<'_>) -> CaseResult {
    flagged(fixture, CommandFlags::NO_HOLE)
}

fn zeroes_written_through(fixture: &mut Fixture<'_>) -> CaseResult {
    flagged(fixture, CommandFlags::FUA)
}

fn zeroes_if_they_are_fast(fixture: &mut Fixture<'_>) -> CaseResult {
    flagged(fixture, CommandFlags::FAST_ZERO)
}

fn every_flag_at_the_same_time(fixture: &mut Fixture<'_>) -> CaseResult {
    flagged(fixture, CommandFlags::FUA | CommandFlags::NO_HOLE)
}

fn what_is_trimmed_reads_as_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    zeroed(fixture.disk()?, BLOCK, 2 * BLOCK, Command::trim(BLOCK, 2 * BLOCK))
}

fn trimmed_through(fixture: &mut Fixture<'_>) -> CaseResult {
    let trim = Command::trim(BLOCK, BLOCK).with(CommandFlags::FUA);
    zeroed(fixture.disk()?, BLOCK, BLOCK, trim)
}

fn trimming_parts_of_a_block_spares_the_rest(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(2 * BLOCK as usize, 8);
    disk.write(0, &data, CommandFlags::empty())?;
    disk.run(Command::trim(100, 300))?;
    let back = disk.read(0, data.len())?;
    assert!(back[..100] == data[..100] && back[400..] == data[400..]);
    // Each byte may be as before or zero (proto.md, "NBD_CMD_TRIM").
    assert!(back[100..400].iter().zip(&data[100..400]).all(|(is, was)| *is == 0 || is == was));
    Ok(())
}

fn cached_if_the_server_can(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let flags = disk.facts().export.expect("it was described").flags;
    let cached = disk.run(Command::cache(0, 1 << 20));
    if flags.contains(TransmissionFlags::SEND_CACHE) {
        cached?;
    } else {
        fails(cached, Who::Caller, Errno::Inval);
    }
    Ok(())
}
