//! What plain values answer when they are asked: numbers, names, words.

use std::io;

use nbd_proto::wire::option::BlockSizes;
use nbd_proto::*;

/// One question a flag: each is answered yes by its own flag and by no other.
#[test]
fn each_ability_is_one_flag() {
    type Question = fn(&ExportInfo) -> bool;
    let questions: [(TransmissionFlags, Question); 11] = [
        (TransmissionFlags::READ_ONLY, ExportInfo::is_read_only),
        (TransmissionFlags::SEND_FLUSH, ExportInfo::can_flush),
        (TransmissionFlags::SEND_FUA, ExportInfo::can_fua),
        (TransmissionFlags::ROTATIONAL, ExportInfo::is_rotational),
        (TransmissionFlags::SEND_TRIM, ExportInfo::can_trim),
        (TransmissionFlags::SEND_WRITE_ZEROES, ExportInfo::can_zero),
        (TransmissionFlags::SEND_DF, ExportInfo::can_df),
        (TransmissionFlags::CAN_MULTI_CONN, ExportInfo::can_multi_conn),
        (TransmissionFlags::SEND_CACHE, ExportInfo::can_cache),
        (TransmissionFlags::SEND_FAST_ZERO, ExportInfo::can_fast_zero),
        (TransmissionFlags::BLOCK_STATUS_PAYLOAD, ExportInfo::can_block_status_payload),
    ];
    for flag in TransmissionFlags::all() {
        let export = ExportInfo::new(0, flag);
        for (own, question) in questions {
            assert_eq!(question(&export), own == flag, "{own:?} of {flag:?}");
        }
    }
}

#[test]
fn a_minimum_block_is_one_byte_unless_told() {
    let mut export = ExportInfo::new(0, TransmissionFlags::HAS_FLAGS);
    assert_eq!(export.minimum_block(), 1);
    export.block_sizes = Some(BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 });
    assert_eq!(export.minimum_block(), 512);
}

/// proto.md, "Size constraints".
#[test]
fn block_sizes_are_powers_of_two_in_order_under_any_maximum() {
    let sane = |minimum, preferred, maximum| BlockSizes { minimum, preferred, maximum }.are_sane();
    assert!(sane(1, 512, 512) && sane(1 << 16, 1 << 16, 1 << 16) && sane(1, 4096, u32::MAX));
    // "it MAY be something other than a power of 2": nor need it be a multiple of any.
    assert!(sane(512, 4096, 4097));
    for minimum in [0, 3, 1 << 17] {
        assert!(!sane(minimum, 1 << 17, 1 << 20), "{minimum}");
    }
    assert!(!sane(1, 256, 4096) && !sane(1, 768, 4096) && !sane(4096, 2048, 4096));
    assert!(!sane(512, 4096, 4095));
}

#[test]
fn connections_are_safe_side_by_side_if_they_serve_the_same_and_the_server_says_so() {
    let facts = |size, flags| Negotiated::new(ExportInfo::new(size, flags));
    let shared = facts(4096, TransmissionFlags::CAN_MULTI_CONN);
    assert!(shared.is_safe_beside(&shared));
    let mut contexts = shared.clone();
    contexts.contexts.push(MetaContext { id: ContextId(1), name: "base:allocation".into() });
    let alone = facts(4096, TransmissionFlags::HAS_FLAGS);
    let larger = facts(8192, TransmissionFlags::CAN_MULTI_CONN);
    for other in [&contexts, &alone, &larger, &Negotiated::default()] {
        assert!(!shared.is_safe_beside(other), "{other:?}");
    }
    assert!(!alone.is_safe_beside(&alone));
    assert!(!Negotiated::default().is_safe_beside(&Negotiated::default()));
}

#[test]
fn a_cookie_is_a_slot_and_its_generation() {
    let id = RequestId::from_cookie(0x0000_0007_0000_0003);
    assert_eq!((id.slot(), id.to_cookie()), (3, 0x0000_0007_0000_0003));
    assert_eq!(format!("{id:?}"), "#3.7");
}

#[test]
fn the_bits_of_an_extent_are_told_apart() {
    let extent = |status| Extent { length: 1, status };
    let seen = [0, 1, 2, 3, 4, u64::MAX].map(|status| {
        let extent = extent(status);
        (extent.is_hole(), extent.is_zero())
    });
    let (no, yes) = (false, true);
    assert_eq!(seen, [(no, no), (yes, no), (no, yes), (yes, yes), (no, no), (yes, yes)]);
}

#[test]
fn a_command_tells_what_it_asks_for() {
    let all = [
        (Command::read(4096, 512), "read of 512 bytes at 4096"),
        (Command::write(4096, 512), "write of 512 bytes at 4096"),
        (Command::flush(), "flush"),
        (Command::trim(4096, 512), "trim of 512 bytes at 4096"),
        (Command::cache(4096, 512), "cache of 512 bytes at 4096"),
        (Command::write_zeroes(4096, 512), "write zeroes of 512 bytes at 4096"),
        (Command::block_status(4096, 512), "block status of 512 bytes at 4096"),
    ];
    for (command, words) in all {
        assert_eq!(command.to_string(), words);
        let with = command.with(CommandFlags::FUA).with(CommandFlags::DF);
        assert_eq!(with, Command { flags: CommandFlags::FUA | CommandFlags::DF, ..command });
    }
    let modifying: Vec<_> =
        all.iter().filter(|(c, _)| c.kind.modifies()).map(|(c, _)| c.kind).collect();
    assert_eq!(modifying, [CommandType::Write, CommandType::Trim, CommandType::WriteZeroes]);
    // What ends a session has no reply, and cannot be submitted.
    assert_eq!(CommandType::from_wire(wire::request::DISCONNECT), None);
}

