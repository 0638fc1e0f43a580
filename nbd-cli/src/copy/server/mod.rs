//! Both ends of a copy with an NBD server: many requests in flight.
//!
//! | file | what |
//! |---|---|
//! | `mod` | how long requests may be |
//! | `connected` | an export that is open, and how to open it once more |
//! | `source` | reading an export |
//! | `map` | what of it is to be read |
//! | `destination` | writing an export |
//! | `unflushed` | what of it is not known to be durable |
//! | `verify` | reading it again |
//! | `compare` | comparing an export |
//! | `window` | how much is in flight |
//! | `silence` | how long a server may bring nothing |

mod compare;
mod connected;
mod destination;
mod map;
mod silence;
mod source;
mod unflushed;
mod verify;
mod window;

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::HeaderStyle;

use super::plan::Plan;

pub(super) use compare::compare;
pub(super) use connected::Connected;
pub(super) use destination::{open_to_write, write};
pub(super) use source::read_all;

/// The longest range asked about, or zeroed, in one compact request: a multiple of any
/// block size, and of the pieces in which zeroes may be wanted.
const MAX_COMPACT: u64 = (1 << 32) - (128 << 20);
/// The longest one in an extended request. Progress should still be seen.
const MAX_EXTENDED: u64 = 1 << 40;

fn longest_range(client: &Client) -> u64 {
    let extended = client.negotiated().headers == HeaderStyle::Extended;
    if extended { MAX_EXTENDED } else { MAX_COMPACT }
}

/// Bytes per request that the server takes, in whole blocks if one of them fits.
fn request_size(client: &Client, plan: &Plan) -> u64 {
    let size = plan.request_size.min(client.session().max_request());
    let part = size % plan.block;
    (if part < size { size - part } else { size }) as u64
}
