//! Tries one export after the other on a single connection, and opens the first that
//! the server grants.
//!
//! ```text
//! option_mode nbd://localhost disk backup
//! ```

use std::error::Error;

use nbd_client_blocking::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let uri = args.next().ok_or("usage: option_mode URI NAME...")?;
    let mut options = Options::connect(&uri)?;
    for name in args {
        options.set_export_name(name.as_str())?;
        match options.go() {
            Ok(client) => {
                println!("{name}: {} bytes", client.size());
                client.disconnect()?;
                return Ok(());
            }
            Err(failed) => {
                println!("{name}: {}", failed.error);
                // A refusal leaves the connection; anything else ends it.
                options = match failed.options {
                    Some(options) => *options,
                    None => return Err(failed.error.into()),
                };
            }
        }
    }
    options.abort()?;
    Err("no export was granted".into())
}
