//! Which faults may pass, so that another connection is worth trying.

use std::io;

use nbd_proto::{
    ApiMisuse, InvalidMessage, OptionCode, PeerIncompatible, PeerMisbehaved, Refusal, RefusalCode,
    ReplyFault,
};
use nbd_session::{Blame, Error, LinkError};
use nbd_transport::tls::{CertificateFault, TlsError, TlsRole};

fn refused(code: RefusalCode) -> nbd_proto::Error {
    Refusal::new(OptionCode::Go, code, "").into()
}

#[test]
fn an_end_without_a_reason_is_tried_again_and_a_fault_is_not() {
    for transient in [
        PeerMisbehaved::Closed.into(),
        PeerMisbehaved::ClosedMidMessage.into(),
        refused(RefusalCode::Shutdown),
    ] {
        assert!(Error::from(LinkError::Protocol(transient)).is_transient());
    }
    for lasting in [
        PeerMisbehaved::UnknownCookie.into(),
        PeerMisbehaved::Strict(ReplyFault::Overlap).into(),
        PeerMisbehaved::PlaintextAfterStartTls.into(),
        InvalidMessage::ReplyMagic.into(),
        InvalidMessage::NotNbd.into(),
        PeerIncompatible::TlsWanted.into(),
        ApiMisuse::WrongState.into(),
        refused(RefusalCode::Policy),
        refused(RefusalCode::UnknownExport),
        refused(RefusalCode::TlsRequired),
    ] {
        assert!(!Error::from(LinkError::Protocol(lasting)).is_transient());
    }
}

#[test]
fn a_broken_transport_is_tried_again() {
    assert!(Error::from(io::Error::from(io::ErrorKind::ConnectionReset)).is_transient());
    assert!(Error::from(LinkError::Io(io::ErrorKind::BrokenPipe.into())).is_transient());
    assert!(!Error::stopped().is_transient());
}

/// What is wrong with the caller's own settings for TLS is no fault of the server's.
#[test]
fn settings_for_tls_are_the_callers() {
    let blame = |error| Error::from(LinkError::Tls(error)).blame();
    for error in
        [TlsError::NotConfigured, TlsError::NoServerName, TlsError::ServerName("a b".to_owned())]
    {
        assert_eq!(blame(error), Blame::Caller);
    }
    let peer = TlsRole::Server;
    assert_eq!(blame(TlsError::NotByKey { peer }), Blame::Server);
}

#[test]
fn nobody_is_asked_twice_whose_proof_has_failed() {
    let peer = TlsRole::Server;
    let suspicion = "something";
    for transient in [
        TlsError::Truncated,
        TlsError::ClosedInHandshake { peer, suspicion },
        TlsError::ClosedAfterHandshake { peer, suspicion },
    ] {
        assert!(Error::from(LinkError::Tls(transient)).is_transient());
    }
    let reason = || "a reason".to_owned();
    for lasting in [
        TlsError::Certificate { peer, fault: CertificateFault::UnknownIssuer },
        TlsError::Certificate { peer, fault: CertificateFault::Expired { seconds: None } },
        TlsError::NotByKey { peer },
        TlsError::NotConfigured,
        TlsError::Alert { peer, reason: reason() },
        TlsError::Misbehaved { peer, reason: reason() },
        TlsError::Incompatible { peer, reason: reason() },
        TlsError::Library(reason()),
    ] {
        assert!(!Error::from(LinkError::Tls(lasting)).is_transient());
    }
}
