//! What is agreed on, and what happens to what is not asked for.

use nbd_proto::{
    CommandFlags, Errno, HandshakeFlags, HeaderStyle, Limits, Protocol, TransmissionFlags,
};
use nbd_sim::peer::version;
use nbd_sim::rng::noise;
use nbd_transport::tls::TlsPeer;

use crate::case::{CaseResult, cases};
use crate::fixture::Fixture;
use crate::outcome::{Who, fails};
use crate::site::{Credentials, Kind, SIZE, Security};

cases! {
    the_size_is_told,
    the_flags_are_the_servers,
    block_sizes_are_told,
    the_best_header_style_is_agreed_on,
    security_is_what_was_asked_for,
    without_extended_headers,
    without_structured_replies,
    without_block_sizes,
    without_the_fixed_handshake_flag_for_zeroes,
    contexts_that_are_not_asked_for_are_not_granted,
    contexts_that_do_not_exist_are_not_granted,
    few_commands_at_a_time,
    little_memory,
}

fn the_size_is_told(fixture: &mut Fixture<'_>) -> CaseResult {
    let facts = fixture.disk()?.facts();
    assert_eq!(facts.export.expect("it was described").size, SIZE);
    assert_eq!(facts.protocol, Protocol::FixedNewstyle);
    assert_eq!(facts.handshake_flags, HandshakeFlags::all());
    Ok(())
}

fn the_flags_are_the_servers(fixture: &mut Fixture<'_>) -> CaseResult {
    let told = fixture.disk()?.facts().export.expect("it was described").flags;
    let all = TransmissionFlags::HAS_FLAGS
        | TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_TRIM
        | TransmissionFlags::SEND_WRITE_ZEROES
        | TransmissionFlags::SEND_FAST_ZERO
        | TransmissionFlags::SEND_DF
        | TransmissionFlags::CAN_MULTI_CONN;
    let more = match fixture.site.kind {
        Kind::Nbdkit => TransmissionFlags::SEND_CACHE,
        Kind::Qemu => TransmissionFlags::SEND_CACHE | TransmissionFlags::BLOCK_STATUS_PAYLOAD,
        Kind::Ours => TransmissionFlags::BLOCK_STATUS_PAYLOAD,
    };
    assert_eq!(told, all | more);
    Ok(())
}

fn block_sizes_are_told(fixture: &mut Fixture<'_>) -> CaseResult {
    let told = fixture.disk()?.facts().export.expect("it was described").block_sizes;
    let told = told.map(|sizes| (sizes.minimum, sizes.preferred, sizes.maximum));
    let expected = match fixture.site.kind {
        // Since then its memory tells the size of its pages.
        Kind::Nbdkit if version("nbdkit")? >= (1, 42) => Some((1, 32 << 10, u32::MAX)),
        Kind::Nbdkit => None,
        Kind::Qemu | Kind::Ours => Some((1, 4096, 32 << 20)),
    };
    assert_eq!(told, expected);
    Ok(())
}

fn best_style(kind: Kind) -> HeaderStyle {
    match kind {
        Kind::Nbdkit => HeaderStyle::Structured,
        Kind::Qemu | Kind::Ours => HeaderStyle::Extended,
    }
}

fn the_best_header_style_is_agreed_on(fixture: &mut Fixture<'_>) -> CaseResult {
    assert_eq!(fixture.disk()?.facts().headers, best_style(fixture.site.kind));
    Ok(())
}

fn security_is_what_was_asked_for(fixture: &mut Fixture<'_>) -> CaseResult {
    let security = fixture.site.security;
    let disk = fixture.disk()?;
    assert_eq!(disk.facts().tls, security != Security::Plain);
    let peer = disk.tls_info().map(|info| info.peer);
    match security {
        Security::Plain => assert_eq!(peer, None),
        Security::Tls => assert!(matches!(peer, Some(TlsPeer::Certificate { .. })), "{peer:?}"),
        Security::Psk => {
            let username = Credentials::USER.to_owned();
            assert_eq!(peer, Some(TlsPeer::PresharedKey { username }));
        }
    }
    Ok(())
}

