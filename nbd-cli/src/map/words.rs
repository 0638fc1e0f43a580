//! What a status means, where the context is a known one.

/// In the words of nbdinfo.
pub(crate) fn describe(context: &str, status: u64) -> Option<String> {
    let words = match (context, status) {
        ("base:allocation", 0) => "data",
        ("base:allocation", 1) => "hole",
        ("base:allocation", 2) => "zero",
        ("base:allocation", 3) => "hole,zero",
        ("qemu:allocation-depth", 0) => "absent",
        ("qemu:allocation-depth", 1) => "local",
        ("qemu:allocation-depth", depth) => return Some(format!("backing depth {depth}")),
        (bitmap, 0) if bitmap.starts_with("qemu:dirty-bitmap:") => "clean",
        (bitmap, 1) if bitmap.starts_with("qemu:dirty-bitmap:") => "dirty",
        _ => return None,
    };
    Some(words.to_owned())
}
