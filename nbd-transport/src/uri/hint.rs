//! What was probably meant by a text that is no URI.

use super::error::shorten;
use super::{NbdUri, UriAddress};

/// Advice for a text without `://`.
pub(super) fn for_text(text: &str) -> String {
    let meant = if let Some(socket) = text.strip_prefix("nbd:unix:") {
        unix(socket)
    } else if let Some(address) = text.strip_prefix("nbd:") {
        tcp(address.trim_start_matches('/'))
    } else if text.starts_with(['/', '.']) {
        unix(text)
    } else {
        tcp(text)
    };
    meant.map_or_else(
        || "it must start with a scheme such as nbd:// or nbd+unix://".to_owned(),
        |uri| format!("did you mean {:?}?", shorten(&uri.to_string())),
    )
}

/// `PATH` or QEMU's `PATH:exportname=NAME`.
fn unix(text: &str) -> Option<NbdUri> {
    let (path, export) = split_export(text);
    NbdUri::new(UriAddress::Unix { path: path.into() }, false).ok()?.with_export_name(export).ok()
}

/// `HOST[:PORT][/EXPORT]` or QEMU's `HOST:PORT:exportname=NAME`.
fn tcp(text: &str) -> Option<NbdUri> {
    let (address, export) = split_export(text);
    if address.is_empty() || address.contains("://") {
        return None;
    }
    let uri: NbdUri = format!("nbd://{address}").parse().ok()?;
    if export.is_empty() { Some(uri) } else { uri.with_export_name(export).ok() }
}

fn split_export(text: &str) -> (&str, &str) {
    text.split_once(":exportname=").unwrap_or((text, ""))
}
