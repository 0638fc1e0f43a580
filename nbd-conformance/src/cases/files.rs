//! An export as a file, and its extents.

use nbd_proto::CommandFlags;
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is, how};
use crate::outcome::failed;
use crate::site::{Disk, Kind};

const FILTERS: Need = Need::Server(&[Kind::Nbdkit], "only nbdkit can be told to do wrong");
const TELLS: Need =
    Need::Server(&[Kind::Nbdkit, Kind::Ours], "a file tells its holes in its own way");

cases! {
    a_file_has_no_blocks,
    the_end_of_a_file,
    what_a_file_accepts_is_written,
    lines_through_a_buffer,
    one_half_reads_while_the_other_writes,
    a_write_to_a_file_that_fails [FILTERS],
    blocks_around_a_write_are_left_alone [FILTERS],
    extents_of_a_whole_export [TELLS],
    extents_in_many_short_answers [FILTERS],
    extents_that_are_left_half_way [FILTERS],
}

fn a_file_has_no_blocks(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    let data = noise(10_007, 1);
    file.seek(5_001)?;
    file.write(&data)?;
    file.flush()?;
    file.seek(5_000)?;
    let back = file.read(10_009)?;
    assert_eq!((back[0], back[10_008]), (0, 0));
    assert!(back[1..10_008] == data);
    Ok(())
}

fn the_end_of_a_file(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    file.seek((1 << 20) - 3)?;
    file.write(&[7; 3])?;
    failed(file.write(&[7; 1]));
    file.seek((1 << 20) - 5)?;
    assert_eq!(file.read(100)?, [0, 0, 7, 7, 7]);
    assert!(file.read(100)?.is_empty());
    file.seek(1 << 30)?;
    assert!(file.read(1)?.is_empty());
    failed(file.write(&[7; 1]));
    Ok(())
}

/// Though the view is dropped at once, and nobody flushes.
fn what_a_file_accepts_is_written(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    let mut other = fixture.connect_to(&server.uri(), as_is)?;
    for index in 0..50_u64 {
        let data = noise(4096 + index as usize, index);
        file.seek(index << 13)?;
        file.write(&data)?;
        file.again();
        assert!(other.read(index << 13, data.len())? == data, "number {index}");
    }
    Ok(())
}

fn lines_through_a_buffer(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    let lines = ["one", "two, which is longer", "", "größer"];
    for start in [0, 4_095] {
        file.seek(start)?;
        file.write_lines(&lines)?;
        file.seek(start)?;
        assert_eq!(file.read_lines(lines.len())?, lines);
    }
    Ok(())
}

/// They share a position, which goes forward with each of them.
fn one_half_reads_while_the_other_writes(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    let data = vec![7; 64 << 10];
    file.read_beside_write(&data)?;
    file.flush()?;
    file.seek(0)?;
    let back = file.read(1 << 20)?;
    let written = back.iter().filter(|byte| **byte == 7).count();
    // A write whose end is told after the other half has read is done again behind that.
    assert!(written >= data.len(), "{written} bytes were written");
    Ok(())
}

fn a_write_to_a_file_that_fails(fixture: &mut Fixture<'_>) -> CaseResult {
    let server =
        fixture.site.start_with(&["--filter=error", "memory", "1M", "error-pwrite-rate=100%"])?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    failed(file.write(&[1; 512]));
    file.flush()?;
    assert_eq!(file.read(512)?, [0; 512]);
    Ok(())
}

/// Behind a server that knows blocks of 4 KiB only.
fn blocks_around_a_write_are_left_alone(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&[
        "--filter=blocksize-policy",
        "memory",
        "64K",
        "blocksize-minimum=4096",
        "blocksize-error-policy=error",
    ])?;
    let mut file = fixture.beyond().file(&how(&server.uri(), as_is))?;
    let mut model = noise(1 << 16, 2);
    file.write(&model)?;
    for (at, length) in [(1, 1), (4095, 2), (100, 9000), (65_535, 1), (60_000, 5_536), (4096, 4096)]
    {
        let data = noise(length, at as u64 + 7);
        file.seek(at as u64)?;
        file.write(&data)?;
        model[at..at + length].copy_from_slice(&data);
    }
    file.flush()?;
    file.seek(0)?;
    assert!(file.read(1 << 16)? == model);
    Ok(())
}

/// Neighbours of equal status as one, in order, and nothing beyond the range.
fn in_order(extents: &[(u64, u64, u64)], from: u64, to: u64) {
    let mut at = from;
    for (offset, length, _) in extents {
        assert_eq!(*offset, at);
        at += length;
    }
    assert_eq!(at, to);
    assert!(extents.windows(2).all(|pair| pair[0].2 != pair[1].2), "{extents:?}");
}

fn extents_of_a_whole_export(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 30))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    for at in [0, 1 << 20, 512 << 20, (1 << 30) - 65_536] {
        disk.write(at, &[1; 65_536], CommandFlags::empty())?;
    }
    let how = how(&server.uri(), |config| config.meta_context("base:allocation"));
    let extents = fixture.beyond().extents(&how, "base:allocation", 0..1 << 30)?;
    in_order(&extents, 0, 1 << 30);
    let data = |one: &&(u64, u64, u64)| one.2 == 0;
    let found: Vec<_> = extents.iter().filter(data).map(|one| one.0).collect();
    assert_eq!(found, [0, 1 << 20, 512 << 20, (1 << 30) - 65_536]);
    // A part, which neither starts nor ends where an extent does.
    let part = fixture.beyond().extents(&how, "base:allocation", 512..(1 << 20) + 512)?;
    in_order(&part, 512, (1 << 20) + 512);
    assert_eq!(part.len(), 3);
    failed(fixture.beyond().extents(&how, "no:such", 0..1 << 20));
    Ok(())
}

/// From a server that tells one extent at a time.
fn extents_in_many_short_answers(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&[
        "eval",
        "get_size=echo 1048576",
        "pread=head -c $3 /dev/zero",
        "can_extents=exit 0",
        "extents=echo $4 4096 $(( ($4 / 4096) % 3 ? 3 : 0 ))",
    ])?;
    let how = how(&server.uri(), |config| config.meta_context("base:allocation"));
    let extents = fixture.beyond().extents(&how, "base:allocation", 4096..40 << 10)?;
    in_order(&extents, 4096, 40 << 10);
    assert_eq!(extents.len(), 6, "{extents:?}");
    Ok(())
}

/// Questions that were asked ahead are answered for nobody, and the connection goes on.
fn extents_that_are_left_half_way(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&[
        "eval",
        "get_size=echo 1048576",
        "pread=head -c $3 /dev/zero | tr '\\0' '\\7'",
        "can_extents=exit 0",
        "extents=echo $4 4096 $(( ($4 / 4096) % 3 ? 3 : 0 ))",
    ])?;
    let how = how(&server.uri(), |config| config.meta_context("base:allocation"));
    for after in [0, 1, 5] {
        assert_eq!(fixture.beyond().leave_extents(&how, "base:allocation", after)?, [7; 512]);
    }
    Ok(())
}
