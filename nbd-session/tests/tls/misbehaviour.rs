//! Peers that know the keys and break the rules, or bend them as far as they go.

use crate::forge::Victim;
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{ClientConfig, Direction, Discard, Negotiation};
use nbd_session::{Link, LinkError};
use nbd_sim::peer::pki::Pki;
use nbd_transport::tls::stage::Opened;
use nbd_transport::tls::{TlsRole, TlsVersion};
use rustls::ContentType;

/// More than any library takes of what is of no use.
const FLOOD: usize = 200;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

/// Sends a record over and over, until it is too much or enough.
fn flood(victim: &mut Victim, kind: ContentType, content: &[u8]) -> Result<Opened, LinkError> {
    (0..FLOOD).try_fold(Opened::Drained, |_, _| victim.record(kind, content))
}

/// TL09.
#[test]
fn records_of_one_byte_carry_all_data() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        let data: Vec<u8> = (0..20_000_u32).map(|at| (at ^ at >> 7) as u8).collect();
        let records: Vec<u8> = data
            .iter()
            .flat_map(|byte| victim.forger.record(ContentType::ApplicationData, &[*byte]))
            .collect();
        assert_eq!(victim.deliver(&records).expect("all is well"), Opened::Drained);
        assert!(victim.data == data, "{}: wrong data", victim.name);
    }
}

#[test]
fn a_few_empty_records_are_nothing_and_many_are_a_fault() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        for _ in 0..20 {
            victim.record(ContentType::ApplicationData, &[]).expect("it is allowed");
        }
        victim.record(ContentType::ApplicationData, b"x").expect("all is well");
        assert_eq!(victim.data, b"x");
        let result = flood(&mut victim, ContentType::ApplicationData, &[]);
        victim.assert_blames(result, ["too many empty records"; 2]);
    }
}

/// TL17.
#[test]
fn key_updates_between_data_change_nothing() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        for round in 0..100 {
            victim.record(ContentType::Handshake, &KEY_UPDATE).expect("it is allowed");
            victim.forger.update();
            victim.record(ContentType::ApplicationData, &[round]).expect("all is well");
            let unsent = victim.stage.wire().unsent().len();
            victim.stage.wire_mut().sent(unsent);
        }
        assert_eq!(victim.data, (0..100).collect::<Vec<u8>>(), "{}", victim.name);
    }
}

/// rustls ends the session. OpenSSL answers each one, and nothing more is read once the answers
/// pile up.
/// TL17.
#[test]
fn a_flood_of_key_updates_takes_a_bounded_room() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        if victim.name.starts_with("rustls") {
            let result = (0..FLOOD).try_fold(Opened::Drained, |_, _| {
                let opened = victim.record(ContentType::Handshake, &KEY_UPDATE);
                victim.forger.update();
                opened
            });
            victim.assert_blames(result, ["too many key updates"; 2]);
            continue;
        }
        let mut updates = Vec::new();
        while updates.len() < 2 << 20 {
            updates.extend(victim.forger.record(ContentType::Handshake, &KEY_UPDATE));
            victim.forger.update();
        }
        let mut link = Link::plain();
        link.start_tls(victim.stage);
        let mut machine = Negotiation::new(ClientConfig::new()).expect("the names are sound");
        let mut rest = &updates[..];
        let mut before = rest.len() + 1;
        while rest.len() < before {
            before = rest.len();
            link.read(&mut machine, &mut rest, &mut Discard, IoMode::Single)
                .expect("it is allowed");
        }
        assert!(rest.len() > 1 << 19, "{}: it has read all but {}", victim.name, rest.len());
        // With room for the answers it goes on.
        assert!(link.direction(&machine).contains(Direction::WRITE));
        let mut answers = Vec::new();
        while link.write(&mut machine, &mut answers, &Discard, IoMode::Single).expect("there is")
            == Progress::More
        {}
        assert!(answers.len() < 2 << 20, "{}: {} bytes of answers", victim.name, answers.len());
        link.read(&mut machine, &mut rest, &mut Discard, IoMode::Single).expect("it is allowed");
        assert!(rest.len() < before, "{}: it is stuck", victim.name);
    }
}

/// What only the start of a session may have.
/// TL17.
#[test]
fn messages_of_the_handshake_are_a_fault_after_it() {
    let pki = Pki::new();
    let cases: [(&str, &[u8]); 3] = [
        ("HelloRequest", &[0, 0, 0, 0]),
        ("Finished", &[20, 0, 0, 4, 0, 0, 0, 0]),
        ("CertificateRequest", &[13, 0, 0, 3, 0, 0, 0]),
    ];
    for (name, message) in cases {
        for mut victim in Victim::all(&pki) {
            let result = victim.record(ContentType::Handshake, message);
            let rustls = format!("{name} out of turn");
            victim.assert_blames(result, [&rustls, "unexpected message"]);
        }
    }
    for mut victim in Victim::all(&pki) {
        let hello = victim.client_hello.clone();
        let result = victim.record(ContentType::Handshake, &hello);
        let rustls = "ClientHello out of turn";
        victim.assert_blames(result, [rustls, "unexpected message"]);
    }
}

