//! Servers that speak an older protocol.

use nbd_proto::{CommandFlags, Errno, HeaderStyle, Protocol, TlsPolicy};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::{Who, fails};
use crate::site::Kind;

const OLD: Need = Need::Server(&[Kind::Nbdkit], "only nbdkit still speaks them");
const CLEAR: Need = Need::PlainOnly("they know no TLS");

cases! {
    oldstyle [OLD, CLEAR],
    newstyle_that_is_not_fixed [OLD, CLEAR],
    newstyle_without_zeroes [OLD, CLEAR],
    fixed_newstyle_with_zeroes [OLD, CLEAR],
    those_that_cannot_be_asked [OLD, CLEAR],
    those_that_know_no_tls [OLD, CLEAR],
}

fn speaks(fixture: &Fixture<'_>, arg: &str, protocol: Protocol) -> CaseResult {
    let server = fixture.site.start_with(&[arg, "memory", "1M"])?;
    let mut disk =
        fixture.connect_to(&server.uri(), |config| config.meta_context("base:allocation"))?;
    let facts = disk.facts();
    assert_eq!(facts.protocol, protocol);
    let fixed = protocol == Protocol::FixedNewstyle;
    assert_eq!(facts.headers == HeaderStyle::Simple, !fixed);
    assert_eq!(facts.contexts.is_empty(), !fixed);
    let data = noise(300_000, 1);
    disk.write(77, &data, CommandFlags::empty())?;
    assert!(disk.read(77, 300_000)? == data);
    if protocol != Protocol::Oldstyle {
        // nbdkit 1.32 says of an oldstyle export that it can do both, and refuses.
        disk.write(77, &data, CommandFlags::FUA)?;
        disk.flush()?;
    }
    disk.disconnect()?;
    Ok(())
}

fn oldstyle(fixture: &mut Fixture<'_>) -> CaseResult {
    speaks(fixture, "-o", Protocol::Oldstyle)
}

fn newstyle_that_is_not_fixed(fixture: &mut Fixture<'_>) -> CaseResult {
    speaks(fixture, "--mask-handshake=0", Protocol::Newstyle)
}

fn newstyle_without_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    speaks(fixture, "--mask-handshake=2", Protocol::Newstyle)
}

fn fixed_newstyle_with_zeroes(fixture: &mut Fixture<'_>) -> CaseResult {
    speaks(fixture, "--mask-handshake=1", Protocol::FixedNewstyle)
}

fn those_that_cannot_be_asked(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&["--mask-handshake=0", "memory", "1M"])?;
    let mut options = fixture.negotiate(&server.uri(), as_is)?;
    fails(options.list(), Who::Nobody, Errno::NotSup);
    fails(options.info(), Who::Nobody, Errno::NotSup);
    let mut chosen = options.go().map_err(|refused| refused.failure)?;
    chosen.read(0, 512)?;
    let server = fixture.site.start_with(&["-o", "memory", "1M"])?;
    let mut options = fixture.negotiate(&server.uri(), as_is)?;
    fails(options.list(), Who::Caller, Errno::Inval);
    let mut chosen = options.go().map_err(|refused| refused.failure)?;
    chosen.read(0, 512)?;
    Ok(())
}

fn those_that_know_no_tls(fixture: &mut Fixture<'_>) -> CaseResult {
    for arg in ["-o", "--mask-handshake=0"] {
        let server = fixture.site.start_with(&[arg, "memory", "1M"])?;
        let connected = fixture.connect_to(&server.uri(), |config| config.tls(TlsPolicy::Require));
        fails(connected, Who::Nobody, Errno::NotSup);
    }
    Ok(())
}
