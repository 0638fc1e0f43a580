//! Connections that ask for nothing.

use std::io;

use nbd_client_blocking::Client;

use crate::Outcome;
use crate::load::Load;

/// Makes as many as there are to be requests, says so, and keeps them until standard input ends.
pub(crate) fn hold(load: &Load) -> Outcome<()> {
    let clients =
        (0..load.count).map(|_| Client::connect(&load.uri)).collect::<Result<Vec<_>, _>>()?;
    println!("{} connections", clients.len());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    for client in clients {
        client.disconnect()?;
    }
    Ok(())
}
