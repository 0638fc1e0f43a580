//! From steps to a connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use nbd_proto::io::IoMode;
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, ErrorKind, Session, State, Step, Target};
use nbd_transport::Endpoint;

use nbd_sim::memory_server::MemoryServer;
use nbd_sim::rig::{Rig, options, server};

fn unix(path: &str) -> Endpoint {
    Endpoint::Unix(path.into())
}

#[test]
fn a_step_whose_outcome_never_comes_is_given_up() {
    let limited = options().connect_timeout(Duration::from_secs(3));
    let mut rig = Rig::dialling(limited, Box::new(|_| None));
    rig.sleep(2.0);
    assert_eq!(rig.session.state(), State::Connecting);
    rig.sleep(2.0);
    let end = rig.session.end().expect("it is over");
    assert!(end.is_timeout(), "{end}");
    assert_eq!(rig.steps, ["connect 1", "close 1"]);
    // Late, and of no use.
    rig.session.connected(1, Ok(IoMode::Vectored), rig.now);
    assert!(rig.session.is_over() && rig.session.direction().is_empty());
}

#[test]
fn servers_are_tried_in_turn_and_each_has_its_share_of_the_time() {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&asked);
    let options = ConnectOptions::new()
        .connect_timeout(Duration::from_secs(9))
        .endpoint(unix("one"))
        .endpoint(unix("two"))
        .endpoint(unix("three"));
    let mut rig = Rig::dialling(
        options,
        Box::new(move |connect| {
            let Target::Endpoint(endpoint) = &connect.target else { panic!() };
            told.borrow_mut().push(endpoint.to_string());
            match endpoint.to_string().as_str() {
                // It says nothing.
                "Unix socket one" => None,
                "Unix socket two" => {
                    Some(Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()))
                }
                _ => Some(Ok(server(4096))),
            }
        }),
    );
    rig.sleep(4.0);
    assert!(rig.session.is_ready());
    assert_eq!(asked.borrow().len(), 3);
    assert_eq!(rig.steps, ["connect 1", "close 1", "connect 2", "connect 3"]);
}

#[test]
fn when_all_fail_each_is_told() {
    let options = ConnectOptions::new().endpoint(unix("one")).endpoint(unix("two"));
    let refuse = |connect: &nbd_session::Connect| {
        let text = format!("{} is shy", connect.target);
        Some(Err(std::io::Error::other(text).into()))
    };
    let mut rig = Rig::dialling(options, Box::new(refuse));
    rig.turn();
    let end = rig.session.end().expect("it is over").to_string();
    assert!(end.contains("Unix socket one is shy; ") && end.contains("two is shy"), "{end}");
}

#[test]
fn what_cannot_be_is_told_at_once() {
    let rig = |options| Session::new(options, 1, std::time::Instant::now()).map(drop);
    let nobody = rig(ConnectOptions::new()).unwrap_err();
    assert!(nobody.to_string().contains("nobody to connect to"), "{nobody}");
    let given = ConnectOptions::new().target(Target::Given).reconnect(Reconnect::new());
    assert_eq!(rig(given).unwrap_err().kind(), ErrorKind::Recovery);
    assert_eq!(rig(options().export("a\0b")).unwrap_err().kind(), ErrorKind::Usage);
    let error = "nbd:localhost".parse::<ConnectOptions>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

/// Whatever else there is to connect to, which is the way back.
#[test]
fn a_connection_that_was_handed_over_is_the_first() {
    let named = || "nbd://localhost/disk".parse::<ConnectOptions>().expect("a sound URI");
    let now = std::time::Instant::now();
    let next = |session: &mut Session| match session.next_step() {
        Some(Step::Connect(connect)) => (connect.generation, connect.target),
        step => panic!("{step:?}"),
    };
    let lasting = named().reconnect(Reconnect::new());
    let mut session = Session::new(lasting.target(Target::Given), 1, now).expect("a way back");
    assert!(matches!(next(&mut session), (1, Target::Given)));
    // It is not the first server that can be connected to: what is wrong with it is told.
    let options = named().tcp("other", 10809).target(Target::Given);
    let mut session = Session::new(options, 1, now).expect("sound options");
    assert!(matches!(next(&mut session), (1, Target::Given)));
    session.connected(1, Err(std::io::Error::other("of no use").into()), now);
    assert!(session.is_over() && session.next_step().is_none(), "{session:?}");
}

/// The servers that the options name only say what a certificate is to be for.
#[test]
fn who_has_a_way_of_his_own_is_the_only_one_to_connect() {
    let named = "nbd://localhost/disk".parse::<ConnectOptions>().expect("a sound URI");
    let options = named.tcp("other", 10809).target(Target::Dialler).reconnect(Reconnect::new());
    let asked = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&asked);
    let dial = move |connect: &nbd_session::Connect| {
        let mut told = told.borrow_mut();
        told.push(connect.target.to_string());
        // After a loss it takes three attempts.
        let there = matches!(told.len(), 1 | 4);
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Some(if there { Ok(server(4096)) } else { Err(refused().into()) })
    };
    let mut rig = Rig::dialling(options, Box::new(dial));
    rig.turn();
    assert!(rig.session.is_ready());
    rig.server(MemoryServer::hang_up);
    rig.sleep(20.0);
    assert!(rig.session.is_ready(), "{:?}", rig.session);
    assert_eq!(*asked.borrow(), ["the caller's own way to connect"; 4]);
}

