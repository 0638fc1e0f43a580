//! Exports that fail, panic, or say strange things.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use nbd_server::{
    Abilities, AllocationExtent, BlockSizes, Event, Export, ExportList, Exports, ExtentKind,
    Listed, MemoryExport, Opened, Peer, PeerAddress, Server,
};
use nbd_sim::peer::{run, tool};
use nbd_sim::raw::{LIMIT, READ, Raw, WRITE, request};

use super::support::{set_off, start};

/// What it does depends on where it is asked.
struct Moody;

/// `NBD_CMD_WRITE_ZEROES`, and `NBD_CMD_FLAG_FAST_ZERO` in its low byte.
const ZEROES: u16 = 6;
const FAST: u8 = 16;

const PANICS: u64 = 1 << 10;
const FULL: u64 = 2 << 10;
const DENIED: u64 = 3 << 10;
const STRANGE: u64 = 4 << 10;

impl Moody {
    fn act(offset: u64) -> io::Result<()> {
        match offset {
            PANICS => panic!("as it was told"),
            FULL => Err(io::ErrorKind::StorageFull.into()),
            DENIED => Err(io::Error::new(io::ErrorKind::PermissionDenied, "hands off")),
            // A number of the system's that the protocol does not have.
            STRANGE => Err(io::Error::from_raw_os_error(116)),
            _ => Ok(()),
        }
    }
}

impl Export for Moody {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.fill(1);
        Self::act(offset)
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::FAST_ZERO
    }

    fn write_all_at(&self, _buf: &[u8], offset: u64) -> io::Result<()> {
        Self::act(offset)
    }
}

#[test]
fn an_error_is_the_request_s_own_and_so_is_a_panic() {
    let (server, _endings) = start(Server::new(Moody));
    let mut client = Raw::established(&server);
    for (offset, errno) in [(PANICS, 5), (FULL, 28), (DENIED, 1), (STRANGE, 5)] {
        for kind in [READ, WRITE] {
            client.ask(kind, offset, offset, 4);
            if kind == WRITE {
                client.write(b"data");
            }
            assert_eq!(client.reply(), (errno, offset));
        }
    }
    assert_eq!(client.get(0, 4), [1; 4]);
}

/// What a client is told, whoever runs the server is told too; that zeroing is not quick is no
/// failure.
#[test]
fn failed_requests_are_told() {
    let (failed, failures) = channel();
    let failed = Mutex::new(failed);
    let server = set_off(Server::new(Moody).on_event(move |event| {
        if let Event::RequestFailed { .. } = event {
            failed.lock().unwrap().send(event.to_string()).unwrap();
        }
    }));
    let mut client = Raw::established(&server);
    let mut fast = request(ZEROES, 1, 0, 4);
    fast[5] = FAST;
    client.write(&fast);
    assert_eq!(client.reply(), (95, 1));
    for (kind, offset, words) in [
        (READ, DENIED, "read of 4 bytes at 3072 of export \"\" for"),
        (WRITE, DENIED, "write of 4 bytes at 3072"),
        (READ, PANICS, "has failed: the export has failed"),
    ] {
        client.ask(kind, 1, offset, 4);
        if kind == WRITE {
            client.write(b"data");
        }
        client.reply();
        let told = failures.recv_timeout(LIMIT).unwrap();
        assert!(told.contains(words), "{told}");
        assert!(offset != DENIED || told.ends_with("has failed: hands off"), "{told}");
    }
    assert!(failures.try_recv().is_err());
}

/// Block sizes and extents that contradict the protocol, or each other.
struct Strange;

impl Export for Strange {
    fn size(&self) -> u64 {
        (1 << 20) + 1
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
        buf.fill(7);
        Ok(())
    }

    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { minimum: 500, preferred: 3, maximum: 0 }
    }

    fn description(&self) -> Option<String> {
        Some("x".repeat(5000))
    }

    fn contexts(&self) -> Vec<String> {
        vec!["no colon".to_owned(), "test:parity".to_owned(), "test:silent".to_owned()]
    }

    fn extents(
        &self,
        _offset: u64,
        _len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        // Beyond all that was asked for.
        let _ = visit(AllocationExtent { length: u64::MAX, kind: ExtentKind::Data });
        Ok(())
    }

    fn context_extents(
        &self,
        context: &str,
        _offset: u64,
        len: u64,
        visit: &mut dyn FnMut(nbd_server::Extent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        if context == "test:parity" {
            let _ = visit(nbd_server::Extent { length: len, status: 5 });
        }
        Ok(())
    }
}

#[test]
fn what_contradicts_the_protocol_stays_here() {
    let (failed, failures) = channel();
    let failed = Mutex::new(failed);
    let server = Server::new(Strange).on_event(move |event| {
        if let Event::RequestFailed { reason, .. } = event {
            failed.lock().unwrap().send((*reason).to_owned()).unwrap();
        }
    });
    let server = server.listen_tcp("127.0.0.1:0").unwrap().start().unwrap();
    let uri = &server.uris()[0];
    let info = run(tool("nbdinfo").unwrap().arg(uri)).unwrap().success().unwrap();
    assert!(info.contains("export-size: 1048576"), "{info}");
    assert!(info.contains("block_size_minimum: 512"), "{info}");
    assert!(info.contains("test:parity") && !info.contains("no colon"), "{info}");
    for (context, expected) in [("base:allocation", "0"), ("test:parity", "5")] {
        let map = format!("--map={context}");
        let map = run(tool("nbdinfo").unwrap().args([&map, uri])).unwrap().success().unwrap();
        let words: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(words[..3], ["0", "1048576", expected], "{map}");
    }
    // It has nothing to say of this one, which is an error and no end.
    let map = run(tool("nbdinfo").unwrap().args(["--map=test:silent", uri])).unwrap();
    assert!(map.success().is_err());
    let told = failures.recv_timeout(LIMIT).unwrap();
    assert_eq!(told, "the export has told nothing of its extents");
    let size = run(tool("nbdinfo").unwrap().args(["--size", uri])).unwrap().success().unwrap();
    assert_eq!(size, "1048576");
}

