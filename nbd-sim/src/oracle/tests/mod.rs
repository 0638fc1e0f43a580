//! The oracle against real sessions, golden vectors and every rule it knows.

mod breaches;
mod handshake_faults;
mod transcripts;
mod transmission_faults;
mod vectors;

use super::{Breach, Fault, Oracle, OracleError};
use crate::transcript::{Side, Transcript, vectors};

/// Fixed newstyle, and the client's turn to send an option.
const FIXED: &[&str] = &["S greeting.both", "C client-flags.both"];

/// Transmission with simple replies; all that needs no chunks is offered.
const SIMPLE: &[&str] = &[
    "S greeting.both",
    "C client-flags.both",
    "C option.go",
    "S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000010000000000 0d6d",
    "S reply.ack-go",
];

/// Fixed newstyle with structured replies.
const CHUNKS: &[&str] = &[
    "S greeting.both",
    "C client-flags.both",
    "C option.structured-reply",
    "S reply.ack-structured-reply",
];

/// Transmission with structured replies and the contexts 1 and 7.
const STRUCTURED: &[&str] = &[
    "S greeting.both",
    "C client-flags.both",
    "C option.structured-reply",
    "S reply.ack-structured-reply",
    "C option.set-meta-context",
    "S reply.meta-context",
    "S reply.meta-context-second",
    "S reply.ack-set-meta-context",
    "C option.go",
    "S reply.info-export-chunks",
    "S reply.ack-go",
];

/// Fixed newstyle with extended headers.
const EXTENDED_OPTIONS: &[&str] = &[
    "S greeting.both",
    "C client-flags.both",
    "C option.extended-headers",
    "S reply.ack-extended-headers",
];

/// Transmission with extended headers and the contexts 1 and 7.
const EXTENDED: &[&str] = &[
    "S greeting.both",
    "C client-flags.both",
    "C option.extended-headers",
    "S reply.ack-extended-headers",
    "C option.set-meta-context",
    "S reply.meta-context",
    "S reply.meta-context-second",
    "S reply.ack-set-meta-context",
    "C option.go",
    "S reply.info-export-extended",
    "S reply.ack-go",
];

/// Plays a script: `C name` and `S name` send a golden vector, `C: hex` and `S: hex`
/// send bytes.
fn play(script: &[&str]) -> Result<Oracle, OracleError> {
    let mut oracle = Oracle::new();
    let vectors = vectors().unwrap_or_else(|error| panic!("{error}"));
    for line in script {
        let (side, bytes) = match line.split_at(2) {
            ("C ", name) => (Side::Client, named(&vectors, name)),
            ("S ", name) => (Side::Server, named(&vectors, name)),
            _ => {
                let mut bursts = Transcript::parse("script", line).unwrap().bursts;
                bursts.pop().unwrap()
            }
        };
        match side {
            Side::Client => oracle.client_bytes(&bytes)?,
            Side::Server => oracle.server_bytes(&bytes)?,
        }
    }
    oracle.finish()?;
    Ok(oracle)
}

fn named(vectors: &[crate::transcript::Vector], name: &str) -> Vec<u8> {
    let found = vectors.iter().find(|vector| vector.name == name);
    found.unwrap_or_else(|| panic!("no vector {name}")).bytes.clone()
}

/// The end of the script must be what breaks it, in this way.
fn faulty(start: &[&str], end: &[&str], fault: Fault) {
    let script = [start, end].concat();
    match play(&script) {
        Err(error) => assert_eq!(error.fault, fault, "{end:?}"),
        Ok(oracle) => panic!("{end:?} was taken: {:?}", oracle.messages().last()),
    }
    if let Err(error) = play(&script[..script.len() - 1]) {
        panic!("{end:?}: the last line should be the fault, but {error}");
    }
}

/// The script is taken, and these breaches are noted, all at its last message.
fn breaching(start: &[&str], end: &[&str], breaches: &[Breach]) {
    let oracle = play(&[start, end].concat()).unwrap_or_else(|error| panic!("{end:?}: {error}"));
    let last = oracle.messages().len() - 1;
    let expected: Vec<_> = breaches.iter().map(|breach| (last, breach.clone())).collect();
    assert_eq!(oracle.summary().breaches, expected, "{end:?}");
}
