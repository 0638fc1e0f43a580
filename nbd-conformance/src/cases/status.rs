//! Block status.

use nbd_proto::{Command, CommandFlags, Extent, HeaderStyle};

use crate::case::{CaseResult, Need, cases};
use crate::fixture::Fixture;
use crate::outcome::Op;
use crate::site::{Kind, SIZE};
use crate::subject::Session;

const DEPTH: Need =
    Need::Server(&[Kind::Qemu], "no other server has the context qemu:allocation-depth");

const KEPT: Need = Need::Server(&[Kind::Ours], "the others call zeroes a hole all the same");

cases! {
    the_whole_disk_is_told_about,
    data_and_holes_are_told_apart,
    zeroes_without_a_hole_are_no_hole [KEPT],
    one_extent_where_one_is_wanted,
    of_one_byte,
    many_at_the_same_time,
    several_contexts_at_a_time [DEPTH],
}

const BLOCK: u64 = 64 << 10;

/// Asks on until the end of a range: what is told is without gaps.
fn walk(
    disk: &mut dyn Session,
    length: u64,
) -> Result<Vec<(u64, Extent)>, crate::outcome::Failure> {
    let context = disk.facts().contexts.first().map(|context| context.id);
    let mut placed = Vec::new();
    let mut at = 0;
    while at < length {
        let extents = disk.status(at, length - at, CommandFlags::empty())?;
        assert!(!extents.is_empty(), "one at least");
        for (of, extent) in extents {
            assert_eq!(Some(of), context);
            assert!(at < length && extent.length > 0, "{extent:?} at {at}");
            placed.push((at, extent));
            at += extent.length;
        }
    }
    Ok(placed)
}

fn the_whole_disk_is_told_about(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    let placed = walk(disk, SIZE)?;
    assert_eq!(placed.iter().map(|(_, extent)| extent.length).sum::<u64>(), SIZE);
    Ok(())
}

fn data_and_holes_are_told_apart(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.run(Command::trim(0, SIZE))?;
    for index in [1, 2, 5] {
        disk.write(index * BLOCK, &[1; BLOCK as usize], CommandFlags::empty())?;
    }
    let mut holes = [false; 8];
    for (at, extent) in walk(disk, 8 * BLOCK)? {
        assert_eq!(extent.is_hole(), extent.is_zero(), "a hole reads as zeroes: {extent:?}");
        assert!(at % BLOCK == 0 && extent.length % BLOCK == 0, "{extent:?} at {at}");
        for block in at / BLOCK..(at + extent.length) / BLOCK {
            holes[block as usize] = extent.is_hole();
        }
    }
    assert_eq!(holes, [true, false, false, true, true, false, true, true]);
    Ok(())
}

fn zeroes_without_a_hole_are_no_hole(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.run(Command::trim(0, SIZE))?;
    disk.run(Command::write_zeroes(0, BLOCK).with(CommandFlags::NO_HOLE))?;
    let (_, first) = disk.status(0, BLOCK, CommandFlags::empty())?.remove(0);
    assert!(!first.is_hole(), "{first:?}");
    Ok(())
}

fn one_extent_where_one_is_wanted(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.run(Command::trim(0, SIZE))?;
    disk.write(BLOCK, &[1; BLOCK as usize], CommandFlags::empty())?;
    let extents = disk.status(0, 4 * BLOCK, CommandFlags::REQ_ONE)?;
    assert!(matches!(extents[..], [(_, extent)] if extent.length == BLOCK), "{extents:?}");
    assert!(disk.status(0, 4 * BLOCK, CommandFlags::empty())?.len() > 1);
    Ok(())
}

fn of_one_byte(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for at in [0, 1, BLOCK - 1, SIZE - 1] {
        let extents = disk.status(at, 1, CommandFlags::REQ_ONE)?;
        assert!(matches!(extents[..], [(_, extent)] if extent.length == 1), "{extents:?}");
    }
    Ok(())
}

fn many_at_the_same_time(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    disk.run(Command::trim(0, SIZE))?;
    for index in (0..32).step_by(2) {
        disk.write(index * BLOCK, &[1; BLOCK as usize], CommandFlags::empty())?;
    }
    let ask = |index| Op::run(Command::block_status(index * BLOCK, BLOCK));
    for (index, outcome) in (0..).zip(disk.batch((0..32).map(ask).collect(), &mut || ())) {
        let extents = outcome?.extents;
        assert!(matches!(extents[..], [(_, extent)] if extent.is_hole() == (index % 2 == 1)));
    }
    Ok(())
}

fn several_contexts_at_a_time(fixture: &mut Fixture<'_>) -> CaseResult {
    let depth = "qemu:allocation-depth";
    let mut disk =
        fixture.connect(|config| config.meta_context("base:allocation").meta_context(depth))?;
    assert_eq!(disk.facts().headers, HeaderStyle::Extended);
    let contexts = disk.facts().contexts;
    assert_eq!(contexts.len(), 2, "{contexts:?}");
    disk.run(Command::trim(0, SIZE))?;
    disk.write(0, &[1; BLOCK as usize], CommandFlags::empty())?;
    let extents = disk.status(0, BLOCK, CommandFlags::empty())?;
    for context in contexts {
        let own: Vec<_> = extents.iter().filter(|(of, _)| *of == context.id).collect();
        let status = u64::from(context.name == depth);
        assert!(matches!(own[..], [(_, extent)] if extent.status == status), "{extents:?}");
    }
    Ok(())
}
