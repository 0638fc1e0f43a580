//! Nobody there, or somebody in bad shape.

use nbd_proto::{Command, CommandFlags, Errno, Limits};
use nbd_sim::peer::{ClosedPort, Server};
use nbd_sim::rng::noise;

use crate::case::{CaseResult, Need, cases};
use crate::fixture::{Fixture, as_is};
use crate::outcome::{Op, Who, failed, fails};
use crate::site::{Disk, Kind, Running};

const FILTERS: Need = Need::Server(&[Kind::Nbdkit], "only nbdkit can be told to do wrong");
const REPLIES: Need = Need::PlainOnly("replies are the same behind TLS");
const RELAYED: Need = Need::PlainOnly("the handshake of TLS is cut up in nbd-transport's tests");
const NOBODY: Need = Need::PlainOnly("whoever is not there has no TLS");

cases! {
    over_tcp,
    no_socket [NOBODY],
    nobody_at_the_port [NOBODY],
    no_address_at_all [NOBODY],
    bytes_that_come_one_by_one [RELAYED],
    cut_in_the_handshake [RELAYED],
    cut_in_the_data [RELAYED],
    errors_of_every_number [FILTERS, REPLIES],
    some_errors_among_many [FILTERS, REPLIES],
    the_slow_are_overtaken [FILTERS, REPLIES],
    turned_away_at_the_door [FILTERS, REPLIES],
}

fn over_tcp(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_on_tcp(Disk::Sized(4 << 20))?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let data = noise(1 << 20, 1);
    disk.write(0, &data, CommandFlags::FUA)?;
    crate::cases::concurrency::reads_match(disk.as_mut(), &data, 64);
    disk.disconnect()?;
    Ok(())
}

fn no_socket(fixture: &mut Fixture<'_>) -> CaseResult {
    let nowhere = fixture.shared().server.scratch().join("nobody");
    let uri = format!("nbd+unix:///?socket={}", nowhere.display());
    fails(fixture.connect_to(&uri, as_is), Who::Connection, Errno::NoEnt);
    fails(fixture.negotiate(&uri, as_is), Who::Connection, Errno::NoEnt);
    Ok(())
}

fn nobody_at_the_port(fixture: &mut Fixture<'_>) -> CaseResult {
    let port = ClosedPort::new()?;
    for host in ["127.0.0.1", "localhost"] {
        let uri = format!("nbd://{host}:{}", port.number());
        let failure = failed(fixture.connect_to(&uri, as_is));
        assert_eq!((failure.who, failure.errno), (Who::Connection, 111), "{failure}");
    }
    Ok(())
}

fn no_address_at_all(fixture: &mut Fixture<'_>) -> CaseResult {
    for uri in ["", "nonsense:", "nbd+unix:///disk", "nbd://host:99999", "http://localhost/"] {
        let failure = failed(fixture.connect_to(uri, as_is));
        assert_eq!(failure.who, Who::Caller, "{uri:?}: {failure}");
    }
    Ok(())
}

/// A relay in front of a server, with options for the way to it.
fn relay(
    server: &Running,
    before: &[&str],
    options: &str,
) -> Result<Server, nbd_sim::peer::PeerError> {
    let socket = server.server.unix_path().expect("it listens on a Unix socket");
    let there = format!("UNIX-CONNECT:{}{options}", socket.display());
    let args = [before, &["UNIX-LISTEN:{socket},fork", &there]].concat();
    Server::command("socat", &args).start()
}

fn bytes_that_come_one_by_one(fixture: &mut Fixture<'_>) -> CaseResult {
    let relay = relay(fixture.shared(), &["-b", "1"], "")?;
    let mut disk =
        fixture.connect_to(&relay.uri(), |config| config.meta_context("base:allocation"))?;
    let data = noise(1500, 2);
    disk.write(0, &data, CommandFlags::empty())?;
    crate::cases::concurrency::reads_match(disk.as_mut(), &data, 10);
    assert!(!disk.status(0, 4096, CommandFlags::empty())?.is_empty());
    disk.disconnect()?;
    Ok(())
}

fn cut_in_the_handshake(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    for bytes in [1, 17, 30] {
        let relay = relay(&server, &[], &format!(",readbytes={bytes}"))?;
        let failure = failed(fixture.connect_to(&relay.uri(), as_is));
        assert_eq!(failure.who, Who::Connection, "after {bytes} bytes: {failure}");
    }
    Ok(())
}

