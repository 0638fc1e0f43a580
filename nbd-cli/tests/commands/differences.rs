//! Where the program, called by a name of libnbd's tools, is meant to differ from them, release
//! by release. What is not here is the same.

use nbd_sim::peer::{PeerError, version};
use serde_json::{Value, json};

/// What one release of nbdinfo does in its own way.
pub(crate) struct Release {
    /// Keys of JSON that only we have.
    more_keys: &'static [&'static str],
    /// Lines of text that only we have, by how they begin.
    more_lines: &'static [&'static str],
    /// What only we can be asked.
    more_abilities: &'static [&'static str],
    /// It knows extended headers; others say of a server with them that it has the lesser.
    extended_headers: bool,
    /// It says `4096 (4K)` of the sizes of blocks, as we do.
    units: bool,
    /// It does not open the export to answer `--can` and `--size`. Where the server cannot be
    /// asked, or does not tell the truth then, it fails, or says what is not so.
    only_asks: bool,
    /// It asks for contexts without structured replies, against proto.md,
    /// "`NBD_OPT_LIST_META_CONTEXT`"; nobody could use them.
    contexts_without_structured: bool,
}

/// That of Debian 12.
const V1_14: Release = Release {
    more_keys: &[
        "extended",
        "can_block_status_payload",
        "TLS-version",
        "TLS-cipher-suite",
        "TLS-server-names",
        "TLS-server-sha256",
        "TLS-username",
    ],
    more_lines: &["\tcan_block_status_payload: ", "tls: ", "server: "],
    more_abilities: &["block-status-payload", "extended-headers"],
    extended_headers: false,
    units: false,
    only_asks: false,
    contexts_without_structured: false,
};

/// That of Debian 13.
const V1_22: Release = Release {
    more_keys: &[
        "TLS-version",
        "TLS-cipher-suite",
        "TLS-server-names",
        "TLS-server-sha256",
        "TLS-username",
    ],
    more_lines: &["tls: ", "server: "],
    more_abilities: &[],
    extended_headers: true,
    units: true,
    only_asks: true,
    contexts_without_structured: true,
};

/// Servers that cannot be asked of an export: that has to be opened.
const NOT_FIXED: [&str; 2] = ["not fixed, zeroes", "not fixed, no zeroes"];
/// One that talks, and has no such export.
const ABSENT: &str = "an export that is not there";
/// One that talks, and wants TLS first.
const IN_CLEAR: &str = "TLS, not asked for";
/// One that is gone before it has told of the export.
const CUT_OFF: &str = "cut off";
/// One with which there is no talking.
const NOT_TALKED_TO: &str = "TLS that is refused";
/// One that has contexts, and no replies that would tell of them.
pub(crate) const SIMPLE: &str = "simple replies";

/// How both end where there is no server: nbdinfo fails to answer whether it can connect. We say
/// no, as its manual has it.
pub(crate) const NOT_CONNECTED: [i32; 2] = [1, 2];

/// Keys that follow from the size.
pub(crate) const ABOUT_SIZE: [&str; 3] = ["export-size", "export-size-str", "content"];

/// nbd-server answers a mere question with a size of 0. nbdinfo believes it; we open the export.
pub(crate) fn has_wrong_size(what: &str) -> bool {
    what.starts_with("nbd-server")
}

