//! Where the program, called by a name of libnbd's tools, is meant to differ from them.

/// Keys of JSON that those tools do not have: newer ones of theirs, and our own.
pub(crate) const MORE_KEYS: [&str; 9] = [
    "extended",
    "can_block_status_payload",
    "uri",
    "contexts",
    "TLS-version",
    "TLS-cipher-suite",
    "TLS-server-names",
    "TLS-server-sha256",
    "TLS-username",
];

/// Lines of text that they do not have, by how they begin.
pub(crate) const MORE_LINES: [&str; 4] =
    ["\tcan_block_status_payload: ", "\turi: ", "tls: ", "server: "];

/// They know no extended headers: of a server that has them they say that it has the lesser.
pub(crate) const PACKETS: [&str; 2] = ["using extended packets", "using structured packets"];

/// nbddump ends in `*` when the last line is zeroes like the one before and lies in a hole,
/// and does not tell where the end is; we always do.
pub(crate) fn same_dump(ours: &str, theirs: &str) -> bool {
    let Some(told) = theirs.strip_suffix("*\n") else {
        return ours == theirs;
    };
    let rest = ours.strip_prefix(told).unwrap_or_default();
    rest.strip_prefix("*\n").unwrap_or(rest).lines().count() == 1
}

/// A percentage is told by nbdinfo in six digits at most.
pub(crate) fn percent(value: f64) -> f64 {
    (value * 1000.0).round()
}

/// nbdinfo fails to answer whether it can connect where it cannot; newer ones and we say no.
pub(crate) const NOT_CONNECTED: [i32; 2] = [1, 2];

/// nbd-server answers a mere question with a size of 0. nbdinfo believes it; we open the export.
pub(crate) fn has_wrong_size(what: &str) -> bool {
    what.starts_with("nbd-server")
}

/// Keys that follow from the size.
pub(crate) const ABOUT_SIZE: [&str; 3] = ["export-size", "export-size-str", "content"];

/// nbddump fails where a part of a block is to be shown and the server reads whole ones only;
/// we read whole ones.
pub(crate) const READS_WHOLE_BLOCKS: bool = true;

/// Whether the two are meant to end with these, theirs and ours.
pub(crate) fn ends_differently(args: &[&str], status: [Option<i32>; 2]) -> bool {
    matches!(args, ["--can" | "--is", "connect", ..]) && status == NOT_CONNECTED.map(Some)
}
