//! The query: `name=value` items between `&` or `;`.

use super::error::{UriError, shorten};
use super::text::{decode, decode_bytes, path};
use super::tls::UriTls;

/// Every parameter as given. Where one is repeated the last counts.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) socket: Option<Vec<u8>>,
    pub(super) nbd_port: Option<u16>,
    pub(super) compress: Option<bool>,
    pub(super) tls: UriTls,
}

impl Query {
    pub(super) fn parse(raw: &str) -> Result<Self, UriError> {
        let mut query = Self::default();
        for item in raw.split(['&', ';']).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            query.set(&decode("query parameter's name", name)?, value)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, raw: &str) -> Result<(), UriError> {
        match name {
            "socket" => self.socket = Some(decode_bytes(raw)),
            "nbd-port" => self.nbd_port = port("nbd-port", &decode("nbd-port", raw)?)?,
            "compress" => self.compress = Some(boolean("compress", raw)?),
            "tls-certificates" => self.tls.certificates = Some(path(decode_bytes(raw))),
            "tls-psk-file" => self.tls.psk_file = Some(path(decode_bytes(raw))),
            "tls-hostname" => self.tls.hostname = Some(decode("tls-hostname", raw)?),
            "tls-verify-peer" => self.tls.verify_peer = Some(boolean("tls-verify-peer", raw)?),
            "tls-priority" => {
                return Err(UriError::Unsupported {
                    name: "tls-priority",
                    instead: "cipher suites are not chosen by the URI, leave it out",
                });
            }
            "tls-type" => {
                return Err(UriError::Unsupported {
                    name: "tls-type",
                    instead: "give tls-certificates or tls-psk-file, which decide the type",
                });
            }
            // uri.md, "Other NBD URI query parameters": experiments carry this prefix.
            experiment if experiment.starts_with("x-") => {}
            unknown => return Err(UriError::UnknownParameter(shorten(unknown))),
        }
        Ok(())
    }
}

/// A TCP port. An empty port and zero, which cannot be connected to, mean the default.
pub(super) fn port(part: &'static str, text: &str) -> Result<Option<u16>, UriError> {
    let expected = "a port from 1 to 65535";
    let number = match text {
        "" => 0,
        digits => decimal(part, digits, expected)?,
    };
    match u16::try_from(number) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(UriError::Value { part, value: shorten(text), expected }),
    }
}

/// A decimal number of 32 bits, with no sign and nothing after it.
pub(super) fn decimal(
    part: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<u32, UriError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| UriError::Value { part, value: shorten(text), expected })
}

fn boolean(part: &'static str, raw: &str) -> Result<bool, UriError> {
    let value = decode(part, raw)?;
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(UriError::Value {
            part,
            value: shorten(&value),
            expected: "1, true, t, yes, y, on, 0, false, f, no, n or off",
        }),
    }
}