impl Release {
    /// Of the installed nbdinfo; of one between two that are known, the older.
    pub(crate) fn installed() -> Result<&'static Self, PeerError> {
        Ok(if version("nbdinfo")? >= (1, 22) { &V1_22 } else { &V1_14 })
    }

    pub(crate) fn knows(&self, ability: &str) -> bool {
        !self.more_abilities.contains(&ability)
    }

    /// How both end, theirs and ours, when this server is asked for that ability, where it is not
    /// the same.
    pub(crate) fn ends(&self, what: &str, ability: &str) -> Option<[i32; 2]> {
        if ability == "connect" {
            return match what {
                NOT_TALKED_TO => Some(NOT_CONNECTED),
                ABSENT | IN_CLEAR | CUT_OFF if self.only_asks => Some([0, 2]),
                ABSENT | IN_CLEAR | CUT_OFF => Some(NOT_CONNECTED),
                _ => None,
            };
        }
        if !self.only_asks {
            return None;
        }
        match (what, ability) {
            (_, "nonsense") => None,
            (ABSENT | IN_CLEAR | CUT_OFF, "read") => Some([0, 1]),
            (ABSENT, "structured-reply" | "structured replies") => Some([0, 1]),
            (ABSENT | IN_CLEAR, "tls" | "extended-headers") => Some([2, 1]),
            (IN_CLEAR, "structured-reply" | "structured replies") => Some([2, 1]),
            (
                _,
                "read" | "tls" | "extended-headers" | "structured-reply" | "structured replies",
            ) => None,
            _ if !NOT_FIXED.contains(&what) => None,
            (_, "df" | "read-only" | "readonly" | "rotational" | "block-status-payload") => {
                Some([1, 2])
            }
            _ => Some([1, 0]),
        }
    }

    /// How both end when they are asked what there is to say, where it is not the same.
    pub(crate) fn ends_for_all(&self, what: &str, args: &[&str]) -> Option<[i32; 2]> {
        // It says that everything is unavailable, and has succeeded.
        Some([0, 1]).filter(|_| self.only_asks && what == CUT_OFF && !args.contains(&"--list"))
    }

    /// How both end when they are asked for the size, where it is not the same.
    pub(crate) fn ends_for_size(&self, what: &str) -> Option<[i32; 2]> {
        Some([1, 0]).filter(|_| self.only_asks && NOT_FIXED.contains(&what))
    }

    /// What it prints of the size where we print the right one.
    pub(crate) fn size(&self, what: &str, ours: String) -> String {
        if self.only_asks && has_wrong_size(what) { "0\n".to_owned() } else { ours }
    }

    /// What it says in JSON where we say this.
    pub(crate) fn json(&self, what: &str, mut ours: Value) -> Value {
        without(&mut ours, self.more_keys);
        if self.contexts_without_structured && what == SIMPLE {
            for export in exports(&mut ours) {
                export["contexts"] = json!(["base:allocation"]);
            }
        }
        ours
    }

    /// What it says in lines of text where we say these.
    pub(crate) fn lines(&self, what: &str, ours: Vec<String>) -> Vec<String> {
        let is_more = |line: &str| self.more_lines.iter().any(|more| line.starts_with(more));
        let ours = ours.into_iter().filter(|line| !is_more(line));
        let mut lines: Vec<String> = ours.map(|line| self.line(line)).collect();
        if self.contexts_without_structured
            && what == SIMPLE
            && let Some(at) = lines.iter().position(|line| line.starts_with("\tis_rotational"))
        {
            lines.splice(at..at, ["\tcontexts:", "\t\tbase:allocation"].map(str::to_owned));
        }
        lines
    }

    fn line(&self, line: String) -> String {
        if !self.extended_headers && line.starts_with("protocol: ") {
            return line.replace("using extended packets", "using structured packets");
        }
        match line.split_once(" (") {
            Some((size, _)) if !self.units && size.starts_with("\tblock_size_") => size.to_owned(),
            _ => line,
        }
    }
}

/// What is said of each export.
pub(crate) fn exports(info: &mut Value) -> impl Iterator<Item = &mut Value> {
    info.get_mut("exports").and_then(Value::as_array_mut).into_iter().flatten()
}

/// Removes keys wherever they are.
pub(crate) fn without(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&&**key));
            map.values_mut().for_each(|value| without(value, keys));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| without(value, keys)),
        _ => {}
    }
}

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

/// nbddump fails where a part of a block is to be shown and the server reads whole ones only;
/// we read whole ones.
pub(crate) const READS_WHOLE_BLOCKS: bool = true;
