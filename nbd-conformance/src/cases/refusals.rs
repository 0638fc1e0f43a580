//! What is refused before it is sent, and what the server refuses.

use nbd_proto::{Command, CommandFlags, Errno, StrictMode};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, cases};
use crate::fixture::Fixture;
use crate::outcome::{Op, Who, failed, fails};
use crate::site::{Kind, SIZE, Security, Site};

cases! {
    nothing_is_no_command,
    no_bytes_are_no_fault,
    a_payload_takes_a_buffer,
    reading_beyond_the_end,
    writing_beyond_the_end,
    beyond_the_end_of_all_numbers,
    payloads_beyond_all_limits,
    flags_of_other_commands,
    the_server_refuses_a_read,
    the_server_refuses_a_write,
    only_what_is_wrong_is_refused,
}

const RANGED: [fn(u64, u64) -> Command; 4] =
    [Command::trim, Command::write_zeroes, Command::block_status, Command::cache];

fn nothing_is_no_command(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for command in [Command::read(0, 0), Command::write(0, 0)] {
        fails(disk.run(command), Who::Caller, Errno::Inval);
    }
    for ranged in RANGED {
        fails(disk.run(ranged(0, 0)), Who::Caller, Errno::Inval);
    }
    disk.read(0, 1)?;
    Ok(())
}

/// Where a call is split into commands, no bytes are no commands; elsewhere they are one that
/// is wrong.
fn no_bytes_are_no_fault(fixture: &mut Fixture<'_>) -> CaseResult {
    let splits = fixture.subject.splits();
    let disk = fixture.disk()?;
    for at in [0, SIZE, u64::MAX] {
        let outcomes = [disk.read(at, 0).map(drop), disk.write(at, &[], CommandFlags::empty())];
        for outcome in outcomes {
            match splits {
                true => outcome?,
                false => drop(fails(outcome, Who::Caller, Errno::Inval)),
            }
        }
    }
    disk.read(0, 1)?;
    Ok(())
}

/// Whoever forgets it, or brings another one, is told; and nobody else suffers.
fn a_payload_takes_a_buffer(fixture: &mut Fixture<'_>) -> CaseResult {
    // Where calls take buffers and no commands, they cannot be wrong.
    let bare = fixture.subject.splits();
    let disk = fixture.disk()?;
    disk.write(0, &[7; 1024], CommandFlags::empty())?;
    if bare {
        for command in [Command::read(0, 512), Command::write(0, 512)] {
            let failure = fails(disk.run(command), Who::Caller, Errno::Inval);
            assert!(failure.text.contains("a buffer of 0 bytes"), "{failure}");
        }
    }
    assert_eq!(disk.read(0, 1024)?, [7; 1024]);
    Ok(())
}

fn reading_beyond_the_end(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for (at, length) in [(SIZE, 1), (SIZE - 1, 2), (SIZE + 1, 1), (0, SIZE + 1)] {
        let command = Command { length, ..Command::read(at, 0) };
        fails(disk.run(command), Who::Caller, Errno::Inval);
        fails(disk.run(Command::block_status(at, length)), Who::Caller, Errno::Inval);
        fails(disk.run(Command::cache(at, length)), Who::Caller, Errno::Inval);
    }
    fails(disk.read(SIZE - 10, 11), Who::Caller, Errno::Inval);
    disk.read(SIZE - 10, 10)?;
    Ok(())
}

fn writing_beyond_the_end(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for (at, length) in [(SIZE, 1), (SIZE - 1, 2), (SIZE + 1, 1), (0, SIZE + 1)] {
        for command in [Command::trim(at, length), Command::write_zeroes(at, length)] {
            fails(disk.run(command), Who::Caller, Errno::NoSpc);
        }
    }
    disk.write(SIZE - 10, &[1; 10], CommandFlags::empty())?;
    let beyond = disk.write(SIZE - 10, &[2; 11], CommandFlags::empty());
    fails(beyond, Who::Caller, Errno::NoSpc);
    assert_eq!(disk.read(SIZE - 10, 10)?, [1; 10], "nothing of it was written");
    Ok(())
}

fn beyond_the_end_of_all_numbers(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for (at, length) in [(u64::MAX, 1), (u64::MAX, u64::MAX), (SIZE - 1, u64::MAX), (1, u64::MAX)] {
        fails(disk.run(Command::block_status(at, length)), Who::Caller, Errno::Inval);
        fails(disk.run(Command::trim(at, length)), Who::Caller, Errno::NoSpc);
    }
    fails(disk.read(u64::MAX, 1), Who::Caller, Errno::Inval);
    fails(disk.read(u64::MAX - 511, 512), Who::Caller, Errno::Inval);
    fails(disk.write(u64::MAX, &[1], CommandFlags::empty()), Who::Caller, Errno::NoSpc);
    Ok(())
}

