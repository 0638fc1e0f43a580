//! What the client refuses to send, and what servers say when it is made to.

use std::time::Duration;

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, ContextId, Disconnect, Limits, StrictMode,
    SubmitError,
};

use crate::support::{MIB, Qemu, connect, nbdkit, qemu, qemu_4k};

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const ENOTSUP: i32 = 95;
const EAGAIN: i32 = 11;
const ENOTCONN: i32 = 107;

/// Each command is refused with this number and these words, and nothing is sent.
fn refuses(client: &mut Client, table: &[(Command, i32, &str)]) {
    let sent = client.session().stats().wire.messages_sent;
    for (command, errno, words) in table {
        let error = match *command {
            Command { kind: CommandType::Write, .. } => {
                let mut pipeline = client.pipeline();
                let buffer = vec![0_u8; command.length as usize];
                pipeline.submit(*command, Some(buffer)).expect_err("it is wrong").error
            }
            command => client.submit_and_wait(command).expect_err("it is wrong"),
        };
        assert!(error.submit_error().is_some(), "{command:?}: {error}");
        assert_eq!(error.errno(), *errno, "{command:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("not sent"), "{text}");
        assert!(text.contains(words), "{command:?}: {text}");
    }
    assert_eq!(client.session().stats().wire.messages_sent, sent, "nothing was sent");
    client.read_exact_at(&mut [0; 4096], 0).expect("the connection is unharmed");
}

fn allocation() -> ClientConfig {
    ClientConfig::new().meta_context("base:allocation")
}

/// A server that can read and write and nothing else.
fn bare() -> nbd_sim::peer::Server {
    nbdkit(&[
        "eval",
        "get_size=echo 1M",
        "pread=dd if=/dev/zero bs=$3 count=1 status=none",
        "pwrite=cat >/dev/null",
    ])
}

const UNSUPPORTED: &str = "does not support this command";
const NO_FLAG: &str = "does not support this flag";
const NOT_ITS_FLAG: &str = "a flag that this command does not have";
const BEYOND: &str = "beyond the end of the export";
const ZERO: &str = "a length of 0";
const UNALIGNED: &str = "not a multiple of the minimum block size";
const TOO_LONG: &str = "too long for one command";
const NO_CONTEXT: &str = "structured replies and a meta context";

#[test]
fn commands_the_export_does_not_offer() {
    let server = bare();
    let mut client = connect(&server, allocation());
    assert!(!client.export().can_flush() && !client.export().can_trim());
    refuses(
        &mut client,
        &[
            (Command::flush(), EINVAL, UNSUPPORTED),
            (Command::trim(0, 512), EINVAL, UNSUPPORTED),
            (Command::cache(0, 512), EINVAL, UNSUPPORTED),
            (Command::write(0, 512).with(CommandFlags::FUA), EINVAL, NO_FLAG),
            (Command::write_zeroes(0, 512).with(CommandFlags::FUA), EINVAL, NO_FLAG),
        ],
    );
    let read_only = nbdkit(&["-r", "memory", "1M"]);
    let mut client = connect(&read_only, allocation());
    assert!(client.is_read_only() && client.export().is_read_only());
    refuses(
        &mut client,
        &[
            (Command::write(0, 512), EPERM, "the export is read-only"),
            (Command::trim(0, 512), EINVAL, UNSUPPORTED),
            (Command::write_zeroes(0, 512), EINVAL, UNSUPPORTED),
        ],
    );
    let Qemu { server, .. } = &qemu(MIB, &["-r"]);
    let mut client = connect(server, allocation());
    refuses(&mut client, &[(Command::write(0, 512), EPERM, "the export is read-only")]);
    let slow = nbdkit(&[
        "eval",
        "get_size=echo 1M",
        "pread=dd if=/dev/zero count=$3 iflag=count_bytes",
        "pwrite=cat >/dev/null",
        "zero=exit 0",
        "can_fast_zero=exit 3",
    ]);
    let mut client = connect(&slow, allocation());
    assert!(client.export().can_zero() && !client.export().can_fast_zero());
    let fast = Command::write_zeroes(0, 512).with(CommandFlags::FAST_ZERO);
    refuses(&mut client, &[(fast, EINVAL, NO_FLAG)]);
}

#[test]
fn without_structured_replies_or_contexts() {
    let simple = nbdkit(&["--no-sr", "memory", "1M"]);
    let mut client = connect(&simple, allocation());
    refuses(
        &mut client,
        &[
            (Command::block_status(0, 512), ENOTSUP, NO_CONTEXT),
            (Command::read(0, 512).with(CommandFlags::DF), EINVAL, NO_FLAG),
        ],
    );
    let structured = nbdkit(&["memory", "1M"]);
    let mut client = connect(&structured, ClientConfig::new());
    refuses(&mut client, &[(Command::block_status(0, 512), ENOTSUP, NO_CONTEXT)]);
    let error = client.extents("base:allocation", 0..MIB).expect_err("no context was asked for");
    assert_eq!(error.errno(), ENOTSUP, "{error}");
}

#[test]
fn flags_of_other_commands() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    let unknown = CommandFlags::from_bits_retain(1 << 15);
    refuses(
        &mut client,
        &[
            (Command::read(0, 512).with(CommandFlags::NO_HOLE), EINVAL, NOT_ITS_FLAG),
            (Command::read(0, 512).with(CommandFlags::FUA), EINVAL, NOT_ITS_FLAG),
            (Command::write(0, 512).with(CommandFlags::DF), EINVAL, NOT_ITS_FLAG),
            (Command::write(0, 512).with(unknown), EINVAL, NOT_ITS_FLAG),
            (Command::flush().with(CommandFlags::FUA), EINVAL, NOT_ITS_FLAG),
            (Command::trim(0, 512).with(CommandFlags::NO_HOLE), EINVAL, NOT_ITS_FLAG),
            (Command::cache(0, 512).with(CommandFlags::FUA), EINVAL, NOT_ITS_FLAG),
            (Command::write_zeroes(0, 512).with(CommandFlags::DF), EINVAL, NOT_ITS_FLAG),
            (Command::block_status(0, 512).with(CommandFlags::FUA), EINVAL, NOT_ITS_FLAG),
        ],
    );
}

