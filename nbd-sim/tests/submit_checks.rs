//! What a client refuses to send, and why: the last that is sent, the first that is not,
//! and what each bit of `StrictMode` switches off.

use nbd_proto::{
    Client, ClientConfig, Command, CommandFlags, ContextId, Discard, Limits, Machine, Negotiation,
    StrictMode, SubmitError, TransmissionFlags as Flags,
};
use nbd_sim::hostile::bytes::{
    FLAGS, ack, block_size, context, export, granted, greeting, join, opt,
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 << 30;
const BY_PAYLOAD: u16 = Flags::BLOCK_STATUS_PAYLOAD.bits();

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Simple,
    Structured,
    Extended,
}
use Form::{Extended, Simple, Structured};

/// An export and a client of it.
#[derive(Clone, Copy)]
struct Setup {
    form: Form,
    flags: u16,
    sizes: Option<(u32, u32)>,
    contexts: u32,
    without: StrictMode,
}

const ALL: Setup = Setup {
    form: Extended,
    flags: FLAGS | BY_PAYLOAD,
    sizes: None,
    contexts: 2,
    without: StrictMode::empty(),
};

impl Setup {
    fn lacking(self, flag: Flags) -> Self {
        Self { flags: self.flags & !flag.bits(), ..self }
    }

    fn client(self) -> Client {
        let form = self.form;
        let mut config = ClientConfig::new()
            .structured_replies(form != Simple)
            .extended_headers(form == Extended)
            .strict(StrictMode::all() - self.without);
        let mut bursts = vec![greeting(3)];
        match form {
            Simple => {}
            Structured => bursts.push(ack(opt::STRUCTURED_REPLY)),
            Extended => bursts.push(ack(opt::EXTENDED_HEADERS)),
        }
        if form != Simple && self.contexts > 0 {
            let mut granted = Vec::new();
            for id in 1..=self.contexts {
                let name = format!("x:{id}");
                granted.extend(context(id, name.as_bytes()));
                config = config.meta_context(name);
            }
            granted.extend(ack(opt::SET_META_CONTEXT));
            bursts.push(granted);
        }
        let sizes = self.sizes.map_or(Vec::new(), |(least, most)| block_size(least, 4096, most));
        bursts.push(join(&[&sizes, &export(SIZE, self.flags), &ack(opt::GO)]));
        let mut negotiation = Negotiation::new(config).unwrap();
        for burst in bursts {
            negotiation.feed(&burst, &mut Discard).unwrap();
            negotiation.drain(&mut Vec::new(), &Discard).unwrap();
        }
        negotiation.finish().unwrap()
    }

    fn submit(self, command: Command) -> Result<(), SubmitError> {
        let mut client = self.client();
        let verdict = client.check(command);
        let result = client.submit(command).map(drop);
        assert_eq!(verdict, result, "{command}");
        result
    }

    /// The command is refused so, but not without the check.
    fn refuses(self, command: Command, error: SubmitError, check: StrictMode) {
        assert_eq!(self.submit(command), Err(error), "{command}");
        let lax = Self { without: self.without | check, ..self };
        assert_eq!(lax.submit(command), Ok(()), "{command} without {check:?}");
    }

    fn sends(self, command: Command) {
        assert_eq!(self.submit(command), Ok(()), "{command}");
    }
}

const READ: Command = Command::read(0, 4096);
const WRITE: Command = Command::write(0, 4096);
const TRIM: Command = Command::trim(0, 4096);
const CACHE: Command = Command::cache(0, 4096);
const ZERO: Command = Command::write_zeroes(0, 4096);
const STATUS: Command = Command::block_status(0, 4096);

#[test]
fn a_command_must_be_offered() {
    let offers = [
        (Command::flush(), Flags::SEND_FLUSH),
        (TRIM, Flags::SEND_TRIM),
        (CACHE, Flags::SEND_CACHE),
        (ZERO, Flags::SEND_WRITE_ZEROES),
    ];
    for (command, flag) in offers {
        ALL.sends(command);
        ALL.lacking(flag).refuses(command, SubmitError::Unsupported, StrictMode::COMMANDS);
    }
    for command in [READ, WRITE, STATUS] {
        ALL.sends(command);
    }
    // Block status needs a form that has it, and something to ask about.
    Setup { form: Structured, ..ALL }.sends(STATUS);
    for setup in [Setup { form: Simple, ..ALL }, Setup { contexts: 0, ..ALL }] {
        setup.refuses(STATUS, SubmitError::NoMetaContext, StrictMode::COMMANDS);
    }
}

#[test]
fn what_is_read_only_is_not_written_to() {
    let read_only = Setup { flags: FLAGS | Flags::READ_ONLY.bits(), ..ALL };
    for command in [WRITE, TRIM, ZERO] {
        read_only.refuses(command, SubmitError::ReadOnly, StrictMode::COMMANDS);
    }
    for command in [READ, CACHE, STATUS, Command::flush()] {
        read_only.sends(command);
    }
}

