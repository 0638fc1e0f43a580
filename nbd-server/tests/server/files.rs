//! Files that change under the server.

use std::fs::{self, OpenOptions};
use std::sync::Arc;

use nbd_server::{Directory, FileExport, Server};
use nbd_sim::raw::{FLUSH, READ, Raw, WRITE};

use super::support::start;

const SIZE: usize = 64 << 10;

#[test]
fn a_file_that_shrinks_fails_what_is_not_there_and_one_that_grows_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![1; SIZE]).unwrap();
    let (server, _endings) = start(Server::new(FileExport::open(&path).unwrap()));
    let mut client = Raw::established(&server);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(client.get(0, 4096), [1; 4096]);
    for (offset, length) in [(4095, 2), (8192, 4096), (0, SIZE as u32)] {
        client.ask(READ, 1, offset, length);
        assert_eq!(client.reply(), (5, 1), "{length} bytes at {offset}");
    }
    // To write there makes it longer again, and no longer than it was.
    client.ask(WRITE, 2, SIZE as u64 - 1, 1);
    client.write(b"x");
    assert_eq!(client.reply(), (0, 2));
    assert_eq!(client.get(SIZE as u64 - 2, 2), b"\0x");
    file.set_len(2 * SIZE as u64).unwrap();
    client.ask(READ, 3, SIZE as u64, 1);
    assert_eq!(client.reply(), (22, 3));
    client.ask(FLUSH, 4, 0, 0);
    assert_eq!(client.reply(), (0, 4));
}

#[test]
fn a_file_that_vanishes_is_there_for_those_who_have_it_and_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![1; SIZE]).unwrap();
    let exports = Directory::new(directory.path()).unwrap();
    let (server, _endings) = start(Server::with_exports(Arc::new(exports)));
    // NBD_OPT_GO for "disk", without information requests.
    let go = |client: &mut Raw| {
        client.write(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0");
        loop {
            let header = client.read(20);
            let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            client.read(number(16) as usize);
            match number(12) {
                // NBD_REP_INFO
                3 => {}
                kind => break kind,
            }
        }
    };
    let mut client = Raw::negotiating(&server);
    assert_eq!(go(&mut client), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(client.get(0, 4), [1; 4]);
    let mut late = Raw::negotiating(&server);
    // NBD_REP_ERR_UNKNOWN
    assert_eq!(go(&mut late), 0x8000_0006);
    assert_eq!(client.get(4, 4), [1; 4]);
}
