//! Option mode.

use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_proto::{ClientConfig, Command, Discard, HeaderStyle, TlsPolicy};
use nbd_session::{
    Blame, ConnectOptions, ErrorKind, Limit, OptionReply, OptionRequest, Received, Session, State,
    Step,
};
use nbd_transport::tls::TlsConfig;

use nbd_sim::rig::{Rig, options};

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
    rig.limited().brings = 0;
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
    assert!(rig.session.error().is_none());
}

/// Credentials that cannot be read.
fn nowhere(policy: TlsPolicy) -> ConnectOptions {
    let config = TlsConfig::new().directory("/nowhere");
    options().tls(policy, config).late_credentials(true)
}

#[test]
fn late_credentials_are_not_read_for_a_server_without_tls() {
    Rig::ready(nowhere(TlsPolicy::Allow));
}

/// A server has said hello, in fixed newstyle and without zeroes.
fn greeted(options: ConnectOptions, now: Instant) -> Session {
    let mut session = Session::new(options, 1, now).unwrap();
    let Some(Step::Connect(connect)) = session.next_step() else { panic!("no credentials first") };
    session.connected(connect.generation, Ok(IoMode::Vectored), now);
    session.read(&mut Received::new(b"NBDMAGICIHAVEOPT\0\x03"), &mut Discard, now);
    session.write(&mut Vec::new(), &mut Discard, now);
    session
}

/// It agrees to TLS. Returns the settings of which credentials are to be read.
fn agreed(session: &mut Session, now: Instant) -> Box<TlsConfig> {
    let agreed = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0";
    session.read(&mut Received::new(agreed), &mut Discard, now);
    assert!(session.needs_drive() && session.direction().is_empty());
    let Some(Step::Credentials(config)) = session.next_step() else { panic!("now they are due") };
    config
}

#[test]
fn late_credentials_are_asked_for_once_when_tls_is_agreed_on() {
    let now = Instant::now();
    let mut session = greeted(nowhere(TlsPolicy::Require), now);
    let config = agreed(&mut session, now);
    session.read(&mut Received::new(b""), &mut Discard, now);
    assert!(session.next_step().is_none(), "asked for twice");
    session.credentials(config.connector(), now);
    let error = session.end().expect("they could not be read");
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

/// The server has done its part, whether or not the caller had asked for TLS by hand.
#[test]
fn late_credentials_that_never_come_are_not_the_servers_fault() {
    let limit = Duration::from_secs(5);
    for by_hand in [false, true] {
        let now = Instant::now();
        let policy = if by_hand { TlsPolicy::Disable } else { TlsPolicy::Require };
        let config = ClientConfig::new().option_mode(true).structured_replies(false);
        let mut session =
            greeted(nowhere(policy).config(config.tls(policy)).connect_timeout(limit), now);
        if by_hand {
            session.request_option(OptionRequest::StartTls, Limit::Default, now).unwrap();
            session.write(&mut Vec::new(), &mut Discard, now);
        }
        agreed(&mut session, now);
        session.handle_timeout(now + limit);
        let told = session.take_option().map(|answer| answer.expect_err("it took too long"));
        assert_eq!(told.is_some(), by_hand);
        for error in told.iter().chain(session.end()) {
            let text = error.to_string();
            assert!(text.contains("reading credentials") && !text.contains("server"), "{text}");
            assert!(error.is_timeout() && error.blame() != Blame::Server);
        }
        assert!(session.is_over());
    }
}
