//! The blocking client against servers nobody here wrote.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{ClientConfig, CommandFlags, HeaderStyle, Protocol};
use nbd_client_blocking::transport::TcpKeepAlive;
use nbd_client_blocking::{Builder, Client, Error, ExportFile};
use nbd_sim::peer::{Scratch, Server};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(20);

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn builder() -> Builder {
    Builder::new().timeout(LONG)
}

fn connect(server: &Server) -> Client {
    builder().meta_context("base:allocation").connect_uri(&server.uri()).expect("connect")
}

/// Bytes that differ from place to place, so that a misplaced piece shows.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Writes, reads back in pieces of many sizes, and through the pipeline.
fn exercise(client: &mut Client, size: usize) {
    assert_eq!(client.size(), size as u64);
    let data = noise(size, 42);
    client.write_at(0, &data).unwrap();
    let mut back = vec![0; size];
    client.read_at(0, &mut back).unwrap();
    assert!(back == data, "one read of everything");
    back.fill(0);
    let mut pipeline = client.pipeline();
    let mut rest = back.as_mut_slice();
    let mut offset = 0;
    let lengths = [512, 4096, 65536, 512, 300 * 1024, 8192];
    for length in lengths.iter().cycle() {
        let length = rest.len().min(*length);
        let (piece, tail) = rest.split_at_mut(length);
        rest = tail;
        pipeline.read(offset, piece).unwrap();
        offset += length as u64;
        while pipeline.in_flight() >= 32 {
            pipeline.wait().unwrap().unwrap().result.unwrap();
        }
        if rest.is_empty() {
            break;
        }
    }
    while let Some(done) = pipeline.wait().unwrap() {
        done.result.unwrap();
    }
    drop(pipeline);
    assert!(back == data, "pipelined reads");
}

#[test]
fn every_header_style_moves_the_same_bytes() {
    let size = 3 << 20;
    let structured = nbdkit(&["memory", "3M"]);
    let mut client = connect(&structured);
    assert_eq!(client.negotiated().headers, HeaderStyle::Structured);
    exercise(&mut client, size);
    client.flush().unwrap();
    client.disconnect().unwrap();

    let simple = nbdkit(&["--no-sr", "memory", "3M"]);
    let mut client = connect(&simple);
    assert_eq!(client.negotiated().headers, HeaderStyle::Simple);
    exercise(&mut client, size);
    client.disconnect().unwrap();

    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", size as u64).unwrap();
    let image = image.to_str().unwrap();
    let extended = Server::qemu_nbd(&["-f", "raw", image]).start().unwrap();
    let mut client = connect(&extended);
    assert_eq!(client.negotiated().headers, HeaderStyle::Extended);
    exercise(&mut client, size);
    client.disconnect().unwrap();
}

#[test]
fn older_negotiations() {
    for (args, protocol) in [
        (&["-o", "memory", "1M"][..], Protocol::Oldstyle),
        (&["--mask-handshake=0", "memory", "1M"], Protocol::Newstyle),
        (&["--mask-handshake=2", "memory", "1M"], Protocol::Newstyle),
        (&["--mask-handshake=1", "memory", "1M"], Protocol::FixedNewstyle),
    ] {
        let server = nbdkit(args);
        let mut client = connect(&server);
        assert_eq!(client.negotiated().protocol, protocol, "{args:?}");
        exercise(&mut client, 1 << 20);
        client.disconnect().unwrap();
    }
}

#[test]
fn every_command() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server);
    client.write_at(0, &noise(1 << 20, 7)).unwrap();
    client.write_zeroes(4096, 4096, CommandFlags::NO_HOLE).unwrap();
    client.trim(65536, 65536).unwrap();
    client.cache(0, 4096).unwrap();
    client.flush().unwrap();
    let mut data = vec![1; 4096];
    client.read_at(4096, &mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == 0));
    let extents: Result<Vec<_>, _> =
        client.extents("base:allocation", 0..1 << 20).unwrap().collect();
    let extents = extents.unwrap();
    let total: u64 = extents.iter().map(|placed| placed.extent.length).sum();
    assert_eq!(total, 1 << 20);
    assert!(extents.iter().any(|placed| placed.offset == 65536 && placed.extent.is_hole()));
}

#[test]
fn a_servers_error_names_the_command_and_spares_the_connection() {
    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 1 << 20).unwrap();
    let server = Server::qemu_nbd(&["-f", "raw", image.to_str().unwrap()]).start().unwrap();
    let config = ClientConfig::new().strict(nbd_client_blocking::proto::StrictMode::empty());
    let mut client = builder().config(config).connect_uri(&server.uri()).unwrap();
    let error = client.read_at(1 << 20, &mut [0; 512]).unwrap_err();
    assert_eq!(error.errno(), 22, "{error}");
    assert!(error.to_string().contains("read of 512 bytes at 1048576"), "{error}");
    assert!(error.to_string().contains("server said"), "{error}");
    client.read_at(0, &mut [0; 512]).unwrap();
}

#[test]
fn misuse_is_refused_before_it_is_sent() {
    let server = nbdkit(&["-r", "memory", "1M"]);
    let mut client = connect(&server);
    assert_eq!(client.write_at(0, &[0; 512]).unwrap_err().errno(), 1);
    assert_eq!(client.read_at(1 << 20, &mut [0; 1]).unwrap_err().errno(), 22);
    assert_eq!(
        client
            .submit_and_wait(nbd_client_blocking::proto::Command::read(0, 0))
            .unwrap_err()
            .errno(),
        22
    );
    client.read_at(0, &mut [0; 1]).unwrap();
}

