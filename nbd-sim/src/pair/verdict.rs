//! The oracle's word on what passed each end.
//!
//! Each side is judged by what it saw, faults of the pipe included: a client cannot
//! know that the server's flags were flipped on the way.

use super::Check;
use crate::oracle::{Oracle, OracleError};
use crate::pipe::Way;
use crate::transcript::Side;

/// What the client sent must be right as an answer to what it saw.
pub(super) fn judge_client(log: &[(Way, Vec<u8>)], faulty: bool) -> Check {
    let (oracle, result) = follow(log, Side::Client);
    check(result, Side::Client, faulty)?;
    match oracle.summary().breaches.first() {
        Some((message, breach)) => Err(format!("the client's message {message}: {breach}")),
        None => Ok(()),
    }
}

/// What the server sent must be right as an answer to what it saw.
pub(super) fn judge_server(log: &[(Way, Vec<u8>)], faulty: bool) -> Check {
    let (_, result) = follow(log, Side::Server);
    check(result, Side::Server, faulty)
}

/// Without a fault nobody may be blamed, with one only the side that was not heard
/// right.
fn check(result: Result<(), OracleError>, judged: Side, faulty: bool) -> Check {
    match result {
        Err(error) if error.side == judged || !faulty => Err(format!("oracle: {error}")),
        Err(_) | Ok(()) => Ok(()),
    }
}

fn follow(log: &[(Way, Vec<u8>)], owner: Side) -> (Oracle, Result<(), OracleError>) {
    let mut oracle = Oracle::new();
    for (way, bytes) in log {
        let result = match (way, owner) {
            (Way::Sent, Side::Client) | (Way::Seen, Side::Server) => oracle.client_bytes(bytes),
            (Way::Seen, Side::Client) | (Way::Sent, Side::Server) => oracle.server_bytes(bytes),
        };
        if result.is_err() {
            return (oracle, result);
        }
    }
    (oracle, Ok(()))
}