#[test]
fn a_flag_must_be_offered_and_be_one_of_the_command() {
    let structured = Setup { form: Structured, ..ALL };
    let offers = [
        (WRITE.with(CommandFlags::FUA), Flags::SEND_FUA),
        (TRIM.with(CommandFlags::FUA), Flags::SEND_FUA),
        (READ.with(CommandFlags::DF), Flags::SEND_DF),
        (ZERO.with(CommandFlags::FAST_ZERO), Flags::SEND_FAST_ZERO),
    ];
    for (command, flag) in offers {
        structured.sends(command);
        let lacking = structured.lacking(flag);
        lacking.refuses(command, SubmitError::UnsupportedFlag, StrictMode::COMMANDS);
    }
    for command in [ZERO.with(CommandFlags::NO_HOLE), STATUS.with(CommandFlags::REQ_ONE)] {
        structured.sends(command);
    }
    let strange = [
        READ.with(CommandFlags::FUA),
        READ.with(CommandFlags::NO_HOLE),
        WRITE.with(CommandFlags::DF),
        TRIM.with(CommandFlags::NO_HOLE),
        CACHE.with(CommandFlags::FUA),
        ZERO.with(CommandFlags::REQ_ONE),
        STATUS.with(CommandFlags::DF),
        Command::flush().with(CommandFlags::FUA),
    ];
    for command in strange {
        structured.refuses(command, SubmitError::BadFlag, StrictMode::FLAGS);
    }
}

/// Who sets `PAYLOAD_LEN` by hand must set it where a payload follows, and nowhere else.
#[test]
fn the_flag_of_a_payload_is_set_by_the_client_or_checked() {
    let flag = CommandFlags::PAYLOAD_LEN;
    let by_hand = |form, more| Setup { form, without: StrictMode::AUTO_FLAG | more, ..ALL };
    let none = StrictMode::empty();
    for form in [Simple, Structured, Extended] {
        for command in [READ, WRITE, READ.with(flag), WRITE.with(flag)] {
            Setup { form, ..ALL }.sends(command);
        }
        by_hand(form, none).sends(READ);
    }
    for form in [Simple, Structured] {
        by_hand(form, none).sends(WRITE);
        for command in [WRITE.with(flag), READ.with(flag)] {
            let setup = by_hand(form, StrictMode::FLAGS);
            setup.refuses(command, SubmitError::BadFlag, StrictMode::COMMANDS);
        }
    }
    by_hand(Extended, none).sends(WRITE.with(flag));
    by_hand(Extended, none).refuses(WRITE, SubmitError::BadFlag, StrictMode::COMMANDS);
    for command in [READ, TRIM, CACHE, ZERO] {
        let setup = by_hand(Extended, StrictMode::FLAGS);
        setup.refuses(command.with(flag), SubmitError::BadFlag, StrictMode::COMMANDS);
        let setup = by_hand(Extended, StrictMode::COMMANDS);
        setup.refuses(command.with(flag), SubmitError::BadFlag, StrictMode::FLAGS);
    }
    // Block status may have it, but only together with a filter.
    by_hand(Extended, none).sends(STATUS);
    let flagged = STATUS.with(flag);
    by_hand(Extended, none).refuses(flagged, SubmitError::BadFlag, StrictMode::COMMANDS);
    let filtered = |command| {
        let mut client = by_hand(Extended, none).client();
        client.submit_filtered(command, &[ContextId(1)]).map(drop)
    };
    assert_eq!(filtered(STATUS), Err(SubmitError::BadFlag));
    assert_eq!(filtered(flagged), Ok(()));
}

#[test]
fn a_range_is_inside_the_export() {
    let ranges = [(SIZE - 512, 513), (SIZE, 1), (SIZE + 1, 1), (u64::MAX, 1)];
    for (offset, length) in ranges {
        let out = [
            (Command::read(offset, length), SubmitError::OutOfBounds),
            (Command::cache(offset, length.into()), SubmitError::OutOfBounds),
            (Command::block_status(offset, length.into()), SubmitError::OutOfBounds),
            (Command::write(offset, length), SubmitError::NoSpace),
            (Command::trim(offset, length.into()), SubmitError::NoSpace),
            (Command::write_zeroes(offset, length.into()), SubmitError::NoSpace),
        ];
        for (command, error) in out {
            ALL.refuses(command, error, StrictMode::BOUNDS);
        }
    }
    for command in [Command::read(SIZE - 512, 512), Command::trim(SIZE - 512, 512)] {
        ALL.sends(command);
    }
    for command in [Command::read(0, 0), Command::write(SIZE, 0), Command::trim(512, 0)] {
        ALL.refuses(command, SubmitError::ZeroLength, StrictMode::ZERO_SIZE);
    }
}

