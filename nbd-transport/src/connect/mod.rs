//! Connecting: one file for each way.

mod activation;
mod child;
mod deadline;
mod error;
mod resolve;
mod tcp;
mod unix;
mod vsock;

pub use error::{Attempt, ConnectError, Step};

use crate::connection::Connection;
use crate::endpoint::Endpoint;
pub(crate) use deadline::Deadline;

pub(crate) fn connect(
    endpoint: &Endpoint,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    go(endpoint, deadline).map_err(|error| {
        // Whatever came of it then.
        if deadline.is_stopped() {
            ConnectError::GivenUp { endpoint: endpoint.to_string() }
        } else {
            error
        }
    })
}

fn go(endpoint: &Endpoint, deadline: Deadline<'_>) -> Result<Connection, ConnectError> {
    if deadline.has_passed() {
        return Err(ConnectError::timed_out(endpoint, Step::Connect));
    }
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let addresses = resolve::resolve(endpoint, host, *port, deadline)?;
            tcp::connect(endpoint, &addresses, deadline)
        }
        Endpoint::Address(address) => tcp::connect(endpoint, &[*address], deadline),
        Endpoint::Unix(path) => unix::connect_path(endpoint, path, deadline),
        Endpoint::UnixAbstract(name) => unix::connect_abstract(endpoint, name, deadline),
        Endpoint::Vsock { cid, port } => vsock::connect(endpoint, *cid, *port, deadline),
        Endpoint::Command(command) => child::connect(endpoint, command, deadline),
        Endpoint::SocketActivation(activation) => {
            activation::connect(endpoint, activation, deadline)
        }
        Endpoint::Ssh(target) => child::connect(endpoint, &target.command()?, deadline),
    }
}
