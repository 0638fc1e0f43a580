//! The table of clients that break rules.

use std::os::unix::net::UnixStream;

use nbd_server::{ExportList, MemoryExport, Opened, Server};
use nbd_sim::rude::{End, SIZE, all};

use nbd_sim::raw::{LIMIT, Raw};

use super::support::start;

/// As in memory: what is answered, and whether the connection lives; and nobody else is harmed.
#[test]
fn every_case_ends_as_in_memory() {
    let servers = [false, true].map(|read_only| {
        let disk = Opened::new("", std::sync::Arc::new(MemoryExport::new(SIZE)));
        let exports = ExportList::new().opened(disk.read_only(read_only));
        start(Server::with_exports(exports)).0
    });
    let mut witness = Raw::established(&servers[0]);
    for case in all() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        ours.set_write_timeout(Some(LIMIT)).unwrap();
        servers[usize::from(case.read_only)].serve(theirs);
        let visit = case.perform(ours).unwrap_or_else(|error| panic!("{}: {error}", case.id));
        assert!(visit.words == case.hears, "{}: {:?}", case.id, visit.words);
        let lives = matches!(case.end, End::Haggles | End::Lives);
        assert_eq!((visit.lives, visit.closed), (lives, !lives), "{}", case.id);
        assert_eq!(witness.get(1 << 29, 4), [0; 4], "{}", case.id);
    }
}