#[test]
fn a_range_is_a_multiple_of_the_minimum_block() {
    let blocks = Setup { sizes: Some((512, 1 << 25)), ..ALL };
    blocks.sends(Command::read(512, 1024));
    blocks.sends(Command::trim(512, 1024));
    for (offset, length) in [(1, 512), (512, 1), (1, 1), (513, 511)] {
        for command in [Command::read(offset, length), Command::trim(offset, length.into())] {
            ALL.sends(command);
            blocks.refuses(command, SubmitError::Unaligned, StrictMode::ALIGN);
        }
    }
}

#[test]
fn a_payload_is_no_longer_than_the_server_takes() {
    let length = |bytes: u64| u32::try_from(bytes).unwrap();
    // Without a word of the server, 32 MiB may be written, and any length read.
    ALL.sends(Command::write(0, length(32 * MIB)));
    let long = Command::write(0, length(32 * MIB) + 1);
    ALL.refuses(long, SubmitError::PayloadTooLong, StrictMode::PAYLOAD);
    ALL.sends(Command::read(0, length(64 * MIB)));
    // What the server tells counts, however little it is.
    for most in [2 * MIB, 65536, 4097] {
        let setup = Setup { sizes: Some((1, length(most))), ..ALL };
        for (fits, long) in [
            (Command::read(0, length(most)), Command::read(0, length(most) + 1)),
            (Command::write(0, length(most)), Command::write(0, length(most) + 1)),
        ] {
            setup.sends(fits);
            setup.refuses(long, SubmitError::PayloadTooLong, StrictMode::PAYLOAD);
        }
        // No payload, no limit.
        setup.sends(Command::trim(0, 4 * most));
    }
    // The client's own limit holds in any mode.
    let lax = Setup { without: StrictMode::all(), ..ALL };
    for command in [Command::read, Command::write] {
        lax.sends(command(0, length(64 * MIB)));
        let long = command(0, length(64 * MIB) + 1);
        assert_eq!(lax.submit(long), Err(SubmitError::PayloadTooLong));
    }
}

#[test]
fn a_length_fits_the_headers() {
    let most = u64::from(u32::MAX);
    for form in [Simple, Structured] {
        let setup = Setup { form, ..ALL };
        setup.sends(Command::trim(0, most));
        for command in [Command::trim(0, most + 1), Command::cache(0, most + 1)] {
            assert_eq!(setup.submit(command), Err(SubmitError::LengthTooLong));
            ALL.sends(command);
        }
    }
}

#[test]
fn a_filter_names_contexts_of_this_connection() {
    let filtered = |setup: Setup, command, contexts: &[u32]| {
        let contexts: Vec<_> = contexts.iter().copied().map(ContextId).collect();
        let mut client = setup.client();
        client.submit_filtered(command, &contexts)?;
        let mut sent = Vec::new();
        client.drain(&mut sent, &Discard).unwrap();
        Ok(sent)
    };
    let lax = Setup { without: StrictMode::FLAGS, ..ALL };
    assert_eq!(filtered(lax, READ, &[1]), Err(SubmitError::NoFilter));
    assert_eq!(filtered(ALL, STATUS, &[]), Err(SubmitError::NoFilter));
    let structured = Setup { form: Structured, ..ALL };
    assert_eq!(filtered(structured, STATUS, &[1]), Err(SubmitError::NoFilter));
    assert_eq!(filtered(ALL, STATUS, &[1, 3]), Err(SubmitError::UnknownContext));
    let lacking = ALL.lacking(Flags::BLOCK_STATUS_PAYLOAD);
    assert_eq!(filtered(lacking, STATUS, &[1]), Err(SubmitError::UnsupportedFlag));
    // A server must refuse a context that is named twice, so it never is.
    let many = [1, 2].repeat(1 << 16);
    let cases = [(&[2][..], &[2][..]), (&[2, 1], &[2, 1]), (&[2, 1, 2], &[2, 1]), (&many, &[1, 2])];
    for (asked, ids) in cases {
        let sent = filtered(ALL, STATUS, asked).unwrap();
        let length = 8 + 4 * ids.len();
        assert_eq!(sent.len(), 32 + length);
        assert_eq!(sent[24..32], (length as u64).to_be_bytes());
        assert_eq!(sent[32..40], 4096_u64.to_be_bytes());
        let named = ids.iter().flat_map(|id: &u32| id.to_be_bytes());
        assert_eq!(sent[40..], named.collect::<Vec<_>>());
    }
}

#[test]
fn no_more_is_in_flight_than_the_limit() {
    let limits = Limits::default().max_in_flight(2);
    let config = ClientConfig::new().structured_replies(false).extended_headers(false);
    let mut negotiation = Negotiation::new(config.limits(limits)).unwrap();
    for burst in [greeting(3), granted()] {
        negotiation.feed(&burst, &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    }
    let mut client = negotiation.finish().unwrap();
    assert_eq!((client.capacity(), client.is_full()), (2, false));
    for command in [READ, TRIM] {
        client.submit(command).unwrap();
    }
    assert!(client.is_full());
    for command in [READ, TRIM, Command::flush(), Command::cache(u64::MAX, 1)] {
        assert_eq!(client.submit(command), Err(SubmitError::Full), "{command}");
    }
}
