//! An answer that comes before its question is an answer to something else, wherever the
//! bytes are cut.

use nbd_proto::wire::option::{OptionHeader, OptionReplyHeader, RefusalCode, ReplyType};
use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    ClientConfig, Command, CommandFlags, Direction, Discard, Error, ExportInfo, Machine,
    Negotiation, OptionCode, PeerMisbehaved, ServerConfig, ServerEvent, ServerNegotiation,
    TransmissionFlags,
};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

fn reply(option: OptionCode, kind: ReplyType) -> Vec<u8> {
    let header = OptionReplyHeader { option: option.to_wire(), kind: kind.to_wire(), length: 0 };
    header.encode().to_vec()
}

fn client() -> Negotiation {
    let config = ClientConfig::new().export("disk").extended_headers(false);
    Negotiation::new(config).expect("the name is sound")
}

fn send(client: &mut Negotiation) {
    client.drain(&mut Vec::new(), &Discard).expect("it is there to be sent");
}

/// What has been said so far, and what is said too early after it.
fn stories() -> [(Vec<Vec<u8>>, Vec<u8>); 4] {
    let unsupported = ReplyType::Refused(RefusalCode::Unsupported);
    let granted = reply(OptionCode::StructuredReply, ReplyType::Ack);
    let refused = reply(OptionCode::StructuredReply, unsupported);
    let old = reply(OptionCode::Go, unsupported);
    // The answer to NBD_OPT_EXPORT_NAME: a size and flags.
    let export = vec![0, 0, 0, 0, 0, 16, 0, 0, 0, 1];
    [
        (vec![GREETING.to_vec()], granted.clone()),
        (vec![GREETING.to_vec(), granted.clone()], old.clone()),
        (vec![GREETING.to_vec(), refused], old.clone()),
        (vec![GREETING.to_vec(), granted, old], export),
    ]
}

#[test]
fn nothing_is_said_before_it_is_asked_for() {
    let wrong: Result<usize, Error> = Err(PeerMisbehaved::WrongOption.into());
    for (said, early) in stories() {
        let (last, before) = said.split_last().expect("a greeting");
        let bytes = [&last[..], &early].concat();
        let heard = || {
            let mut client = client();
            for message in before {
                client.feed(message, &mut Discard).expect("in turn");
                send(&mut client);
            }
            client
        };
        for cut in 0..bytes.len() {
            let mut client = heard();
            let (head, tail) = bytes.split_at(cut);
            if cut > last.len() {
                // Read with what came before, it is told at once, and not with its rest, for
                // which the question might have left by then.
                assert_eq!(heard().feed(head, &mut Discard), wrong, "{said:?}, cut at {cut}");
                let mut early = heard();
                early.recv_bufs(&mut Discard).scratch[..cut].copy_from_slice(head);
                assert_eq!(early.received(cut, &mut Discard), wrong.clone().map(drop), "{cut}");
            }
            let result = client.feed(head, &mut Discard);
            let result = result.and_then(|_| client.feed(tail, &mut Discard));
            assert_eq!(result, wrong, "{said:?}, cut at {cut}");
        }
    }
}

#[test]
fn what_is_asked_for_may_be_answered() {
    for (said, answer) in stories() {
        let mut client = client();
        for message in said {
            client.feed(&message, &mut Discard).expect("in turn");
            send(&mut client);
        }
        assert_eq!(client.feed(&answer, &mut Discard), Ok(answer.len()));
    }
}

/// A server that has seen a part of the option may have heard enough.
#[test]
fn an_option_that_is_partly_sent_may_be_answered() {
    let mut client = client();
    client.feed(GREETING, &mut Discard).unwrap();
    assert!(client.get_direction().contains(Direction::WRITE));
    // The client's flags, and one byte.
    client.sent(5).unwrap();
    let unsupported = ReplyType::Refused(RefusalCode::Unsupported);
    let answer = reply(OptionCode::StructuredReply, unsupported);
    assert_eq!(client.feed(&answer, &mut Discard), Ok(answer.len()));

    let mut client = self::client();
    client.feed(GREETING, &mut Discard).unwrap();
    client.sent(4).unwrap();
    let wrong = Err(PeerMisbehaved::WrongOption.into());
    assert_eq!(client.feed(&answer, &mut Discard), wrong);

    // The rest of it may never leave: the server has closed its ears.
    for (sent, expected) in [(4, wrong), (5, Ok(answer.len()))] {
        let mut client = self::client();
        client.feed(GREETING, &mut Discard).unwrap();
        client.sent(sent).unwrap();
        client.send_failed();
        assert_eq!(client.feed(&answer, &mut Discard), expected, "{sent} bytes sent");
    }
}

/// A client that knows the answer need not wait for it: what it sends behind its last option
/// belongs to the data phase, even if it was read before that came to be.
#[test]
fn a_client_may_ask_for_data_behind_its_last_option() {
    let go = OptionHeader { option: OptionCode::Go.to_wire(), length: 6 };
    let request = RequestHeader {
        flags: CommandFlags::empty(),
        kind: Command::read(4096, 512).kind.to_wire(),
        cookie: 7,
        offset: 4096,
        length: 512,
    };
    let request = request.encode_compact().unwrap();
    let bytes = [&[0, 0, 0, 3], &go.encode()[..], &[0; 6], &request, &request[..20]].concat();
    let mut negotiation = ServerNegotiation::new(ServerConfig::new());
    negotiation.recv_bufs(&mut Discard).scratch[..bytes.len()].copy_from_slice(&bytes);
    negotiation.received(bytes.len(), &mut Discard).unwrap();
    negotiation.describe(ExportInfo::new(1 << 20, TransmissionFlags::empty())).unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    let mut server = negotiation.finish().unwrap();
    server.received(0, &mut Discard).unwrap();
    let expected = Command::read(4096, 512);
    let asked =
        |event| matches!(event, Some(ServerEvent::Request { command, .. }) if command == expected);
    assert!(asked(server.poll_event()));
    assert_eq!(server.poll_event(), None);
    server.feed(&request[20..], &mut Discard).unwrap();
    assert!(asked(server.poll_event()));
}
