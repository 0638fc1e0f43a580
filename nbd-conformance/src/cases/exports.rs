//! Exports of every size and name.

use nbd_proto::{Command, CommandFlags, Errno, HeaderStyle};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::{Who, fails};
use crate::site::{Disk, Kind, NAME, TEXT};

const BLOCKS: Need = Need::Server(&[Kind::Nbdkit, Kind::Qemu], "nbd serve takes every offset");
const SHORT: Need = Need::Server(&[Kind::Nbdkit], "no other server can be told a maximum");
const LOCAL: Need = Need::PlainOnly("the checks are made before anything is encrypted");

cases! {
    a_name_that_has_to_be_escaped,
    the_name_and_the_text_are_told_if_asked_for,
    no_name_means_the_default_if_there_is_one,
    a_name_that_does_not_exist,
    read_only,
    of_no_size,
    of_an_odd_size,
    of_an_enormous_size,
    of_large_blocks [BLOCKS, LOCAL],
    of_short_payloads [SHORT, LOCAL],
}

const MIB: u64 = 1 << 20;

fn a_name_that_has_to_be_escaped(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.named()?.export_uri(NAME);
    let mut disk = fixture.connect_to(&uri, as_is)?;
    let export = disk.facts().export.expect("it was described");
    assert_eq!(export.size, MIB);
    disk.write(5, &[5; 5], CommandFlags::empty())?;
    assert_eq!(disk.read(5, 5)?, [5; 5]);
    Ok(())
}

fn the_name_and_the_text_are_told_if_asked_for(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.named()?.export_uri(NAME);
    let disk = fixture.connect_to(&uri, |config| config.full_info(true))?;
    let export = disk.facts().export.expect("it was described");
    assert_eq!(export.canonical_name.as_deref(), Some(NAME));
    assert_eq!(export.description.as_deref(), Some(TEXT));
    Ok(())
}

fn no_name_means_the_default_if_there_is_one(fixture: &mut Fixture<'_>) -> CaseResult {
    let kind = fixture.site.kind;
    let uri = fixture.named()?.uri();
    let connected = fixture.connect_to(&uri, |config| config.full_info(true));
    match kind {
        Kind::Ours => {
            let export = connected?.facts().export.expect("it was described");
            assert_eq!(export.canonical_name.as_deref(), Some(NAME));
        }
        Kind::Nbdkit | Kind::Qemu => drop(fails(connected, Who::Server, Errno::NoEnt)),
    }
    Ok(())
}

fn a_name_that_does_not_exist(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.named()?.export_uri("nowhere");
    fails(fixture.connect_to(&uri, as_is), Who::Server, Errno::NoEnt);
    let uri = fixture.named()?.export_uri(NAME);
    fixture.connect_to(&uri, as_is)?;
    Ok(())
}

fn read_only(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::ReadOnly)?;
    let mut disk =
        fixture.connect_to(&server.uri(), |config| config.meta_context("base:allocation"))?;
    assert!(disk.facts().export.expect("it was described").is_read_only());
    fails(disk.write(0, &[1; 512], CommandFlags::empty()), Who::Caller, Errno::Perm);
    fails(disk.write(0, &[1; 512], CommandFlags::FUA), Who::Caller, Errno::Perm);
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    assert!(!disk.status(0, MIB, CommandFlags::empty())?.is_empty());
    // What is offered cannot be used, and what is not offered neither.
    for command in [Command::trim(0, 512), Command::write_zeroes(0, 512)] {
        let failure = crate::outcome::failed(disk.run(command));
        assert_eq!(failure.who, Who::Caller, "{failure}");
    }
    Ok(())
}

fn of_no_size(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(0))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    assert_eq!(disk.facts().export.expect("it was described").size, 0);
    fails(disk.read(0, 1), Who::Caller, Errno::Inval);
    fails(disk.write(0, &[1], CommandFlags::empty()), Who::Caller, Errno::NoSpc);
    disk.flush()?;
    disk.disconnect()?;
    Ok(())
}

