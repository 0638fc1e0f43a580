//! Exports that cannot do everything: what they lack is refused before it is sent.

use nbd_proto::{Command, CommandFlags, Errno};

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::{Op, Who, fails};
use crate::site::Kind;

const PLUGINS: Need = Need::Server(&[Kind::Nbdkit], "the other servers can do all of it, always");
const LOCAL: Need = Need::PlainOnly("the checks are made before anything is encrypted");

cases! {
    no_flush [PLUGINS, LOCAL],
    no_writing_through [PLUGINS, LOCAL],
    no_trim [PLUGINS, LOCAL],
    no_zeroes [PLUGINS, LOCAL],
    no_fast_zeroes [PLUGINS, LOCAL],
    fast_zeroes_that_would_be_slow [PLUGINS, LOCAL],
    no_cache [PLUGINS, LOCAL],
    no_structured_replies [PLUGINS, LOCAL],
}

/// A plugin that reads and writes, and can do nothing else.
const BARE: [&str; 5] = [
    "eval",
    "get_size=echo 1048576",
    "can_write=exit 0",
    "pread=dd if=/dev/zero count=$3 iflag=count_bytes",
    "pwrite=cat >/dev/null",
];

/// Each of these is refused by a server started like this, and reading works.
fn lacks(fixture: &Fixture<'_>, args: &[&str], ops: &[Op]) -> CaseResult {
    let server = fixture.site.start_with(args)?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    for outcome in disk.batch(ops.to_vec(), &mut || ()) {
        fails(outcome, Who::Caller, Errno::Inval);
    }
    assert_eq!(disk.read(0, 512)?, [0; 512]);
    disk.disconnect()?;
    Ok(())
}

fn no_flush(fixture: &mut Fixture<'_>) -> CaseResult {
    lacks(fixture, &BARE, &[Op::run(Command::flush())])
}

fn no_writing_through(fixture: &mut Fixture<'_>) -> CaseResult {
    let fua = CommandFlags::FUA;
    let zero = Op::run(Command::write_zeroes(0, 512)).with(fua);
    lacks(fixture, &BARE, &[Op::write(0, vec![1; 512]).with(fua), zero])
}

fn no_trim(fixture: &mut Fixture<'_>) -> CaseResult {
    lacks(fixture, &BARE, &[Op::run(Command::trim(0, 512))])
}

fn no_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    let zero = Op::run(Command::write_zeroes(0, 512));
    let fast = zero.clone().with(CommandFlags::FAST_ZERO);
    lacks(fixture, &["--filter=nozero", "memory", "1M"], &[zero, fast])
}

fn no_fast_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    let args = ["--filter=nozero", "memory", "1M", "zeromode=emulate", "fastzeromode=none"];
    let zero = Op::run(Command::write_zeroes(0, 512));
    lacks(fixture, &args, &[zero.with(CommandFlags::FAST_ZERO)])
}

fn fast_zeroes_that_would_be_slow(fixture: &mut Fixture<'_>) -> CaseResult {
    let args = ["--filter=nozero", "memory", "1M", "zeromode=notrim", "fastzeromode=slow"];
    let server = fixture.site.start_with(&args)?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let zero = Command::write_zeroes(0, 512);
    fails(disk.run(zero.with(CommandFlags::FAST_ZERO)), Who::Server, Errno::NotSup);
    disk.run(zero)?;
    Ok(())
}

fn no_cache(fixture: &mut Fixture<'_>) -> CaseResult {
    let args = ["--filter=nocache", "memory", "1M", "cachemode=none"];
    lacks(fixture, &args, &[Op::run(Command::cache(0, 512))])
}

fn no_structured_replies(fixture: &mut Fixture<'_>) -> CaseResult {
    let unfragmented = Op::read(0, 512).with(CommandFlags::DF);
    lacks(fixture, &["--no-sr", "memory", "1M"], &[unfragmented])
}