/// Names, and who may have what.
struct ByPeer(ExportList);

impl Exports for ByPeer {
    fn list(&self, peer: &Peer) -> io::Result<Vec<Listed>> {
        let mut all = self.0.list(peer)?;
        all.retain(|listed| listed.name != "secret");
        Ok(all)
    }

    fn open(&self, name: &str, peer: &Peer) -> io::Result<Opened> {
        if name == "secret" {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not for you"));
        }
        let local = matches!(peer.address, PeerAddress::Tcp(address) if address.ip().is_loopback());
        Ok(self.0.open(name, peer)?.read_only(local))
    }
}

#[test]
fn exports_have_names_and_are_not_for_everybody() {
    let exports = ExportList::new()
        .export("first", MemoryExport::new(1 << 20))
        .export("second", MemoryExport::new(2 << 20))
        .export("secret", MemoryExport::new(3 << 20));
    let server = Server::with_exports(ByPeer(exports));
    let server = server.listen_tcp("127.0.0.1:0").unwrap().start().unwrap();
    let uri = &server.uris()[0];
    let nbdinfo =
        |args: &[&str]| run(tool("nbdinfo").unwrap().env("LIBNBD_DEBUG", "1").args(args)).unwrap();
    let list = nbdinfo(&["--list", "--json", uri]).success().unwrap();
    assert!(list.contains("\"first\"") && list.contains("\"second\""), "{list}");
    for (name, size) in [("", "1048576"), ("first", "1048576"), ("second", "2097152")] {
        let uri = format!("{uri}{name}");
        assert_eq!(nbdinfo(&["--size", &uri]).success().unwrap(), size);
        nbdinfo(&["--is", "read-only", &uri]).success().unwrap();
    }
    for (name, reason) in [("third", "there is no export of that name"), ("secret", "not for you")]
    {
        let refused = nbdinfo(&["--size", &format!("{uri}{name}")]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(reason), "{told}");
    }
}

/// Exports whose look-up fails, and whose list does.
struct Faulty;

impl Exports for Faulty {
    fn list(&self, _peer: &Peer) -> io::Result<Vec<Listed>> {
        panic!("as it was told")
    }

    fn open(&self, name: &str, _peer: &Peer) -> io::Result<Opened> {
        assert!(name.is_empty(), "as it was told");
        Ok(Opened::new(name, Arc::new(MemoryExport::new(1 << 20))))
    }
}

#[test]
fn exports_that_panic_are_refusals_and_no_end() {
    let (server, _endings) = start(Server::with_exports(Faulty));
    let mut client = Raw::negotiating(&server);
    // NBD_OPT_LIST, and NBD_OPT_GO for an export named "x" without information requests.
    for asked in
        [b"IHAVEOPT\0\0\0\x03\0\0\0\0" as &[u8], b"IHAVEOPT\0\0\0\x07\0\0\0\x07\0\0\0\x01x\0\0"]
    {
        client.write(asked);
        let header = client.read(20);
        // NBD_REP_ERR_POLICY
        assert_eq!(header[12..16], 0x8000_0002_u32.to_be_bytes(), "{header:?}");
        let length = u32::from_be_bytes(header[16..].try_into().unwrap());
        let text = String::from_utf8(client.read(length as usize)).unwrap();
        assert!(text.contains("its exports have failed"), "{text}");
    }
    assert!(client.choose());
    assert_eq!(client.get(0, 4), [0; 4]);
}

/// What cannot travel is left out, what cannot be addressed is refused in words, and refusals are
/// told.
#[test]
fn what_no_client_could_use_is_no_mystery() {
    let disk = || Arc::new(MemoryExport::new(1 << 20));
    let exports = ExportList::new()
        .opened(Opened::new("plain", disk()).described("a\0b"))
        .export("huge", MemoryExport::new(1 << 63))
        .export("n".repeat(5000), disk());
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let server = Server::with_exports(exports)
        .on_event(move |event| notes.lock().unwrap().push(event.to_string()))
        .listen_tcp("127.0.0.1:0")
        .unwrap()
        .start()
        .unwrap();
    let uri = &server.uris()[0];
    let nbdinfo = |args: &[&str]| run(tool("nbdinfo").unwrap().args(args)).unwrap();
    // It stops at the one that it cannot use.
    let list = nbdinfo(&["--list", "--no-content", uri]).stdout;
    let list = String::from_utf8_lossy(&list).into_owned();
    assert!(list.contains("export=\"plain\"") && !list.contains("nnn"), "{list}");
    assert_eq!(nbdinfo(&["--size", &format!("{uri}plain")]).success().unwrap(), "1048576");
    told.lock().unwrap().clear();
    let refused = run(tool("nbdinfo").unwrap().env("LIBNBD_DEBUG", "1").arg(format!("{uri}huge")));
    let words = String::from_utf8_lossy(&refused.unwrap().stderr).into_owned();
    let reason =
        "the export has 9223372036854775808 bytes, and clients can address 2^63 - 1 at most";
    assert!(words.contains(reason), "{words}");
    let _ = nbdinfo(&["--size", &format!("{uri}none")]);
    server.stop().unwrap();
    let told = told.lock().unwrap();
    for refusal in [
        format!(" was refused export \"huge\": {reason}"),
        " was refused export \"none\": there is no export of that name".to_owned(),
    ] {
        assert!(told.iter().any(|line| line.ends_with(&refusal)), "{refusal} in {told:?}");
    }
}
