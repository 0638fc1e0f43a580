//! Nothing said in clear behind STARTTLS is taken for something said inside TLS, wherever
//! the bytes are cut (proto.md, "NBD_OPT_STARTTLS").

use nbd_proto::wire::option::{OptionHeader, OptionReplyHeader, ReplyType};
use nbd_proto::{
    ApiMisuse, ClientConfig, Discard, Error, Machine, Negotiation, OptionCode, PeerMisbehaved,
    ServerConfig, ServerNegotiation, TlsPolicy,
};

/// Feeds `message` and something behind it, cut in every place; `new` makes the machine
/// that is about to receive it, and `upgrade` is for when TLS is there.
fn at_every_cut<M: Machine>(
    new: impl Fn() -> M,
    message: &[u8],
    upgrade: impl Fn(&mut M) -> Result<(), Error>,
) {
    let refused = Err(ApiMisuse::NotUpgrading.into());
    let bytes = [message, b"injected"].concat();
    for cut in 0..=bytes.len() {
        let mut machine = new();
        let (head, tail) = bytes.split_at(cut);
        let result = machine.feed(head, &mut Discard).and_then(|taken| {
            if taken < head.len() { Ok(taken) } else { machine.feed(tail, &mut Discard) }
        });
        assert_eq!(result, Err(PeerMisbehaved::PlaintextAfterStartTls.into()), "cut at {cut}");
        machine.drain(&mut Vec::new(), &Discard).unwrap();
        assert_eq!(upgrade(&mut machine), refused, "cut at {cut}");
    }
    // Read together, it is seen together; read apart, what follows is left to whoever
    // speaks TLS.
    for more in [0, 1, 8] {
        let mut machine = new();
        let n = message.len() + more;
        machine.recv_bufs(&mut Discard).scratch[..n].copy_from_slice(&bytes[..n]);
        let result = machine.received(n, &mut Discard);
        assert_eq!(result.is_ok(), more == 0, "{more} bytes more: {result:?}");
        assert!(machine.recv_bufs(&mut Discard).is_empty(), "{more} bytes more");
        machine.drain(&mut Vec::new(), &Discard).unwrap();
        let expected = if more == 0 { Ok(()) } else { refused.clone() };
        assert_eq!(upgrade(&mut machine), expected, "{more} bytes more");
    }
}

#[test]
fn a_clients_bytes() {
    let new = || {
        let config = ServerConfig::new().tls(TlsPolicy::Require);
        let mut server = ServerNegotiation::new(config);
        server.feed(&3_u32.to_be_bytes(), &mut Discard).expect("known flags");
        server
    };
    let option = OptionHeader { option: OptionCode::StartTls.to_wire(), length: 0 };
    at_every_cut(new, &option.encode(), ServerNegotiation::tls_ready);
}

#[test]
fn a_servers_bytes() {
    let new = || {
        let config = ClientConfig::new().tls(TlsPolicy::Require);
        let mut client = Negotiation::new(config).expect("the name is sound");
        client.feed(b"NBDMAGICIHAVEOPT\x00\x03", &mut Discard).expect("a greeting");
        client.drain(&mut Vec::new(), &Discard).expect("it asks for TLS");
        client
    };
    let option = OptionCode::StartTls.to_wire();
    let reply = OptionReplyHeader { option, kind: ReplyType::Ack.to_wire(), length: 0 };
    at_every_cut(new, &reply.encode(), Negotiation::tls_ready);
}
