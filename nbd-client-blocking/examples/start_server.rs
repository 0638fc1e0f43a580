//! Starts a server for itself alone, and ends it again.
//!
//! ```text
//! start_server nbdkit -s memory 1M
//! start_server --activate qemu-nbd --format=raw disk.img
//! ```
//!
//! The first speaks NBD on its standard input and output; the second is handed a
//! listening socket, as systemd does.

use std::error::Error;

use nbd_client_blocking::transport::{CommandSpec, Endpoint};
use nbd_client_blocking::{Client, ConnectOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    let activate = args.next_if_eq("--activate").is_some();
    let program = args.next().ok_or("usage: start_server [--activate] PROGRAM [ARGUMENT...]")?;
    let command = CommandSpec::new(program, args);
    let endpoint = if activate {
        Endpoint::SocketActivation(command.into())
    } else {
        Endpoint::Command(command)
    };
    let name = endpoint.to_string();
    let client = Client::connect(ConnectOptions::new().endpoint(endpoint))?;
    println!("{name}: {} bytes", client.size());
    client.disconnect()?;
    Ok(())
}