/// Every command works whatever was agreed on.
fn works(
    fixture: &Fixture<'_>,
    change: impl FnOnce(nbd_proto::ClientConfig) -> nbd_proto::ClientConfig,
) -> Result<Box<dyn crate::subject::Session>, crate::outcome::Failure> {
    let mut disk = fixture.connect(|config| change(config.meta_context("base:allocation")))?;
    let data = noise(70_000, 4);
    disk.write(1000, &data, CommandFlags::FUA)?;
    disk.write_zeroes(1000, 10)?;
    disk.flush()?;
    let back = disk.read(1000, 70_000)?;
    assert!(back[..10] == [0; 10] && back[10..] == data[10..]);
    Ok(disk)
}

fn without_extended_headers(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = works(fixture, |config| config.extended_headers(false))?;
    assert_eq!(disk.facts().headers, HeaderStyle::Structured);
    let extents = disk.status(0, SIZE, CommandFlags::empty())?;
    assert!(!extents.is_empty());
    let flags = disk.facts().export.expect("it was described").flags;
    assert!(!flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD), "of no use without");
    Ok(())
}

fn without_structured_replies(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = works(fixture, |config| config.structured_replies(false))?;
    assert_eq!(disk.facts().headers, HeaderStyle::Simple);
    let flags = disk.facts().export.expect("it was described").flags;
    assert!(!flags.contains(TransmissionFlags::SEND_DF), "of no use without");
    let status = disk.status(0, 512, CommandFlags::empty());
    fails(status, Who::Caller, Errno::NotSup);
    Ok(())
}

fn without_block_sizes(fixture: &mut Fixture<'_>) -> CaseResult {
    works(fixture, |config| config.block_sizes(false))?;
    Ok(())
}

fn without_the_fixed_handshake_flag_for_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    let disk = works(fixture, |config| config.handshake_flags(HandshakeFlags::FIXED_NEWSTYLE))?;
    assert_eq!(disk.facts().handshake_flags, HandshakeFlags::FIXED_NEWSTYLE);
    Ok(())
}

fn contexts_that_are_not_asked_for_are_not_granted(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut disk = fixture.connect(crate::fixture::as_is)?;
    assert_eq!(disk.facts().contexts, []);
    let status = disk.status(0, 512, CommandFlags::empty());
    fails(status, Who::Caller, Errno::NotSup);
    disk.read(0, 512)?;
    Ok(())
}

fn contexts_that_do_not_exist_are_not_granted(fixture: &mut Fixture<'_>) -> CaseResult {
    let ask = |name: &'static str| fixture.connect(move |config| config.meta_context(name));
    assert_eq!(ask("no:such-context")?.facts().contexts, []);
    let both = fixture
        .connect(|config| config.meta_context("no:such-context").meta_context("base:allocation"))?;
    let names: Vec<_> = both.facts().contexts.into_iter().map(|context| context.name).collect();
    assert_eq!(names, ["base:allocation"]);
    Ok(())
}

fn few_commands_at_a_time(fixture: &mut Fixture<'_>) -> CaseResult {
    let limits = Limits::default().max_in_flight(3);
    let mut disk = works(fixture, |config| config.limits(limits))?;
    let data = noise(64 << 10, 5);
    disk.write(0, &data, CommandFlags::empty())?;
    crate::cases::concurrency::reads_match(disk.as_mut(), &data, 40);
    Ok(())
}

fn little_memory(fixture: &mut Fixture<'_>) -> CaseResult {
    let limits = Limits::default().scratch_len(0).direct_min(0);
    let mut disk = works(fixture, |config| config.limits(limits))?;
    let data = noise(1 << 20, 6);
    disk.write(0, &data, CommandFlags::empty())?;
    crate::cases::concurrency::reads_match(disk.as_mut(), &data, 100);
    Ok(())
}
