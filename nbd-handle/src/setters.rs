//! Which settings are accepted.

use std::path::PathBuf;

use nbd_proto::TlsPolicy;
use rustix::io::Errno;

use crate::fail::Fail;
use crate::handle::{Handle, Memory};

/// The longest name (proto.md, "Conventions").
const LONGEST_NAME: usize = 4096;

/// Switches, each with what it is about.
macro_rules! switches {
    ($($(#[$doc:meta])* $set:ident, $get:ident => $field:ident;)*) => {
        impl<B: Memory> Handle<B> {
            $(
                $(#[$doc])*
                pub const fn $set(&mut self, on: bool) {
                    self.settings.$field = on;
                }

                $(#[$doc])*
                #[must_use]
                pub const fn $get(&self) -> bool {
                    self.settings.$field
                }
            )*
        }
    };
}

switches! {
    /// Whether to ask for block sizes.
    set_request_block_size, requests_block_size => block_size;
    /// Whether to ask for the export's canonical name and description.
    set_full_info, requests_full_info => full_info;
    /// Whether to ask for structured replies.
    set_request_structured_replies, requests_structured_replies => structured_replies;
    /// Whether to ask for extended headers.
    set_request_extended_headers, requests_extended_headers => extended_headers;
    /// Whether meta contexts are selected before the export is chosen.
    set_request_meta_context, requests_meta_context => request_meta_contexts;
    /// Whether the negotiation stops for the caller.
    set_option_mode, option_mode => option_mode;
    /// Whether the buffers of reads are cleared first.
    set_pread_initialize, pread_initialize => pread_initialize;
    /// Whether URIs may name local files.
    set_uri_local_files, uri_local_files => uri_local_files;
    /// Whether URIs may choose ciphers.
    set_uri_tls_priority, uri_tls_priority => uri_tls_priority;
}

impl<B: Memory> Handle<B> {
    /// Whether the server's certificate is checked. Without this call it is, unless the server
    /// is a local one and neither authorities nor a name are set.
    pub const fn set_tls_verify_peer(&mut self, on: bool) {
        self.settings.verify_peer = Some(on);
    }

    /// What was set by [`set_tls_verify_peer`](Self::set_tls_verify_peer), or true.
    #[must_use]
    pub const fn tls_verify_peer(&self) -> bool {
        !matches!(self.settings.verify_peer, Some(false))
    }

    /// What it is called in debug messages.
    pub fn set_name(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// What it is called in debug messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The export to ask for.
    ///
    /// # Errors
    /// `ENAMETOOLONG` beyond 4096 bytes.
    pub fn set_export_name(&mut self, name: &str) -> Result<(), Fail> {
        check_length(name)?;
        self.selected &= name == self.settings.export_name;
        name.clone_into(&mut self.settings.export_name);
        self.reconfigure()
    }

    /// The export that is asked for.
    #[must_use]
    pub fn export_name(&self) -> &str {
        &self.settings.export_name
    }

    /// Adds a meta context to ask for.
    ///
    /// # Errors
    /// `ENAMETOOLONG` beyond 4096 bytes.
    pub fn add_meta_context(&mut self, name: &str) -> Result<(), Fail> {
        check_length(name)?;
        self.settings.meta_contexts.push(name.to_owned());
        Ok(())
    }

    /// Asks for no meta context.
    pub fn clear_meta_contexts(&mut self) {
        self.settings.meta_contexts.clear();
    }

    /// The meta contexts that are asked for.
    #[must_use]
    pub fn meta_contexts(&self) -> &[String] {
        &self.settings.meta_contexts
    }

    /// Handshake flags that are accepted, as bits.
    ///
    /// # Errors
    /// For bits that mean nothing.
    pub fn set_handshake_flags(&mut self, flags: u32) -> Result<(), Fail> {
        check_bits(flags, 3)?;
        self.settings.handshake_flags = flags;
        Ok(())
    }

    /// Handshake flags that are accepted, as bits.
    #[must_use]
    pub const fn handshake_flags(&self) -> u32 {
        self.settings.handshake_flags
    }

    /// Checks made before a command is sent, as bits of [`StrictMode`](nbd_proto::StrictMode).
    ///
    /// # Errors
    /// For bits that mean nothing to the release that is played.
    pub fn set_strict(&mut self, bits: u32) -> Result<(), Fail> {
        check_bits(bits, self.level.strict_mask())?;
        self.settings.strict = bits;
        let mode = self.settings.strict_mode();
        if let Some(engine) = &mut self.engine {
            engine.session.set_strict(mode);
        }
        Ok(())
    }

    /// Checks made before a command is sent, as bits.
    #[must_use]
    pub const fn strict(&self) -> u32 {
        self.settings.strict
    }

    /// Whether TLS is used.
    pub const fn set_tls(&mut self, policy: TlsPolicy) {
        self.settings.tls = policy;
    }

    /// Whether TLS is used.
    #[must_use]
    pub const fn tls(&self) -> TlsPolicy {
        self.settings.tls
    }

    /// The directory with certificates. It is looked at when TLS starts.
    pub fn set_tls_certificates(&mut self, dir: PathBuf) {
        self.settings.certificates = Some(dir);
    }

    /// The file with pre-shared keys. It is looked at when TLS starts.
    pub fn set_tls_psk_file(&mut self, file: PathBuf) {
        self.settings.psk_file = Some(file);
    }

    /// Whose key is used.
    pub fn set_tls_username(&mut self, name: &str) {
        self.settings.username = Some(name.to_owned());
    }

    /// Whose key is used: as set, or else who runs this program.
    ///
    /// # Errors
    /// When nobody knows.
    pub fn tls_username(&self) -> Result<String, Fail> {
        let set = self.settings.username.clone();
        let unknown = || Fail::new(Errno::NOENT, "neither LOGNAME nor USER tells who this is");
        let of = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
        set.or_else(|| of("LOGNAME")).or_else(|| of("USER")).ok_or_else(unknown)
    }

    /// The name that the server's certificate must have, in place of the host's.
    pub fn set_tls_hostname(&mut self, name: &str) {
        self.settings.hostname = Some(name.to_owned()).filter(|name| !name.is_empty());
    }

    /// The name that the server's certificate must have: as set, or that of the host.
    #[must_use]
    pub fn tls_hostname(&self) -> String {
        match (&self.settings.hostname, &self.address) {
            (Some(name), _) => name.clone(),
            (None, Some(nbd_transport::Endpoint::Tcp { host, .. })) => host.clone(),
            (None, _) => String::new(),
        }
    }

    /// Which ciphers are used, as GnuTLS writes them. There is no GnuTLS here.
    ///
    /// # Errors
    /// `ENOTSUP`, unless it is empty.
    pub fn set_tls_priority(&mut self, priority: &str) -> Result<(), Fail> {
        if !priority.is_empty() {
            return Err(Fail::new(
                Errno::NOTSUP,
                "ciphers cannot be chosen by a priority string of GnuTLS, which is not used",
            ));
        }
        self.settings.tls_priority = None;
        Ok(())
    }

    /// Which ciphers are used; empty for the safe ones.
    #[must_use]
    pub fn tls_priority(&self) -> &str {
        self.settings.tls_priority.as_deref().unwrap_or_default()
    }

    /// Transports that URIs may ask for, as bits.
    ///
    /// # Errors
    /// For bits that mean nothing to the release that is played.
    pub fn set_uri_transports(&mut self, bits: u32) -> Result<(), Fail> {
        check_bits(bits, self.level.transport_mask())?;
        self.settings.uri_transports = bits;
        Ok(())
    }

    /// Whether URIs may or must ask for TLS.
    pub const fn set_uri_tls(&mut self, policy: TlsPolicy) {
        self.settings.uri_tls = policy;
    }

    /// What a socket-activated program sees as its socket's name; empty for `unknown`.
    ///
    /// # Errors
    /// `ENAMETOOLONG` beyond 32 bytes, `EINVAL` for anything but ASCII letters and digits.
    pub fn set_activation_name(&mut self, name: &str) -> Result<(), Fail> {
        if name.len() > 32 {
            return Err(Fail::new(Errno::NAMETOOLONG, "a socket's name has at most 32 bytes"));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Fail::invalid("a socket's name has only ASCII letters and digits"));
        }
        name.clone_into(&mut self.settings.activation_name);
        Ok(())
    }

    /// What a socket-activated program sees as its socket's name.
    #[must_use]
    pub fn activation_name(&self) -> &str {
        &self.settings.activation_name
    }
}

fn check_length(name: &str) -> Result<(), Fail> {
    if name.len() > LONGEST_NAME {
        let text = format!("a name of {} bytes, which may have {LONGEST_NAME}", name.len());
        return Err(Fail::new(Errno::NAMETOOLONG, text));
    }
    Ok(())
}

fn check_bits(given: u32, known: u32) -> Result<(), Fail> {
    match given & !known {
        0 => Ok(()),
        odd => Err(Fail::invalid(format!("bits {odd:#x} mean nothing here"))),
    }
}