fn cut_in_the_data(fixture: &mut Fixture<'_>) -> CaseResult {
    let data = noise(1 << 20, 3);
    // One of its own: nbdkit 1.32 can fail an assertion of its own when clients vanish.
    let server = fixture.site.start(Disk::Sized(1 << 20))?;
    fixture.connect_to(&server.uri(), as_is)?.write(0, &data, CommandFlags::empty())?;
    let relay = relay(&server, &[], ",readbytes=300000")?;
    let mut disk = fixture.connect_to(&relay.uri(), as_is)?;
    let reads = (0..256).map(|index| Op::read(index << 12, 4096)).collect();
    let mut lost = 0;
    for (index, outcome) in disk.batch(reads, &mut || ()).into_iter().enumerate() {
        match outcome {
            Ok(reply) => assert!(reply.data == data[index << 12..][..4096], "number {index}"),
            Err(failure) => {
                assert_eq!(failure.who, Who::Connection, "{failure}");
                lost += 1;
            }
        }
    }
    assert!((256 - 300_000 / 4096..256).contains(&lost), "{lost} were lost");
    Ok(())
}

fn errors_of_every_number(fixture: &mut Fixture<'_>) -> CaseResult {
    for (name, errno) in [
        ("EPERM", Errno::Perm),
        ("EIO", Errno::Io),
        ("ENOMEM", Errno::NoMem),
        ("EINVAL", Errno::Inval),
        ("ENOSPC", Errno::NoSpc),
        ("ESHUTDOWN", Errno::Shutdown),
    ] {
        let server = fixture.site.start_with(&[
            "--filter=error",
            "memory",
            "1M",
            &format!("error={name}"),
            "error-rate=100%",
        ])?;
        let mut disk = fixture.connect_to(&server.uri(), as_is)?;
        fails(disk.read(0, 512), Who::Server, errno);
        if errno == Errno::Shutdown {
            // The server has said that it goes (proto.md, "Error values").
            continue;
        }
        fails(disk.write(0, &[1; 512], CommandFlags::empty()), Who::Server, errno);
        fails(disk.run(Command::trim(0, 512)), Who::Server, errno);
        fails(disk.run(Command::write_zeroes(0, 512)), Who::Server, errno);
        disk.flush()?;
        disk.disconnect()?;
    }
    Ok(())
}

fn some_errors_among_many(fixture: &mut Fixture<'_>) -> CaseResult {
    let server =
        fixture.site.start_with(&["--filter=protect", "memory", "1M", "protect=65536-131071"])?;
    let mut disk = fixture.connect_to(&server.uri(), as_is)?;
    let writes = (0..64).map(|index| Op::write(index << 12, vec![index as u8; 4096])).collect();
    for (index, outcome) in disk.batch(writes, &mut || ()).into_iter().enumerate() {
        match index {
            16..32 => drop(fails(outcome, Who::Server, Errno::Perm)),
            _ => drop(outcome?),
        }
    }
    for index in 0..64 {
        let is_there = if (16..32).contains(&index) { 0 } else { index as u8 };
        assert_eq!(disk.read(index << 12, 4096)?, [is_there; 4096]);
    }
    Ok(())
}

/// The server answers no read before it knows of ten writes. With room for three commands, the
/// last write is sent when all but the two before it have been answered.
fn the_slow_are_overtaken(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&[
        "eval",
        "get_size=echo 1048576",
        "thread_model=echo parallel",
        "pwrite=cat >/dev/null; echo >>$tmpdir/writes",
        // Not for ever, should the server be gone.
        "pread=until [ $(cat $tmpdir/writes 2>/dev/null | wc -l) -ge 10 ]
               do kill -0 $PPID || exit 1; sleep 0.01; done
               head -c $3 /dev/zero | tr '\\0' '\\7'",
    ])?;
    let few = Limits::default().max_in_flight(3);
    let mut disk = fixture.connect_to(&server.uri(), |config| config.limits(few))?;
    let mut ops = vec![Op::read(0, 512), Op::read(0, 512)];
    ops.extend((1..=10).map(|index| Op::write(index << 9, vec![1; 512])));
    for (index, outcome) in disk.batch(ops, &mut || ()).into_iter().enumerate() {
        let reply = outcome?;
        if index < 2 {
            assert_eq!(reply.data, [7; 512]);
            assert!(reply.place >= 7, "nobody is overtaken: {}", reply.place);
        }
    }
    Ok(())
}

fn turned_away_at_the_door(fixture: &mut Fixture<'_>) -> CaseResult {
    let server = fixture.site.start_with(&["--filter=limit", "memory", "1M", "limit=1"])?;
    let mut first = fixture.connect_to(&server.uri(), as_is)?;
    let failure = failed(fixture.connect_to(&server.uri(), as_is));
    assert_eq!(failure.who, Who::Connection, "{failure}");
    first.read(0, 512)?;
    Ok(())
}
