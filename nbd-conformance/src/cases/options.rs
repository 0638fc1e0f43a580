//! Option mode: asking before choosing.

use nbd_proto::{CommandFlags, Errno};

use crate::case::{CaseResult, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::{Who, fails};
use crate::site::{Kind, NAME, TEXT};
use crate::subject::Choosing;

cases! {
    exports_are_listed,
    an_export_is_described_before_it_is_chosen,
    a_refusal_spares_the_negotiation,
    contexts_are_listed,
    contexts_that_match_nothing,
    contexts_chosen_by_hand_survive_the_choice,
    names_that_cannot_be_sent,
    asking_again_and_again,
    chosen_without_a_question,
    left_without_a_choice,
}

fn options(fixture: &mut Fixture<'_>) -> Result<Box<dyn Choosing>, Box<dyn std::error::Error>> {
    let uri = fixture.named()?.export_uri(NAME);
    Ok(fixture.negotiate(&uri, as_is)?)
}

fn exports_are_listed(fixture: &mut Fixture<'_>) -> CaseResult {
    let list = options(fixture)?.list()?;
    let list: Vec<_> =
        list.iter().map(|entry| (entry.name.as_str(), entry.description.as_str())).collect();
    assert_eq!(list, [(NAME, TEXT)]);
    Ok(())
}

fn an_export_is_described_before_it_is_chosen(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut options = options(fixture)?;
    let export = options.info()?.export.expect("it was described");
    assert_eq!(export.size, 1 << 20);
    assert!(!export.is_read_only());
    let chosen = options.go().map_err(|refused| refused.failure)?;
    assert_eq!(chosen.facts().export.expect("it was described").size, 1 << 20);
    Ok(())
}

fn a_refusal_spares_the_negotiation(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut options = options(fixture)?;
    options.set_export_name("nowhere")?;
    fails(options.info(), Who::Server, Errno::NoEnt);
    let Err(refused) = options.go() else { panic!("it went nowhere") };
    assert_eq!((refused.failure.who, refused.failure.errno), (Who::Server, 2));
    let mut options = refused.rest.expect("the connection survives a refusal");
    assert_eq!(options.list()?.len(), 1);
    options.set_export_name(NAME)?;
    let mut chosen = options.go().map_err(|refused| refused.failure)?;
    chosen.write(0, &[1; 512], CommandFlags::empty())?;
    chosen.disconnect()?;
    Ok(())
}

fn contexts_are_listed(fixture: &mut Fixture<'_>) -> CaseResult {
    let kind = fixture.site.kind;
    let mut options = options(fixture)?;
    let names = |contexts: Vec<nbd_proto::MetaContext>| {
        contexts.into_iter().map(|context| context.name).collect::<Vec<_>>()
    };
    let all = names(options.list_contexts(&[])?);
    match kind {
        Kind::Nbdkit | Kind::Ours => assert_eq!(all, ["base:allocation"]),
        Kind::Qemu => assert_eq!(all, ["base:allocation", "qemu:allocation-depth"]),
    }
    assert_eq!(names(options.list_contexts(&["base:"])?), ["base:allocation"]);
    assert_eq!(names(options.list_contexts(&["base:allocation"])?), ["base:allocation"]);
    Ok(())
}

fn contexts_that_match_nothing(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut options = options(fixture)?;
    assert_eq!(options.list_contexts(&["no:such-context"])?, []);
    assert_eq!(options.set_contexts(&["no:such-context"])?, []);
    options.go().map_err(|refused| refused.failure)?;
    Ok(())
}

fn contexts_chosen_by_hand_survive_the_choice(fixture: &mut Fixture<'_>) -> CaseResult {
    let uri = fixture.named()?.export_uri(NAME);
    let mut options = fixture.negotiate(&uri, |config| config.request_meta_contexts(false))?;
    let granted = options.set_contexts(&["base:allocation"])?;
    assert_eq!(granted.len(), 1);
    let mut chosen = options.go().map_err(|refused| refused.failure)?;
    assert_eq!(chosen.facts().contexts, granted);
    let extents = chosen.status(0, 1 << 20, CommandFlags::empty())?;
    assert!(extents.iter().all(|(context, _)| *context == granted[0].id));
    Ok(())
}

fn names_that_cannot_be_sent(fixture: &mut Fixture<'_>) -> CaseResult {
    let long = "x".repeat(4097);
    let mut options = options(fixture)?;
    for (name, errno) in [(long.as_str(), Errno::NameTooLong), ("a\0b", Errno::Inval)] {
        fails(options.set_export_name(name), Who::Caller, errno);
        fails(options.list_contexts(&[name]), Who::Caller, errno);
        fails(options.set_contexts(&[name]), Who::Caller, errno);
        fails(fixture.connect(|config| config.export(name).meta_context(name)), Who::Caller, errno);
    }
    assert_eq!(options.list()?.len(), 1, "the connection is unharmed");
    Ok(())
}

fn asking_again_and_again(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut options = options(fixture)?;
    // nbdkit lists once for a connection, and takes no more than 32 options.
    assert_eq!(options.list()?.len(), 1);
    for _ in 0..10 {
        assert!(options.info()?.export.is_some());
        assert_eq!(options.set_contexts(&["base:allocation"])?.len(), 1);
    }
    options.abort()?;
    Ok(())
}

fn chosen_without_a_question(fixture: &mut Fixture<'_>) -> CaseResult {
    let mut chosen = options(fixture)?.go().map_err(|refused| refused.failure)?;
    chosen.write(9, &[9; 9], CommandFlags::FUA)?;
    assert_eq!(chosen.read(9, 9)?, [9; 9]);
    Ok(())
}

fn left_without_a_choice(fixture: &mut Fixture<'_>) -> CaseResult {
    options(fixture)?.abort()?;
    let mut asked = options(fixture)?;
    asked.info()?;
    asked.abort()?;
    // The server takes others all the same.
    options(fixture)?.list()?;
    Ok(())
}