#[test]
fn ranges_lengths_and_alignment() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    refuses(
        &mut client,
        &[
            (Command::read(MIB, 1), EINVAL, BEYOND),
            (Command::read(MIB - 511, 512), EINVAL, BEYOND),
            (Command::read(u64::MAX, 512), EINVAL, BEYOND),
            (Command::cache(MIB, 512), EINVAL, BEYOND),
            (Command::block_status(MIB, 512), EINVAL, BEYOND),
            (Command::write(MIB, 512), ENOSPC, BEYOND),
            (Command::write(u64::MAX - 511, 512), ENOSPC, BEYOND),
            (Command::trim(0, MIB + 1), ENOSPC, BEYOND),
            (Command::write_zeroes(MIB - 1, 2), ENOSPC, BEYOND),
            (Command::read(0, 0), EINVAL, ZERO),
            (Command::write(0, 0), EINVAL, ZERO),
            (Command::trim(0, 0), EINVAL, ZERO),
            (Command::cache(0, 0), EINVAL, ZERO),
            (Command::write_zeroes(0, 0), EINVAL, ZERO),
            (Command::block_status(0, 0), EINVAL, ZERO),
        ],
    );
    let Qemu { server, .. } = &qemu_4k(MIB);
    let mut client = connect(server, allocation());
    assert_eq!(client.export().minimum_block(), 4096);
    refuses(
        &mut client,
        &[
            (Command::read(1, 4096), EINVAL, UNALIGNED),
            (Command::read(0, 512), EINVAL, UNALIGNED),
            (Command::write(2048, 4096), EINVAL, UNALIGNED),
            (Command::trim(4096, 1), EINVAL, UNALIGNED),
        ],
    );
}

#[test]
fn payloads_and_lengths_beyond_every_limit() {
    let Qemu { server, .. } = &qemu(256 * MIB, &[]);
    let mut client = connect(server, ClientConfig::new());
    let maximum = client.export().block_sizes.expect("qemu-nbd tells them").maximum;
    refuses(
        &mut client,
        &[
            (Command::write(0, maximum + 1), ERANGE, TOO_LONG),
            (Command::read(0, maximum + 1), ERANGE, TOO_LONG),
        ],
    );
    // The limit that holds whatever the server says and however lax the checks.
    client.set_strict(StrictMode::empty());
    refuses(
        &mut client,
        &[
            (Command::read(0, (64 << 20) + 1), ERANGE, TOO_LONG),
            (Command::write(0, (64 << 20) + 1), ERANGE, TOO_LONG),
        ],
    );
    let compact = nbdkit(&["memory", "16G"]);
    let mut client = connect(&compact, allocation().strict(StrictMode::empty()));
    let length = u64::from(u32::MAX) + 1;
    refuses(
        &mut client,
        &[
            (Command::trim(0, length), ERANGE, "needs extended headers"),
            (Command::write_zeroes(0, length), ERANGE, "needs extended headers"),
            (Command::block_status(0, length), ERANGE, "needs extended headers"),
        ],
    );
}

#[test]
fn filters_of_contexts() {
    let compact = nbdkit(&["memory", "1M"]);
    let mut client = connect(&compact, allocation());
    let allocation_id = client.context("base:allocation").expect("it was granted");
    let filtered = |client: &mut Client, contexts: &[ContextId]| {
        let none = CommandFlags::empty();
        let result = client.block_status_filtered(0, 4096, none, contexts);
        result.expect_err("it is wrong")
    };
    let error = filtered(&mut client, &[allocation_id]);
    assert_eq!(error.errno(), ENOTSUP, "{error}");
    assert!(error.to_string().contains("cannot be selected per command"), "{error}");
    let Qemu { server, .. } = &qemu(MIB, &[]);
    let mut client = connect(server, allocation());
    let error = filtered(&mut client, &[ContextId(77)]);
    assert_eq!(error.errno(), EINVAL, "{error}");
    assert!(error.to_string().contains("not negotiated"), "{error}");
    client.read_exact_at(&mut [0; 512], 0).expect("the connection is unharmed");
}