/// TLS 1.2 has renegotiation, which nobody needs and many were attacked by. The answer is a warning
/// each time, and the session goes on as it is; rustls warns only once.
/// TL17.
#[test]
fn renegotiation_is_refused() {
    let pki = Pki::new();
    for mut victim in Victim::of_version(&pki, TlsVersion::Tls12) {
        victim.record(ContentType::ApplicationData, b"before").expect("all is well");
        let message = match victim.stage.peer() {
            TlsRole::Server => vec![0, 0, 0, 0],
            TlsRole::Client => victim.client_hello.clone(),
        };
        victim.record(ContentType::Handshake, &message).expect("it is allowed");
        let answer = victim.stage.wire().unsent();
        // An alert (RFC 5246, 7.2.2: no_renegotiation), encrypted, and no part of a handshake.
        assert_eq!((answer[0], answer.len()), (21, 5 + 2 + 16), "{}: {answer:?}", victim.name);
        victim.record(ContentType::ApplicationData, b" and after").expect("it goes on");
        assert_eq!(victim.data, b"before and after", "{}", victim.name);
        if victim.name.starts_with("rustls") {
            let result = flood(&mut victim, ContentType::Handshake, &message);
            victim.assert_blames(result, ["it insists on renegotiation"; 2]);
        } else {
            flood(&mut victim, ContentType::Handshake, &message).expect("it is allowed");
            assert_eq!(victim.stage.wire().unsent().len(), (FLOOD + 1) * (5 + 2 + 16));
        }
    }
}

#[test]
fn records_that_are_too_long_are_a_fault() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        // Nobody waits for the rest of it.
        let result = victim.deliver(&[23, 3, 3, 0x48, 0x01]);
        victim.assert_blames(result, ["a record that is too long"; 2]);
    }
    for mut victim in Victim::all(&pki) {
        let result = victim.record(ContentType::ApplicationData, &[7; (16 << 10) + 1]);
        victim.assert_blames(result, ["a record that is too long"; 2]);
    }
    for mut victim in Victim::all(&pki) {
        victim.record(ContentType::ApplicationData, &[7; 16 << 10]).expect("this long is allowed");
        assert_eq!(victim.data.len(), 16 << 10);
    }
}

/// The start of a message of 16 MiB, and then more and more of it.
#[test]
fn messages_that_are_too_long_are_a_fault() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        let mut result = victim.record(ContentType::Handshake, &[4, 0xff, 0xff, 0xff]);
        if result.is_ok() {
            result = flood(&mut victim, ContentType::Handshake, &[4; 16 << 10]);
        }
        let openssl = match victim.name {
            "OpenSSL client" => "a message that is too long",
            _ => "unexpected message",
        };
        victim.assert_blames(result, ["a message that is too long", openssl]);
    }
}

/// TL17.
#[test]
fn tickets_are_thrown_away_and_clients_have_none() {
    let pki = Pki::new();
    let ticket = [&[4, 0, 0, 21, 0, 0, 1, 0, 1, 2, 3, 4, 0, 0, 8][..], &[5; 8], &[0, 0]].concat();
    for mut victim in Victim::all(&pki) {
        let result = flood(&mut victim, ContentType::Handshake, &ticket);
        if victim.name.ends_with("client") {
            result.expect("it is allowed");
            assert!(victim.stage.wire().unsent().is_empty(), "{}", victim.name);
            victim.record(ContentType::ApplicationData, b"x").expect("all is well");
            assert_eq!(victim.data, b"x", "{}", victim.name);
        } else {
            let rustls = "NewSessionTicket out of turn";
            victim.assert_blames(result, [rustls, "unexpected message"]);
        }
    }
}

/// TL17.
#[test]
fn a_flood_of_warnings_is_a_fault() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        let result = flood(&mut victim, ContentType::Alert, &[1, 90]);
        victim.assert_blames(result, ["too many warnings"; 2]);
    }
}

#[test]
fn nothing_behind_the_end_is_data() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        victim.record(ContentType::ApplicationData, b"before").expect("all is well");
        let end = victim.forger.record(ContentType::Alert, &[1, 0]);
        let more = victim.forger.record(ContentType::ApplicationData, b"after");
        let opened = victim.deliver(&[end, more].concat()).expect("it is an end in good order");
        assert_eq!((opened, &victim.data[..]), (Opened::Closed, &b"before"[..]), "{}", victim.name);
    }
}

#[test]
fn a_bad_record_after_our_own_end_is_a_fault() {
    let pki = Pki::new();
    for mut victim in Victim::all(&pki) {
        victim.stage.close();
        victim.record(ContentType::ApplicationData, b"last").expect("the other half is open");
        assert_eq!(victim.data, b"last", "{}", victim.name);
        let mut record = victim.forger.record(ContentType::ApplicationData, b"forged");
        record[10] ^= 1;
        let error = victim.deliver(&record).expect_err("it is forged");
        assert!(matches!(error, LinkError::Tls(_)), "{}: {error:?}", victim.name);
        assert_eq!(victim.data, b"last", "{}", victim.name);
    }
}
