//! What is set before, and what is asked for then.

use std::path::PathBuf;

use nbd_proto::{ClientConfig, HandshakeFlags, StrictMode, TlsPolicy};
use nbd_transport::tls::{ServerCheck, TlsConfig};
use nbd_transport::{AllowedTransports, Transport, UriPolicy};

use crate::level::Level;

/// Most commands in flight. Memory is taken as it is used.
const MAX_IN_FLIGHT: u32 = 1 << 20;

/// Bits of the transports that URIs may ask for.
const TCP: u32 = 1;
const UNIX: u32 = 2;
const VSOCK: u32 = 4;
const SSH: u32 = 8;

/// Everything that can be set on a handle.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) export_name: String,
    pub(crate) block_size: bool,
    pub(crate) full_info: bool,
    pub(crate) structured_replies: bool,
    pub(crate) extended_headers: bool,
    pub(crate) meta_contexts: Vec<String>,
    pub(crate) request_meta_contexts: bool,
    pub(crate) handshake_flags: u32,
    pub(crate) strict: u32,
    pub(crate) option_mode: bool,
    pub(crate) pread_initialize: bool,
    pub(crate) tls: TlsPolicy,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) psk_file: Option<PathBuf>,
    pub(crate) username: Option<String>,
    pub(crate) hostname: Option<String>,
    /// As long as nobody has said so, it depends on whom it is connected to.
    pub(crate) verify_peer: Option<bool>,
    pub(crate) tls_priority: Option<String>,
    pub(crate) uri_transports: u32,
    pub(crate) uri_tls: TlsPolicy,
    pub(crate) uri_local_files: bool,
    pub(crate) uri_tls_priority: bool,
    pub(crate) activation_name: String,
}

impl Settings {
    pub(crate) fn new(level: Level) -> Self {
        Self {
            export_name: String::new(),
            block_size: true,
            full_info: false,
            structured_replies: true,
            extended_headers: true,
            meta_contexts: Vec::new(),
            request_meta_contexts: true,
            handshake_flags: u32::from(HandshakeFlags::all().bits()),
            strict: level.strict_mask(),
            option_mode: false,
            pread_initialize: true,
            tls: TlsPolicy::Disable,
            certificates: None,
            psk_file: None,
            username: None,
            hostname: None,
            verify_peer: None,
            tls_priority: None,
            uri_transports: level.transport_mask(),
            uri_tls: TlsPolicy::Allow,
            uri_local_files: false,
            uri_tls_priority: false,
            activation_name: String::new(),
        }
    }

    /// For the negotiation.
    pub(crate) fn config(&self, level: Level) -> ClientConfig {
        let flags = HandshakeFlags::from_bits_truncate(self.handshake_flags as u16);
        let config = ClientConfig::new()
            .export(&self.export_name)
            .tls(self.tls)
            .structured_replies(self.structured_replies)
            .extended_headers(self.extended_headers && level.has_extended_headers())
            .block_sizes(self.block_size)
            .full_info(self.full_info)
            .request_meta_contexts(self.request_meta_contexts)
            .handshake_flags(flags)
            .option_mode(self.option_mode)
            .strict(self.strict_mode())
            .max_in_flight(MAX_IN_FLIGHT);
        self.meta_contexts.iter().fold(config, ClientConfig::meta_context)
    }

    /// Checks before a command is sent.
    pub(crate) const fn strict_mode(&self) -> StrictMode {
        StrictMode::from_bits_truncate(self.strict)
    }

    /// For TLS, if the server agrees to it; `local` if it is certain to be on this machine.
    pub(crate) fn tls_config(&self, local: bool) -> TlsConfig {
        let mut config = TlsConfig::new();
        if let Some(dir) = &self.certificates {
            config = config.directory(dir);
        }
        if let Some(file) = &self.psk_file {
            config = config.psk_file(file);
        }
        if let Some(name) = &self.username {
            config = config.username(name);
        }
        if let Some(name) = &self.hostname {
            config = config.server_name(name);
        }
        // What is local has no name that an authority of the system's could have signed for.
        let anchored = !local || self.certificates.is_some() || self.hostname.is_some();
        if !self.verify_peer.unwrap_or(anchored) {
            config = config.server_check(ServerCheck::DangerouslyNothing);
        }
        config
    }

    /// What a URI may ask for.
    pub(crate) fn uri_policy(&self) -> UriPolicy {
        let all = [
            (TCP, Transport::Tcp),
            (UNIX, Transport::Unix),
            (VSOCK, Transport::Vsock),
            (SSH, Transport::Ssh),
        ];
        let allowed = all.into_iter().filter(|(bit, _)| self.uri_transports & bit != 0);
        let none = AllowedTransports::NONE;
        UriPolicy::default()
            .transports(allowed.fold(none, |allowed, (_, transport)| allowed.with(transport)))
            .tls(self.uri_tls)
            .local_files(self.uri_local_files)
    }
}