#[test]
fn names_are_those_of_the_protocol_text() {
    let options = [
        (1, "NBD_OPT_EXPORT_NAME"),
        (2, "NBD_OPT_ABORT"),
        (3, "NBD_OPT_LIST"),
        (5, "NBD_OPT_STARTTLS"),
        (6, "NBD_OPT_INFO"),
        (7, "NBD_OPT_GO"),
        (8, "NBD_OPT_STRUCTURED_REPLY"),
        (9, "NBD_OPT_LIST_META_CONTEXT"),
        (10, "NBD_OPT_SET_META_CONTEXT"),
        (11, "NBD_OPT_EXTENDED_HEADERS"),
    ];
    for (number, name) in options {
        let option = OptionCode::from_wire(number).unwrap();
        assert_eq!((option.to_wire(), option.to_string()), (number, name.to_owned()));
    }
    assert_eq!([0, 4, 12].map(OptionCode::from_wire), [None; 3]);
    let protocols = [Protocol::Oldstyle, Protocol::Newstyle, Protocol::FixedNewstyle];
    assert_eq!(protocols.map(Protocol::name), ["oldstyle", "newstyle", "newstyle-fixed"]);
}

#[test]
fn a_failure_tells_what_the_server_said() {
    let report = ErrorReport { errno: Errno::Io, offset: None, message: b"bad\x07 sector" };
    let said = |offset| ServerMessage::from(ErrorReport { offset, ..report });
    let error = CommandError::Server(Errno::Io);
    let words = "read of 8192 bytes at 0: server error: input/output error (EIO)";
    let mut silent = ServerMessage::default();
    silent.offset = Some(4096);
    let cases = [
        (None, ""),
        (Some(ServerMessage::default()), ""),
        (Some(said(None)), r#": server said "bad\u{7} sector""#),
        (Some(said(Some(4096))), r#": server said "bad\u{7} sector" (at offset 4096)"#),
        (Some(silent), " (at offset 4096)"),
    ];
    for (said, more) in cases {
        let failure = CommandFailure::new(Command::read(0, 8192), error, said);
        assert_eq!(failure.to_string(), format!("{words}{more}"));
    }
}

/// The error number that a user of libnbd would see, the kind that `std` has for it, and
/// whether another connection may do better.
#[test]
fn errors_of_a_connection_are_sorted() {
    use PeerMisbehaved::{Closed, ClosedMidMessage, TooLong};
    use io::ErrorKind;

    let refused = |code| Error::from(Refusal::new(OptionCode::Go, code, "no disk"));
    let (once, again) = (false, true);
    let cases = [
        (InvalidMessage::NotNbd.into(), Errno::Proto, ErrorKind::InvalidData, once),
        (TooLong.into(), Errno::Proto, ErrorKind::InvalidData, once),
        (Closed.into(), Errno::NotConn, ErrorKind::UnexpectedEof, again),
        (ClosedMidMessage.into(), Errno::NotConn, ErrorKind::UnexpectedEof, again),
        (PeerIncompatible::NoTls.into(), Errno::NotSup, ErrorKind::Unsupported, once),
        (refused(RefusalCode::UnknownExport), Errno::NoEnt, ErrorKind::NotFound, once),
        (refused(RefusalCode::Shutdown), Errno::Shutdown, ErrorKind::NotConnected, again),
        (ApiMisuse::NameTooLong.into(), Errno::NameTooLong, ErrorKind::InvalidInput, once),
        (ApiMisuse::WrongState.into(), Errno::Inval, ErrorKind::InvalidInput, once),
    ];
    for (error, errno, kind, transient) in cases {
        let error: Error = error;
        assert_eq!((error.errno(), error.is_transient()), (errno, transient), "{error}");
        let words = error.to_string();
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind, words));
    }
    let words = "server refused NBD_OPT_GO: the server has no such export (\"no disk\")";
    assert_eq!(refused(RefusalCode::UnknownExport).to_string(), words);
}

#[test]
fn errors_of_a_command_have_their_number() {
    let commands = [
        (CommandError::Server(Errno::NoSpc), Errno::NoSpc),
        (CommandError::Fault(ReplyFault::Overlap), Errno::Proto),
        (CommandError::ConnectionLost, Errno::NotConn),
        (CommandError::NoDestination, Errno::Fault),
    ];
    for (error, errno) in commands {
        assert_eq!(error.errno(), errno);
        assert_eq!(io::Error::from(error).kind(), errno.into());
    }
    let submitted = [
        (SubmitError::Full, Errno::Again),
        (SubmitError::NotConnected, Errno::NotConn),
        (SubmitError::Disconnecting, Errno::Inval),
        (SubmitError::ReadOnly, Errno::Perm),
        (SubmitError::Unsupported, Errno::Inval),
        (SubmitError::UnsupportedFlag, Errno::Inval),
        (SubmitError::NoMetaContext, Errno::NotSup),
        (SubmitError::BadFlag, Errno::Inval),
        (SubmitError::ZeroLength, Errno::Inval),
        (SubmitError::OutOfBounds, Errno::Inval),
        (SubmitError::NoSpace, Errno::NoSpc),
        (SubmitError::Unaligned, Errno::Inval),
        (SubmitError::PayloadTooLong, Errno::Range),
        (SubmitError::LengthTooLong, Errno::Range),
        (SubmitError::NoFilter, Errno::NotSup),
        (SubmitError::UnknownContext, Errno::Inval),
    ];
    for (error, errno) in submitted {
        assert_eq!(error.errno(), errno, "{error}");
        assert_eq!(io::Error::from(error).kind(), errno.into());
    }
}
