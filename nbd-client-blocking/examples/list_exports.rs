//! Lists the exports of a server, with their descriptions.
//!
//! ```text
//! list_exports nbd://localhost
//! ```

use std::error::Error;

use nbd_client_blocking::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: list_exports URI")?;
    let mut options = Options::connect(&uri)?;
    for export in options.list()? {
        println!("{}\t{}", export.name, export.description);
    }
    options.abort()?;
    Ok(())
}
