//! Which faults may pass, so that another connection is worth trying.
//!
//! | tried again | not tried again |
//! |---|---|
//! | the transport failed, or ended without a reason | the peer broke the protocol |
//! | nobody could be connected to, and that may pass | and it will not pass |
//! | time was up | certificates, keys, alerts |
//! | the server is shutting down | any other refusal |

use crate::link::LinkError;
use crate::old_error::OldError;

impl LinkError {
    /// Whether another connection may do better.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Io(_) => true,
            Self::Protocol(error) => error.is_transient(),
            Self::Tls(error) => error.is_transient(),
        }
    }
}

impl OldError {
    /// Whether another connection may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io(_) | Self::TimedOut { .. } => true,
            Self::Connect(error) => error.is_transient(),
            Self::Protocol(error) => error.is_transient(),
            Self::Link(error) => error.is_transient(),
            Self::Uri(_)
            | Self::TlsConfig(_)
            | Self::Stopped
            | Self::Submit { .. }
            | Self::BufferLength { .. }
            | Self::Command(_)
            | Self::NotReconnected { .. }
            | Self::Recovery(_)
            | Self::Misuse(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_proto::{
        ApiMisuse, InvalidMessage, OptionCode, PeerIncompatible, PeerMisbehaved, Refusal,
        RefusalCode, ReplyFault,
    };
    use nbd_transport::tls::{CertificateFault, TlsError, TlsRole};
    use std::io::{self, ErrorKind};
    use std::time::Duration;

    fn refused(code: RefusalCode) -> nbd_proto::Error {
        Refusal { option: OptionCode::Go, code, message: String::new() }.into()
    }

    #[test]
    fn an_end_without_a_reason_is_tried_again_and_a_fault_is_not() {
        for transient in [
            PeerMisbehaved::Closed.into(),
            PeerMisbehaved::ClosedMidMessage.into(),
            refused(RefusalCode::Shutdown),
        ] {
            assert!(OldError::from(LinkError::Protocol(transient)).is_transient());
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
            assert!(!OldError::from(LinkError::Protocol(lasting)).is_transient());
        }
    }

    #[test]
    fn a_broken_transport_and_silence_are_tried_again() {
        assert!(OldError::from(io::Error::from(ErrorKind::ConnectionReset)).is_transient());
        assert!(LinkError::from(io::Error::from(ErrorKind::BrokenPipe)).is_transient());
        let timeout = Duration::ZERO;
        assert!(OldError::TimedOut { state: "ready", timeout }.is_transient());
        assert!(!OldError::Stopped.is_transient());
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
            assert!(OldError::from(LinkError::Tls(transient)).is_transient());
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
            assert!(!OldError::from(LinkError::Tls(lasting)).is_transient());
        }
    }
}