#[test]
fn payload_flag_by_hand() {
    let manual = StrictMode::all() - StrictMode::AUTO_FLAG;
    let compact = nbdkit(&["memory", "1M"]);
    let mut client = connect(&compact, allocation().strict(manual));
    let flagged = Command::write(0, 512).with(CommandFlags::PAYLOAD_LEN);
    refuses(&mut client, &[(flagged, EINVAL, NOT_ITS_FLAG)]);
    client.write_all_at(&[1; 512], 0).expect("without the flag it is right");
    let Qemu { server, .. } = &qemu(MIB, &[]);
    let mut client = connect(server, allocation().strict(manual));
    refuses(&mut client, &[(Command::write(0, 512), EINVAL, NOT_ITS_FLAG)]);
    client
        .write_all_at_with(&[1; 512], 0, CommandFlags::PAYLOAD_LEN)
        .expect("with the flag it is right");
    // With AUTO_FLAG the caller need not know.
    client.set_strict(StrictMode::all());
    client.write_all_at(&[1; 512], 0).expect("the flag is set");
}

#[test]
fn after_the_end_and_when_full() {
    let server = nbdkit(&["memory", "1M"]);
    let limits = Limits::default().max_in_flight(1);
    let mut client = connect(&server, allocation().limits(limits));
    let mut pipeline = client.pipeline();
    pipeline.read(vec![0; 512], 0).expect("there is room for one");
    let error = pipeline.read(vec![0; 512], 0).expect_err("not for two").error;
    assert_eq!(error.errno(), EAGAIN, "{error}");
    assert!(error.to_string().contains("too many commands in flight"), "{error}");
    assert!(pipeline.is_full());
    pipeline.disconnect(Disconnect::AfterReplies);
    let error = pipeline.read(vec![0; 512], 0).expect_err("the end was asked for").error;
    assert_eq!(error.errno(), EINVAL, "{error}");
    assert!(error.to_string().contains("is being closed"), "{error}");
    pipeline.wait().expect("one is due").result.expect("it is read");
    drop(pipeline);
    client.disconnect().expect("an orderly end");

    let mut server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    server.kill();
    for _ in 0..2 {
        let error = client.read_exact_at(&mut [0; 512], 0).expect_err("the server is dead");
        assert_eq!(error.errno(), ENOTCONN, "{error}");
    }
}

/// A buffer that does not fit is the caller's fault and nobody else's; and no length of time
/// is too long.
#[test]
fn a_buffer_that_does_not_fit_harms_trust_only() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    let mut pipeline = client.pipeline();
    pipeline.read(vec![0; 512], 0).expect("it is sound");
    for (command, buffer) in [
        (Command::read(0, 512), Some(vec![0; 511])),
        (Command::write(0, 512), Some(vec![0; 513])),
        (Command::write(0, 512), None),
        (Command::flush(), Some(vec![0; 1])),
    ] {
        let rejected = pipeline.submit(command, buffer.clone()).expect_err("it does not fit");
        assert_eq!(rejected.buffer, buffer, "it comes back");
        let told = format!("with a buffer of {} bytes", buffer.map_or(0, |buffer| buffer.len()));
        let error = rejected.error;
        assert!(error.to_string().contains(&told) && error.errno() == EINVAL, "{error}");
    }
    let error =
        pipeline.submit(Command::read(MIB, 512), None).expect_err("wrong in two ways").error;
    assert!(error.submit_error() == Some(SubmitError::OutOfBounds), "{error}");
    while pipeline.completed() == 0 {
        pipeline.poll(Some(Duration::MAX)).expect("the connection holds");
    }
    pipeline.next_completion().expect("one is done").result.expect("it is read");
    drop(pipeline);
    client.flush().expect("the connection is unharmed");
}

#[test]
fn unchecked_it_is_the_server_who_refuses() {
    let lax = allocation().strict(StrictMode::empty());
    let Qemu { server, .. } = &qemu(MIB, &["-r"]);
    let mut client = connect(server, lax.clone());
    for (command, errno) in [
        (Command::read(MIB, 512), EINVAL),
        (Command::trim(0, 512), EINVAL),
        (Command::write_zeroes(0, 512), EINVAL),
        (Command::read(0, 512).with(CommandFlags::from_bits_retain(1 << 15)), EINVAL),
    ] {
        let result = match command.kind {
            CommandType::Read => {
                client.read_structured(&mut [0; 512], command.offset, command.flags).map(drop)
            }
            _ => client.submit_and_wait(command),
        };
        let error = result.expect_err("the server minds");
        assert!(error.command_failure().is_some(), "{command:?}: {error}");
        assert_eq!(error.errno(), errno, "{command:?}: {error}");
    }
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, lax);
    let error = client.write_all_at(&[0; 512], MIB).expect_err("there is no such place");
    assert_eq!(error.errno(), ENOSPC, "{error}");
    client.read_exact_at(&mut [0; 512], 0).expect("the connection is unharmed");
}