#[test]
fn credentials_are_read_before_connecting() {
    let options: ConnectOptions = "nbds://localhost/disk".parse().expect("a sound URI");
    let now = std::time::Instant::now();
    let mut session = Session::new(options, 1, now).expect("sound options");
    let Some(Step::Credentials(config)) = session.next_step() else { panic!() };
    assert!(session.next_step().is_none(), "one after the other");
    let missing = config.directory("/nonexistent/directory").connector();
    session.credentials(missing, now);
    let end = session.end().expect("it is over");
    assert_eq!(end.kind(), ErrorKind::Usage, "{end}");
}

/// Whatever reads them hangs, as a file on a dead network does.
#[test]
fn credentials_that_never_come_are_given_up() {
    for reconnect in [None, Some(Reconnect::new().give_up_after(Duration::from_secs(20)))] {
        let options: ConnectOptions = "nbds://localhost/disk".parse().expect("a sound URI");
        let options = options.connect_timeout(Duration::from_secs(3)).reconnect(reconnect);
        let start = std::time::Instant::now();
        let mut session = Session::new(options, 1, start).expect("sound options");
        let Some(Step::Credentials(config)) = session.next_step() else { panic!() };
        let mut now = start;
        while let Some(at) = session.next_deadline() {
            now = at;
            session.handle_timeout(now);
        }
        assert!(now - start <= Duration::from_secs(20), "{:?}", now - start);
        let end = session.end().expect("it is over").clone();
        assert!(end.is_timeout() && end.to_string().contains("credentials"), "{end}");
        // Late, and of no use.
        session.credentials(config.connector(), now);
        assert_eq!(session.end().map(ToString::to_string), Some(end.to_string()));
        assert!(session.direction().is_empty());
    }
}

#[test]
fn dead_networks_are_noticed_where_silence_or_loss_matters() {
    let probes = |options: ConnectOptions| {
        let mut session = Session::new(options, 1, std::time::Instant::now()).unwrap();
        match session.next_step() {
            Some(Step::Connect(connect)) => connect.tcp_keep_alive,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(probes(options()), None);
    let thirty = Duration::from_secs(30);
    assert_eq!(probes(options().silence(thirty)).unwrap().patience(), thirty);
    assert_eq!(probes(options().reconnect(Reconnect::new())).unwrap().patience(), thirty);
    assert_eq!(probes(options().reconnect(Reconnect::new()).tcp_keep_alive(None)), None);
}

#[test]
fn connections_without_a_name_are_given_one_each() {
    let (one, two) = (Rig::new(options()), Rig::new(options()));
    assert!(one.session.name().starts_with("nbd"));
    assert_ne!(one.session.name(), two.session.name());
}
