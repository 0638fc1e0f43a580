//! Questions that are answered with yes or no: `--can trim`, `--is tls`, `--has structured-reply`.

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::{ClientConfig, HeaderStyle, TransmissionFlags};

use crate::failure::{Failure, Result};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ability {
    /// A connection, which there is when anything can be asked.
    Connect,
    Read,
    Write,
    Tls,
    StructuredReply,
    ExtendedHeaders,
    Flag(TransmissionFlags),
}

impl Ability {
    /// Names are those of nbdinfo, with `-`, `_` or a space between words.
    pub(super) fn named(name: &str) -> Result<Self> {
        let name = name.to_ascii_lowercase().replace(['_', ' '], "-");
        Ok(match name.as_str() {
            "connect" => Self::Connect,
            "read" => Self::Read,
            "write" => Self::Write,
            "tls" => Self::Tls,
            "sr" | "structured" | "structured-reply" | "structured-replies" => {
                Self::StructuredReply
            }
            "eh" | "extended-header" | "extended-headers" => Self::ExtendedHeaders,
            "readonly" | "read-only" => Self::Flag(TransmissionFlags::READ_ONLY),
            "rotational" => Self::Flag(TransmissionFlags::ROTATIONAL),
            "block-status-payload" => Self::Flag(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
            "cache" => Self::Flag(TransmissionFlags::SEND_CACHE),
            "df" => Self::Flag(TransmissionFlags::SEND_DF),
            "fast-zero" | "fastzero" => Self::Flag(TransmissionFlags::SEND_FAST_ZERO),
            "flush" => Self::Flag(TransmissionFlags::SEND_FLUSH),
            "fua" => Self::Flag(TransmissionFlags::SEND_FUA),
            "multi-conn" | "multiconn" => Self::Flag(TransmissionFlags::CAN_MULTI_CONN),
            "trim" => Self::Flag(TransmissionFlags::SEND_TRIM),
            "zero" => Self::Flag(TransmissionFlags::SEND_WRITE_ZEROES),
            _ => {
                return Err(Failure::new(format!(
                    "`{name}` is nothing that can be asked; connect, read, write, tls, \
                     structured-reply, extended-headers, read-only, rotational, \
                     block-status-payload, cache, df, fast-zero, flush, fua, multi-conn, trim \
                     and zero are"
                )));
            }
        })
    }

    /// What to connect with to find out.
    pub(super) fn config(self) -> ClientConfig {
        let config = ClientConfig::new();
        match self {
            // Without a context, qemu-nbd does not say that it takes one.
            Self::Flag(TransmissionFlags::BLOCK_STATUS_PAYLOAD) => {
                config.meta_context("base:allocation")
            }
            _ => config,
        }
    }

    pub(super) fn holds(self, client: &Client) -> bool {
        match self {
            Self::Connect | Self::Read => true,
            Self::Write => !client.is_read_only(),
            Self::Tls => client.session().tls_info().is_some(),
            Self::StructuredReply => client.negotiated().headers != HeaderStyle::Simple,
            Self::ExtendedHeaders => client.negotiated().headers == HeaderStyle::Extended,
            Self::Flag(flag) => client.flags().contains(flag),
        }
    }
}
