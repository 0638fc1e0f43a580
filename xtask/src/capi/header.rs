//! The header of the C library.

use super::table::{FUNCTIONS, Function};

/// Numbers, each with the release in which it came.
const NUMBERS: [(&str, &str, u16); 32] = [
    ("TLS_DISABLE", "0", 0),
    ("TLS_ALLOW", "1", 0),
    ("TLS_REQUIRE", "2", 0),
    ("SIZE_MINIMUM", "0", 12),
    ("SIZE_PREFERRED", "1", 12),
    ("SIZE_MAXIMUM", "2", 12),
    ("SIZE_PAYLOAD", "3", 16),
    ("CMD_FLAG_FUA", "0x01U", 0),
    ("CMD_FLAG_NO_HOLE", "0x02U", 0),
    ("CMD_FLAG_DF", "0x04U", 0),
    ("CMD_FLAG_REQ_ONE", "0x08U", 0),
    ("CMD_FLAG_FAST_ZERO", "0x10U", 2),
    ("CMD_FLAG_PAYLOAD_LEN", "0x20U", 18),
    ("HANDSHAKE_FLAG_FIXED_NEWSTYLE", "0x01U", 2),
    ("HANDSHAKE_FLAG_NO_ZEROES", "0x02U", 2),
    ("STRICT_COMMANDS", "0x01U", 4),
    ("STRICT_FLAGS", "0x02U", 4),
    ("STRICT_BOUNDS", "0x04U", 6),
    ("STRICT_ZERO_SIZE", "0x08U", 6),
    ("STRICT_ALIGN", "0x10U", 8),
    ("STRICT_PAYLOAD", "0x20U", 16),
    ("STRICT_AUTO_FLAG", "0x40U", 18),
    ("ALLOW_TRANSPORT_TCP", "0x01U", 2),
    ("ALLOW_TRANSPORT_UNIX", "0x02U", 2),
    ("ALLOW_TRANSPORT_VSOCK", "0x04U", 2),
    ("ALLOW_TRANSPORT_SSH", "0x08U", 22),
    ("SHUTDOWN_ABANDON_PENDING", "0x10000U", 4),
    ("AIO_DIRECTION_READ", "1", 0),
    ("AIO_DIRECTION_WRITE", "2", 0),
    ("AIO_DIRECTION_BOTH", "3", 0),
    ("STATE_HOLE", "1", 0),
    ("STATE_ZERO", "2", 0),
];

/// Sums of numbers whose names begin alike.
const MASKS: [&str; 5] = ["CMD_FLAG", "HANDSHAKE_FLAG", "STRICT", "ALLOW_TRANSPORT", "SHUTDOWN"];

const PARTS: [(&str, &str); 3] = [("READ_DATA", "1"), ("READ_HOLE", "2"), ("READ_ERROR", "3")];

/// Texts, each with the release in which it came.
const TEXTS: [(&str, &str, u16); 5] = [
    ("NAMESPACE_BASE", "base:", 0),
    ("CONTEXT_BASE_ALLOCATION", "base:allocation", 0),
    ("NAMESPACE_QEMU", "qemu:", 18),
    ("CONTEXT_QEMU_DIRTY_BITMAP", "qemu:dirty-bitmap:", 18),
    ("CONTEXT_QEMU_ALLOCATION_DEPTH", "qemu:allocation-depth", 18),
];

/// Callbacks: name, arguments after the caller's data, and the release in which it came.
const CALLBACKS: [(&str, &str, u16); 7] = [
    ("chunk", "const void *subbuf, size_t count, uint64_t offset, unsigned status, int *error", 0),
    ("completion", "int *error", 0),
    ("debug", "const char *context, const char *msg", 0),
    (
        "extent",
        "const char *metacontext, uint64_t offset, uint32_t *entries, size_t nr_entries, int *error",
        0,
    ),
    (
        "extent64",
        "const char *metacontext, uint64_t offset, nbd_extent *entries, size_t nr_entries, int *error",
        18,
    ),
    ("list", "const char *name, const char *description", 4),
    ("context", "const char *name", 6),
];

const TOP: &str = "\
/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The interface of libnbd in C. Made by `cargo xtask capi`.
 */

#ifndef LIBNBD_H
#define LIBNBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern \"C\" {
#endif

/* One connection to a server, or none yet. Functions may be called by several threads; all but
 * those that only look take turns. From a callback only those can be called that look. */
struct nbd_handle;

";

const BOTTOM: &str = "
#ifdef __cplusplus
}
#endif

#endif /* LIBNBD_H */
";