/// With no check of the range there is still one of the length.
fn payloads_beyond_all_limits(fixture: &mut Fixture<'_>) -> CaseResult {
    let strict = StrictMode::all() - StrictMode::BOUNDS;
    let mut disk = fixture.connect(|config| config.strict(strict))?;
    let length = (64 << 20) + 1;
    fails(disk.run(Command::read(0, length)), Who::Caller, Errno::Range);
    fails(disk.run(Command::write(0, length)), Who::Caller, Errno::Range);
    disk.read(0, 1)?;
    Ok(())
}

fn flags_of_other_commands(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = fixture.disk()?;
    for command in [
        Command::flush().with(CommandFlags::FUA),
        Command::trim(0, 512).with(CommandFlags::NO_HOLE),
        Command::write_zeroes(0, 512).with(CommandFlags::DF),
        Command::block_status(0, 512).with(CommandFlags::FUA),
        Command::block_status(0, 512).with(CommandFlags::FAST_ZERO),
    ] {
        fails(disk.run(command), Who::Caller, Errno::Inval);
    }
    let flagged = [
        Op::read(0, 512).with(CommandFlags::FUA),
        Op::read(0, 512).with(CommandFlags::REQ_ONE),
        Op::write(0, vec![1; 512]).with(CommandFlags::DF),
    ];
    for outcome in disk.batch(flagged.to_vec(), &mut || ()) {
        fails(outcome, Who::Caller, Errno::Inval);
    }
    Ok(())
}

/// Without checks on this side, to see that server's.
fn unchecked(
    fixture: &Fixture<'_>,
) -> Result<Box<dyn crate::subject::Session>, crate::outcome::Failure> {
    let strict = StrictMode::AUTO_FLAG;
    fixture.connect(|config| config.meta_context("base:allocation").strict(strict))
}

fn the_server_refuses_a_read(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = unchecked(fixture)?;
    let read = Op::read(SIZE, 512);
    let outcome = disk.batch(vec![read], &mut || ()).remove(0);
    let failure = fails(outcome, Who::Server, Errno::Inval);
    let expected = format!("read of 512 bytes at {SIZE}");
    assert!(failure.text.contains(&expected), "{}", failure.text);
    // nbdkit finds no words.
    let speaks = fixture.site.kind != Kind::Nbdkit;
    assert_eq!(failure.text.contains("server said"), speaks, "{}", failure.text);
    disk.read(0, 512)?;
    Ok(())
}

/// nbdkit 1.32 skips the payload of a write that it refuses on the socket itself, behind the
/// back of TLS.
fn payload_can_be_refused(site: Site) -> bool {
    site.kind != Kind::Nbdkit || site.security == Security::Plain
}

fn the_server_refuses_a_write(fixture: &mut Fixture<'_>) -> CaseResult {
    let errno = match fixture.site.kind {
        Kind::Nbdkit | Kind::Ours => Errno::NoSpc,
        Kind::Qemu => Errno::Inval,
    };
    let mut disk = unchecked(fixture)?;
    if payload_can_be_refused(fixture.site) {
        fails(disk.write(SIZE, &[1; 70_000], CommandFlags::empty()), Who::Server, errno);
    }
    fails(disk.run(Command::write_zeroes(SIZE, 512)), Who::Server, errno);
    let status = disk.status(SIZE, 512, CommandFlags::empty());
    fails(status, Who::Server, Errno::Inval);
    disk.write(0, &[1; 512], CommandFlags::empty())?;
    Ok(())
}

fn only_what_is_wrong_is_refused(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = unchecked(fixture)?;
    let data = noise(64 << 10, 3);
    disk.write(0, &data, CommandFlags::empty())?;
    let payload = payload_can_be_refused(fixture.site);
    let op = |index: u64| match index % 4 {
        0 => Op::read(SIZE + index, 4096),
        1 if payload => Op::write(SIZE + index, vec![1; 4096]),
        1 => Op::run(Command::write_zeroes(SIZE + index, 4096)),
        _ => Op::read(index << 9, 4096),
    };
    let outcomes = disk.batch((0..100).map(op).collect(), &mut || ());
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match index % 4 {
            0 | 1 => assert_eq!(failed(outcome).who, Who::Server),
            _ => assert!(outcome?.data == data[index << 9..][..4096], "number {index}"),
        }
    }
    Ok(())
}
