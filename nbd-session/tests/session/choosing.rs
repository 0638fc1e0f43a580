//! Option mode.

use std::time::Duration;

use nbd_proto::{ClientConfig, Command, HeaderStyle};
use nbd_session::{ErrorKind, Limit, OptionReply, OptionRequest, State};

use crate::rig::{Rig, options};

fn rig() -> Rig {
    let config = ClientConfig::new().option_mode(true);
    let mut rig = Rig::new(options().config(config).connect_timeout(Duration::from_secs(5)));
    rig.turn();
    assert_eq!(rig.session.state(), State::Choosing);
    rig
}

fn ask(rig: &mut Rig, request: OptionRequest) -> OptionReply {
    rig.session.request_option(request, Limit::Default, rig.now).expect("it is choosing");
    rig.turn();
    rig.session.take_option().expect("it was answered").expect("it was not refused")
}

#[test]
fn options_are_asked_for_one_by_one() {
    let mut rig = rig();
    rig.sleep(100.0);
    assert_eq!(rig.session.state(), State::Choosing, "the caller may take his time");
    assert!(rig.session.takes_options() && rig.session.direction().is_empty());
    assert_eq!(ask(&mut rig, OptionRequest::List), OptionReply::Exports(vec![]));
    rig.session.set_export_name("disk").unwrap();
    let OptionReply::Info(facts) = ask(&mut rig, OptionRequest::Info) else { panic!() };
    assert_eq!(facts.export.map(|export| export.size), Some(1 << 20));
    let queries = vec!["base:allocation".to_owned()];
    let listed = ask(&mut rig, OptionRequest::ListMetaContexts(queries));
    assert!(matches!(&listed, OptionReply::MetaContexts(contexts) if contexts.len() == 1));
    assert_eq!(ask(&mut rig, OptionRequest::StartTls), OptionReply::Granted(false));
    rig.session.reconfigure(|config| config.meta_context("base:allocation")).unwrap();
    assert_eq!(ask(&mut rig, OptionRequest::Go), OptionReply::Ready);
    assert_eq!(rig.session.state(), State::Ready);
    assert_eq!(rig.session.export_name(), "disk");
    assert!(rig.session.context("base:allocation").is_some());
    assert_eq!(rig.session.negotiated().unwrap().headers, HeaderStyle::Extended);
    let id = rig.submit(Command::read(0, 512));
    rig.turn();
    assert_eq!(rig.outcomes(), [(id, true)]);
}

#[test]
fn one_at_a_time_and_only_here() {
    let mut rig = rig();
    rig.limited().dead = true;
    let ask =
        |rig: &mut Rig| rig.session.request_option(OptionRequest::List, Limit::Default, rig.now);
    ask(&mut rig).unwrap();
    assert_eq!(ask(&mut rig).unwrap_err().kind(), ErrorKind::Usage);
    assert!(rig.session.set_export_name("other").is_err());
    rig.sleep(6.0);
    let error = rig.session.take_option().expect("it took too long").unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(rig.session.is_over());
    assert!(ask(&mut rig).is_err());
}

#[test]
fn a_negotiation_ends_in_good_order() {
    let mut rig = rig();
    assert_eq!(ask(&mut rig, OptionRequest::Abort), OptionReply::Ended);
    assert!(rig.session.is_over() && rig.session.farewell().is_ok());
}