#[test]
fn option_mode_lists_refuses_and_goes() {
    let server = nbdkit(&[
        "--filter=exportname",
        "memory",
        "1M",
        "exportname=hello",
        "exportname=goodbye",
        "exportname-list=explicit",
        "exportname-strict=true",
        "exportdesc=fixed:world",
    ]);
    let mut options = builder().negotiate_uri(&server.uri()).unwrap();
    let exports = options.list().unwrap();
    let names: Vec<_> = exports.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["hello", "goodbye"]);
    assert!(exports.iter().all(|entry| entry.description == "world"));
    options.set_export_name("nowhere").unwrap();
    assert_eq!(options.info().unwrap_err().errno(), 2);
    let failed = options.go().unwrap_err();
    let mut options = failed.options.expect("the connection survives a refusal");
    options.set_export_name("hello").unwrap();
    assert_eq!(options.info().unwrap().export.unwrap().size, 1 << 20);
    let contexts = options.list_meta_contexts(&[]).unwrap();
    assert!(contexts.iter().any(|context| context.name == "base:allocation"));
    let client = options.go().unwrap();
    client.disconnect().unwrap();
}

#[test]
fn an_export_is_a_file() {
    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 1 << 20).unwrap();
    let align = format!(
        "driver=blkdebug,align=4096,image.driver=file,image.filename={}",
        image.to_str().unwrap()
    );
    let server = Server::qemu_nbd(&["--image-opts", &align]).start().unwrap();
    let mut file = ExportFile::new(connect(&server));
    let data = noise(10_000, 3);
    file.seek(SeekFrom::Start(5_000)).unwrap();
    file.write_all(&data).unwrap();
    file.flush().unwrap();
    file.seek(SeekFrom::Start(4_999)).unwrap();
    let mut back = vec![1; 10_002];
    file.read_exact(&mut back).unwrap();
    assert_eq!((back[0], back[10_001]), (0, 0));
    assert!(back[1..10_001] == data);
    file.seek(SeekFrom::End(-3)).unwrap();
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 3);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn silence_ends_in_a_timeout_and_the_client_lives_on() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client =
        Builder::new().timeout(Duration::from_millis(300)).connect_uri(&server.uri()).unwrap();
    server.stop().unwrap();
    let error = client.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    server.cont().unwrap();
    client.set_timeout(Some(Duration::from_secs(20))).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
}

#[test]
fn deadlines_are_punctual() {
    let server = nbdkit(&["memory", "1M"]);
    let timeout = Duration::from_millis(200);
    let strict = Builder::new().timeout(timeout);
    let mut whole = strict.connect_uri(&server.uri()).unwrap();
    let mut single = connect(&server);
    single.set_timeout(Some(timeout)).unwrap();
    let mut large = strict.connect_uri(&server.uri()).unwrap();
    server.stop().unwrap();
    let punctual = |timeout: Duration, call: &mut dyn FnMut() -> Result<(), Error>| {
        // The machine may be busy with other tests: the best of some rounds counts.
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            let error = call().unwrap_err();
            let took = start.elapsed();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            assert!(took >= timeout, "{took:?}");
            best = best.min(took);
            if best <= timeout + timeout / 10 + Duration::from_millis(10) {
                return;
            }
        }
        panic!("never sooner than {best:?}");
    };
    punctual(timeout, &mut || whole.read_at(0, &mut [0; 512]));
    // Where the system's own timers are coarse.
    let coarse = Duration::from_millis(2050);
    single.set_timeout(Some(coarse)).unwrap();
    punctual(coarse, &mut || single.flush());
    single.set_timeout(Some(timeout)).unwrap();
    punctual(timeout, &mut || single.flush());
    let mut pipeline = single.pipeline::<Vec<u8>>();
    punctual(timeout, &mut || {
        pipeline.read(0, vec![0; 512])?;
        pipeline.wait().map(drop)
    });
    drop(pipeline);
    // More than the socket takes.
    let data = vec![1; 1 << 20];
    let mut pipeline = large.pipeline::<Vec<u8>>();
    punctual(timeout, &mut || {
        for _ in 0..8 {
            pipeline.write(0, data.clone())?;
        }
        pipeline.wait().map(drop)
    });
    server.cont().unwrap();
    while let Some(done) = pipeline.wait().unwrap() {
        done.result.unwrap();
    }
    drop(pipeline);
    for mut client in [whole, single, large] {
        client.set_timeout(Some(LONG)).unwrap();
        client.read_at(0, &mut [0; 512]).unwrap();
        client.disconnect().unwrap();
    }
}

#[test]
fn the_system_watches_over_tcp() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let watched = builder().tcp_keep_alive(TcpKeepAlive::new());
    let client = watched.connect_uri(&server.uri()).unwrap();
    assert!(rustix::net::sockopt::socket_keepalive(&client).unwrap());
    assert!(!rustix::net::sockopt::socket_keepalive(connect(&server)).unwrap());
}

#[test]
fn large_reads_are_placed_and_small_ones_batched() {
    let server = nbdkit(&["memory", "64M"]);
    let mut client = connect(&server);
    let mut pipeline = client.pipeline();
    let mut offset = 0;
    while offset < 64 << 20 {
        while pipeline.in_flight() >= 16 {
            pipeline.wait().unwrap().unwrap().result.unwrap();
        }
        pipeline.read(offset, vec![0; 256 << 10]).unwrap();
        offset += 256 << 10;
    }
    while let Some(done) = pipeline.wait().unwrap() {
        done.result.unwrap();
    }
    let stats = *pipeline.client().stats();
    let payload = stats.bytes_placed + stats.bytes_copied;
    assert_eq!(payload, 64 << 20);
    assert!(stats.bytes_placed * 100 >= payload * 99, "{stats:?}");
}