/// As of one release.
pub(crate) fn render(minor: u16) -> String {
    let mut out = String::from(TOP);
    for (name, value, _) in NUMBERS.iter().filter(|(.., since)| *since <= minor) {
        out.push_str(&format!("#define LIBNBD_{name:<30} {value}\n"));
    }
    for mask in MASKS {
        out.push_str(&format!(
            "#define LIBNBD_{:<30} {:#04x}U\n",
            format!("{mask}_MASK"),
            sum(mask, minor)
        ));
    }
    for (name, value) in PARTS {
        out.push_str(&format!("#define LIBNBD_{name:<30} {value}\n"));
    }
    if minor >= 18 {
        out.push_str(&format!("#define LIBNBD_{:<30} 1\n", "STATE_DIRTY"));
    }
    for (name, text, _) in TEXTS.iter().filter(|(.., since)| *since <= minor) {
        out.push_str(&format!("#define LIBNBD_{name:<30} \"{text}\"\n"));
    }
    out.push_str(
        "\n/* Callbacks. The data is freed once, whatever happens; `free` may be NULL. */\n",
    );
    if minor >= 18 {
        out.push_str("\ntypedef struct {\n  uint64_t length; /* at most INT64_MAX */\n  uint64_t flags;\n} nbd_extent;\n#define LIBNBD_HAVE_NBD_EXTENT 1\n");
    }
    for (name, arguments, _) in CALLBACKS.iter().filter(|(.., since)| *since <= minor) {
        out.push_str(&format!(
            "\ntypedef struct {{\n  int (*callback) (void *user_data, {arguments});\n  \
             void *user_data;\n  void (*free) (void *user_data);\n}} nbd_{name}_callback;\n\
             #define LIBNBD_HAVE_NBD_{}_CALLBACK 1\n",
            name.to_uppercase()
        ));
    }
    out.push_str(
        "\n/* No callback at all. */\n\
         #define NBD_NULL_COMPLETION ((nbd_completion_callback) { .callback = NULL })\n",
    );
    for function in FUNCTIONS.iter().filter(|function| function.minor() <= minor) {
        out.push('\n');
        out.push_str(&comment(function));
        out.push_str(&format!("extern {};\n", prototype(function)));
        out.push_str(&format!("#define LIBNBD_HAVE_{} 1\n", function.name.to_uppercase()));
    }
    out.push_str(BOTTOM);
    out
}

fn sum(prefix: &str, minor: u16) -> u32 {
    let known = NUMBERS.iter().filter(|(name, _, since)| {
        *since <= minor && name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_'))
    });
    known.filter_map(|(_, value, _)| number(value)).sum()
}

fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?.strip_suffix('U')?, 16).ok()
}

fn comment(function: &Function) -> String {
    let lines: Vec<_> = function.about.iter().map(|line| line.trim()).collect();
    format!("/* {} */\n", lines.join("\n * "))
}

/// As C has it.
pub(crate) fn prototype(function: &Function) -> String {
    let arguments: Vec<_> = function.arguments.iter().map(|(n, kind)| argument(n, kind)).collect();
    let handle = match function.name {
        "nbd_create" | "nbd_get_error" | "nbd_get_errno" => None,
        _ => Some("struct nbd_handle *h"),
    };
    let mut all: Vec<_> = handle.map(str::to_owned).into_iter().chain(arguments).collect();
    if all.is_empty() {
        all.push("void".to_owned());
    }
    format!("{}{} ({})", result(function.result), function.name, all.join(", "))
}

fn argument(name: &str, kind: &str) -> String {
    let before = match kind {
        "flag" => "bool ",
        "int" | "tls" | "socket" | "other_fd" => "int ",
        "bits" | "cmd_flags" => "uint32_t ",
        "u64" => "uint64_t ",
        "size" => "size_t ",
        "word" => "uintptr_t ",
        "str" | "path" => "const char *",
        "strs" | "argv" => "char **",
        "buf_out" => "void *",
        "buf_in" => "const void *",
        "sockaddr" => "const struct sockaddr *",
        "socklen" => "socklen_t ",
        callback => return format!("nbd_{callback}_callback {name}"),
    };
    format!("{before}{name}")
}

fn result(kind: &str) -> &'static str {
    match kind {
        "handle" => "struct nbd_handle *",
        "nothing" => "void ",
        "err" | "truth" | "int" => "int ",
        "i64" => "int64_t ",
        "ssize" => "ssize_t ",
        "uint" => "unsigned ",
        "bits" => "uint32_t ",
        "u64" => "uint64_t ",
        "word" => "uintptr_t ",
        "text" => "char *",
        "fixed" => "const char *",
        // What this is, the compiler of the header would ask.
        _ => "unknown_result ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> String {
        prototype(FUNCTIONS.iter().find(|function| function.name == name).expect("it is there"))
    }

    #[test]
    fn prototypes_are_as_c_has_them() {
        assert_eq!(find("nbd_create"), "struct nbd_handle *nbd_create (void)");
        assert_eq!(
            find("nbd_aio_pwrite"),
            "int64_t nbd_aio_pwrite (struct nbd_handle *h, const void *buf, size_t count, \
             uint64_t offset, nbd_completion_callback completion_callback, uint32_t flags)"
        );
    }

    #[test]
    fn masks_grow_with_the_releases() {
        let strict = [14, 16, 24].map(|minor| sum("STRICT", minor));
        assert_eq!(strict, [0x1f, 0x3f, 0x7f]);
        assert_eq!([14, 24].map(|minor| sum("ALLOW_TRANSPORT", minor)), [7, 15]);
        assert_eq!([14, 24].map(|minor| sum("CMD_FLAG", minor)), [0x1f, 0x3f]);
    }
}
