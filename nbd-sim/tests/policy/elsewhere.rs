//! Servers that no row of bytes can tell of, and the tests that play them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nbd_sim::hostile::{all, scenes};

const INTRODUCTION: &str = "
## Played elsewhere

What cannot be told as bytes from a server, because it lies in what the server does with
its socket, in TLS, or in every length there is:

| The server | Case | Test |
|---|---|---|
";

/// Every case that a client is measured by.
const CASES: [(&str, &[u8]); 9] = [
    ("H", &[1, 2, 4, 5, 6, 9, 10, 11, 13, 14, 15, 17, 18]),
    (
        "O",
        &[
            1, 2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28,
            29, 30, 32, 33, 34, 35, 36, 38, 39, 40, 42, 43, 44, 46, 47, 48, 49, 51, 53, 54, 55,
        ],
    ),
    ("M", &[1, 2, 3, 5, 6, 7, 9, 10, 11, 12]),
    ("L", &[1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 19]),
    ("T", &[1, 2, 4, 5, 6, 9, 10, 11, 12, 13]),
    (
        "X",
        &[
            1, 2, 3, 4, 7, 8, 9, 10, 11, 14, 15, 16, 19, 20, 21, 23, 24, 25, 26, 27, 28, 31, 32,
            33, 36, 37, 38, 39, 40, 43, 44, 45, 47, 48, 49, 51, 52, 53, 54, 56, 57, 58, 59, 63, 64,
            65, 66,
        ],
    ),
    ("S", &[1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21]),
    ("TL", &[1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17]),
    ("E", &[1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]),
];

const SCENES: &str = "nbd-sim/src/hostile/scenes.rs";
const SECRETS: &str = "nbd-sim/src/hostile/secure.rs";
const TRUST: &str = "nbd-session/tests/tls/servers.rs";
const MISUSE: &str = "nbd-session/tests/tls/misbehaviour.rs";

/// What the server does, the case, the file, and a test or function that names the case.
const ELSEWHERE: [(&str, &str, &str, &str); 34] = [
    ("resets the connection", "X51", SCENES, "scenes"),
    ("refuses a write before its payload is there", "X63", SCENES, "scenes"),
    (
        "refuses a write, waits until that is read, and takes the payload",
        "X63",
        "nbd-client-blocking/tests/hostile.rs",
        "a_write_whose_reply_overtakes_its_payload_ends_with_its_last_byte",
    ),
    ("refuses a write and closes", "X64", SCENES, "scenes"),
    ("does not read while it writes", "X65", SCENES, "scenes"),
    ("closes its half", "X67", SCENES, "scenes"),
    (
        "sends any part of any case, and closes",
        "H02",
        "nbd-sim/tests/hostile.rs",
        "every_case_cut_at_every_length",
    ),
    (
        "sends any part of an option reply, and closes",
        "O54",
        "nbd-sim/tests/hostile.rs",
        "every_case_cut_at_every_length",
    ),
    (
        "answers what was asked before the goodbye",
        "X66",
        "nbd-sim/tests/client_edges.rs",
        "a_reply_behind_the_goodbye_counts",
    ),
    (
        "agrees to extended headers before TLS",
        "E14",
        "nbd-sim/tests/client_edges.rs",
        "tls_by_hand_forgets_extended_headers",
    ),
    (
        "agrees to TLS inside TLS, which was asked for by hand",
        "TL14",
        "nbd-sim/tests/client_edges.rs",
        "tls_is_not_started_twice",
    ),
    ("has a certificate of another time", "TL01", TRUST, "certificates_that_are_not_accepted"),
    ("has a certificate for another name", "TL02", TRUST, "certificates_that_are_not_accepted"),
    ("has signed its certificate itself", "TL02", TRUST, "a_certificate_that_signed_itself"),
    ("has a certificate for clients", "TL04", TRUST, "certificates_that_are_not_accepted"),
    ("closes without a word of TLS", "TL05", SECRETS, "secrets"),
    ("closes so in the middle of a reply", "TL06", SECRETS, "secrets"),
    (
        "is cut off anywhere",
        "TL05",
        "nbd-session/tests/tls/cuts.rs",
        "a_cut_is_told_from_an_end_at_every_byte",
    ),
    (
        "is cut off anywhere in a record",
        "TL06",
        "nbd-session/tests/tls/cuts.rs",
        "a_cut_is_told_from_an_end_at_every_byte",
    ),
    ("replies in clear", "TL08", SECRETS, "secrets"),
    ("sends records of one byte", "TL09", SECRETS, "secrets"),
    ("sends forged records of one byte", "TL09", MISUSE, "records_of_one_byte_carry_all_data"),
    ("knows TLS 1.1 at most", "TL10", SECRETS, "secrets"),
    (
        "knows another key, or not this user",
        "TL12",
        "nbd-session/tests/tls/psk.rs",
        "a_wrong_key_and_an_unknown_user_get_a_hint",
    ),
    ("keeps structured replies that were agreed on in clear", "TL13", SECRETS, "secrets"),
    ("agrees to TLS inside TLS", "TL14", SECRETS, "secrets"),
    ("stops in the middle of the handshake", "TL16", SECRETS, "secrets"),
    ("sends key updates", "TL17", MISUSE, "key_updates_between_data_change_nothing"),
    (
        "sends key updates without end",
        "TL17",
        MISUSE,
        "a_flood_of_key_updates_takes_a_bounded_room",
    ),
    ("wants to negotiate anew", "TL17", MISUSE, "renegotiation_is_refused"),
    ("sends tickets without end", "TL17", MISUSE, "tickets_are_thrown_away_and_clients_have_none"),
    ("sends warnings without end", "TL17", MISUSE, "a_flood_of_warnings_is_a_fault"),
    (
        "starts a handshake after the handshake",
        "TL17",
        MISUSE,
        "messages_of_the_handshake_are_a_fault_after_it",
    ),
    (
        "sends any part of a structured reply, and closes",
        "X49",
        "nbd-sim/tests/hostile.rs",
        "every_case_cut_at_every_length",
    ),
];

pub(crate) fn page() -> String {
    let rows = ELSEWHERE.iter().map(|(server, case, file, test)| {
        format!("| {server} | {case} | `{test}` in `{file}` |\n")
    });
    INTRODUCTION.to_owned() + &rows.collect::<String>()
}

/// The case that a row of the table is one of: `X49` for `X49-in-a-header`.
fn case_of(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

#[test]
fn every_case_has_a_test() {
    let told: BTreeSet<&str> = ELSEWHERE.iter().map(|(_, case, ..)| *case).collect();
    let (rows, scenes) = (all(), scenes());
    let rows = rows.iter().map(|case| case.id);
    let played: BTreeSet<&str> = rows.map(case_of).chain(told.iter().copied()).collect();
    for (family, numbers) in CASES {
        for number in numbers {
            let case = format!("{family}{number:02}");
            assert!(played.contains(&case[..]), "no test of {case}");
        }
    }
    for scene in &scenes {
        assert!(told.contains(case_of(scene.case.id)), "{} is not told", scene.case.id);
    }
}

/// A test is named by what it tests, and so can be found by it.
#[test]
fn every_test_elsewhere_names_its_case() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (_, case, file, test) in ELSEWHERE {
        let text = fs::read_to_string(root.join(file)).expect("a file of the project");
        let (before, body) = text
            .split_once(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no {test}"));
        let comment = before.lines().rev().take_while(|line| !line.is_empty());
        let quoted = format!("\"{case}");
        let named = comment.into_iter().any(|line| line.contains(case)) || body.contains(&quoted);
        assert!(named, "{test} in {file} does not say {case}");
    }
}