fn of_an_odd_size(fixture: &mut Fixture<'_>) -> CaseResult {
    let wanted = 1_000_001;
    let server = fixture.site.start(Disk::Sized(wanted))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let size = match fixture.site.kind {
        Kind::Nbdkit | Kind::Ours => wanted,
        // It counts in sectors.
        Kind::Qemu => wanted.next_multiple_of(512),
    };
    assert_eq!(disk.facts().export.expect("it was described").size, size);
    let data = noise(1001, 1);
    disk.write(size - 1001, &data, CommandFlags::empty())?;
    assert_eq!(disk.read(size - 1001, 1001)?, data);
    fails(disk.read(size - 1000, 1001), Who::Caller, Errno::Inval);
    Ok(())
}

/// Far beyond 32 bits: offsets that are cut would land at the start.
fn of_an_enormous_size(fixture: &mut Fixture<'_>) -> CaseResult {
    let size = match fixture.site.kind {
        Kind::Nbdkit | Kind::Ours => 1 << 62,
        Kind::Qemu => 8 << 40,
    };
    let server = fixture.site.start(Disk::Sized(size))?;
    let mut disk =
        fixture.connect_to(&server.uri(), |config| config.meta_context("base:allocation"))?;
    assert_eq!(disk.facts().export.expect("it was described").size, size);
    let data = noise(4096, 2);
    for at in [1 << 32, (1 << 40) + 1, size - 4096] {
        disk.write(at, &data, CommandFlags::empty())?;
        assert_eq!(disk.read(at, 4096)?, data, "at {at}");
    }
    assert_eq!(disk.read(0, 4096)?, [0; 4096]);
    // Lengths beyond 32 bits need extended headers.
    let far = Command::trim(0, 5 << 30);
    let status = Command::block_status(0, 5 << 30);
    if disk.facts().headers == HeaderStyle::Extended {
        let extents = disk.status(8 << 30, 5 << 30, CommandFlags::empty())?;
        assert_eq!(extents[0].1.length, 5 << 30);
        disk.run(far)?;
        assert_eq!(disk.read(1 << 32, 4096)?, [0; 4096]);
    } else {
        fails(disk.run(far), Who::Caller, Errno::Range);
        fails(disk.run(status), Who::Caller, Errno::Range);
        assert_eq!(disk.read(1 << 32, 4096)?, data);
    }
    assert_eq!(disk.read((1 << 40) + 1, 4096)?, data);
    Ok(())
}

fn of_large_blocks(fixture: &mut Fixture<'_>) -> CaseResult {
    let scratch = nbd_sim::peer::Scratch::new()?;
    let server = match fixture.site.kind {
        Kind::Qemu => {
            let image = scratch.raw_image("disk", MIB)?;
            let image = image.to_str().expect("test paths are UTF-8");
            let aligned =
                format!("driver=blkdebug,align=4096,image.driver=file,image.filename={image}");
            fixture.site.start_with(&["--image-opts", &aligned])?
        }
        Kind::Nbdkit | Kind::Ours => fixture.site.start_with(&[
            "--filter=blocksize-policy",
            "memory",
            "1M",
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=32M",
        ])?,
    };
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    assert_eq!(disk.facts().export.expect("it was described").minimum_block(), 4096);
    for (at, length) in [(1, 4096), (0, 1), (4096, 4097), (512, 512)] {
        fails(disk.read(at, length), Who::Caller, Errno::Inval);
        let written = disk.write(at, &vec![1; length], CommandFlags::empty());
        fails(written, Who::Caller, Errno::Inval);
        fails(disk.run(Command::write_zeroes(at, length as u64)), Who::Caller, Errno::Inval);
    }
    let data = noise(8192, 3);
    disk.write(4096, &data, CommandFlags::empty())?;
    assert_eq!(disk.read(4096, 8192)?, data);
    Ok(())
}

fn of_short_payloads(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&[
        "--filter=blocksize-policy",
        "memory",
        "8M",
        "blocksize-minimum=1",
        "blocksize-preferred=4096",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ])?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let data = noise(3 << 20, 4);
    let written = disk.write(100, &data, CommandFlags::empty());
    let back = disk.read(100, 3 << 20);
    if fixture.subject.splits() {
        written?;
        assert!(back? == data);
    } else {
        fails(written, Who::Caller, Errno::Range);
        fails(back, Who::Caller, Errno::Range);
    }
    disk.write(100, &data[..1 << 20], CommandFlags::empty())?;
    assert!(disk.read(100, 1 << 20)? == data[..1 << 20]);
    Ok(())
}
