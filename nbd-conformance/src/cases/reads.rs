//! Reading.

use nbd_proto::{CommandFlags, Errno};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, cases};
use crate::fixture::Fixture;
use crate::outcome::{Op, Who, fails};
use crate::site::SIZE;

cases! {
    the_first_byte,
    the_last_byte,
    odd_places_and_lengths,
    nothing_at_all,
    across_sixty_four_kilobytes,
    a_megabyte,
    unfragmented,
    the_whole_disk_is_read_in_pieces_or_refused,
}

fn the_first_byte(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.write(0, &[7, 8], CommandFlags::empty())?;
    assert_eq!(disk.read(0, 1)?, [7]);
    Ok(())
}

fn the_last_byte(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.write(SIZE - 2, &[7, 8], CommandFlags::empty())?;
    assert_eq!(disk.read(SIZE - 1, 1)?, [8]);
    Ok(())
}

fn odd_places_and_lengths(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(20_000, 1);
    disk.write(0, &data, CommandFlags::empty())?;
    for (at, length) in [(1, 1), (511, 2), (513, 511), (4095, 4097), (7, 12_345), (19_999, 1)] {
        let back = disk.read(at as u64, length)?;
        assert!(back == data[at..at + length], "{length} bytes at {at}");
    }
    Ok(())
}

/// As a call it is a success or a refusal, but never a command.
fn nothing_at_all(fixture: &mut Fixture<'_>) -> CaseResult {
    let splits = fixture.subject.splits();
    let disk = fixture.disk()?;
    let read = disk.read(0, 0);
    let written = disk.write(0, &[], CommandFlags::empty());
    if splits {
        assert_eq!(read?, []);
        written?;
    } else {
        fails(read, Who::Caller, Errno::Inval);
        fails(written, Who::Caller, Errno::Inval);
    }
    Ok(())
}

fn across_sixty_four_kilobytes(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(200 << 10, 2);
    disk.write(10, &data, CommandFlags::empty())?;
    for edge in [64 << 10, 128 << 10, 192 << 10] {
        let back = disk.read(edge - 1, 2)?;
        assert_eq!(back, data[edge as usize - 11..edge as usize - 9]);
    }
    Ok(())
}

fn a_megabyte(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let data = noise(1 << 20, 3);
    disk.write(1 << 20, &data, CommandFlags::empty())?;
    assert!(disk.read(1 << 20, 1 << 20)? == data);
    Ok(())
}

fn unfragmented(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    // Data and holes in turn would make a reply of many chunks.
    disk.write_zeroes(0, 1 << 20)?;
    for at in [0, 256 << 10, 512 << 10] {
        disk.write(at, &[1; 64 << 10], CommandFlags::empty())?;
    }
    let read = Op::read(0, 1 << 20).with(CommandFlags::DF);
    let outcome = disk.batch(vec![read], &mut || ()).remove(0);
    let data = outcome?.data;
    assert!(data == disk.read(0, 1 << 20)?);
    assert_eq!(data.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 3 * (64 << 10));
    Ok(())
}

/// Where the server tells that a command may not be as long, it is not sent as one; a server
/// that does not tell may answer longer ones.
fn the_whole_disk_is_read_in_pieces_or_refused(fixture: &mut Fixture<'_>) -> CaseResult {
    let splits = fixture.subject.splits();
    let disk = fixture.disk()?;
    disk.write_zeroes(0, SIZE)?;
    let edge = 32 << 20;
    let data = noise(1 << 20, 4);
    let places = [0, edge - (512 << 10), SIZE - (1 << 20)];
    for at in places {
        disk.write(at, &data, CommandFlags::empty())?;
    }
    let sizes = disk.facts().export.and_then(|export| export.block_sizes);
    if sizes.is_some_and(|sizes| u64::from(sizes.maximum) < SIZE) && !splits {
        fails(disk.read(0, SIZE as usize), Who::Caller, Errno::Range);
    } else {
        let back = disk.read(0, SIZE as usize)?;
        for at in places {
            assert!(back[at as usize..][..1 << 20] == data, "at {at}");
        }
        assert!(back[1 << 20..20 << 20].iter().all(|byte| *byte == 0));
    }
    Ok(())
}
