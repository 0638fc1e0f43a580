//! Every command, once at a time and in the pipeline.

use nbd_client_blocking::proto::{ClientConfig, Command, CommandFlags, Extent, ReadChunk};
use nbd_client_blocking::{Pipeline, Request};

use crate::support::{MIB, Qemu, connect, nbdkit, qemu};

fn allocation() -> ClientConfig {
    ClientConfig::new().meta_context("base:allocation")
}

#[test]
fn one_at_a_time() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    client.write_all_at(&[7; 8192], 0).expect("it is written");
    client.write_all_at_with(&[8; 4096], 8192, CommandFlags::FUA).expect("it is written");
    let mut data = [0; 12288];
    client.read_exact_at(&mut data, 0).expect("it is read");
    assert!(data[..8192].iter().all(|byte| *byte == 7));
    assert!(data[8192..].iter().all(|byte| *byte == 8));
    let how = CommandFlags::FUA | CommandFlags::NO_HOLE;
    client.write_zeroes(0, 4096, how).expect("it is zeroed");
    client.submit_and_wait(Command::trim(4096, 4096).with(CommandFlags::FUA)).expect("trimmed");
    client.trim(4096, 4096).expect("it is trimmed");
    client.cache(0, 4096).expect("it is cached");
    client.flush().expect("it is flushed");
    client.read_exact_at(&mut data, 0).expect("it is read");
    assert!(data[..4096].iter().all(|byte| *byte == 0));
    client.disconnect().expect("an orderly end");
}

#[test]
fn pipelined_and_retired_in_any_order() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    let mut pipeline = client.pipeline();
    let write = pipeline.write_with(vec![9; 4096], 0, CommandFlags::FUA).expect("queued");
    while let Some(done) = pipeline.wait() {
        assert_eq!(done.id, write);
        done.result.expect("it is written");
    }
    let commands = [
        Command::flush(),
        Command::trim(65536, 4096),
        Command::write_zeroes(131_072, 4096),
        Command::cache(0, 4096),
        Command::block_status(0, MIB),
    ];
    let read = pipeline.read(vec![0; 4096], 0).expect("queued");
    let others: Vec<_> =
        commands.iter().map(|one| pipeline.submit(*one, None).expect("queued")).collect();
    assert_eq!(pipeline.in_flight(), 6);
    for id in &others {
        let done = wait_for(&mut pipeline, *id);
        done.result.expect("it succeeds");
        let extents: u64 = done.extents.iter().map(|(_, extent)| extent.length).sum();
        assert_eq!(extents, if done.command == commands[4] { MIB } else { 0 });
    }
    let done = wait_for(&mut pipeline, read);
    assert_eq!(done.buffer.expect("it comes back"), [9; 4096]);
}

fn wait_for(
    pipeline: &mut Pipeline<'_, Vec<u8>>,
    id: nbd_client_blocking::proto::RequestId,
) -> nbd_client_blocking::Completion<Vec<u8>> {
    loop {
        if let Some(done) = pipeline.take(id) {
            return done;
        }
        pipeline.poll(Some(std::time::Duration::from_secs(60))).expect("the connection holds");
    }
}

/// A disk whose first 64 KiB are data, with a hole behind.
fn half_full(client: &mut nbd_client_blocking::Client) {
    client.write_all_at(&[5; 65536], 0).expect("it is written");
    client.flush().expect("it is flushed");
}

#[test]
fn parts_of_a_read_are_reported() {
    let Qemu { server, .. } = &qemu(MIB, &[]);
    let mut client = connect(server, allocation());
    half_full(&mut client);
    let mut buffer = vec![1; 131_072];
    let chunks = client.read_structured(&mut buffer, 0, CommandFlags::empty()).expect("it is read");
    let expected = [
        ReadChunk { at: 0, length: 65536, hole: false },
        ReadChunk { at: 65536, length: 65536, hole: true },
    ];
    assert_eq!(chunks, expected);
    assert!(buffer[..65536].iter().all(|byte| *byte == 5), "data");
    assert!(buffer[65536..].iter().all(|byte| *byte == 0), "a hole reads as zeroes");
    // Whoever asks for one piece gets one.
    let chunks = client.read_structured(&mut buffer, 0, CommandFlags::DF).expect("it is read");
    assert_eq!(chunks, [ReadChunk { at: 0, length: 131_072, hole: false }]);

    let mut pipeline = client.pipeline();
    let request = Request::new(Command::read(0, 131_072)).report_chunks();
    pipeline.submit_request(request, Some(vec![1; 131_072])).expect("queued");
    let done = pipeline.wait().expect("one is due");
    done.result.expect("it is read");
    assert_eq!(done.chunks, expected);
    pipeline.read(vec![1; 512], 0).expect("queued");
    let done = pipeline.wait().expect("one is due");
    assert!(done.chunks.is_empty(), "nobody asked");
}

#[test]
fn a_simple_reply_is_one_part() {
    let server = nbdkit(&["--no-sr", "memory", "1M"]);
    let mut client = connect(&server, allocation());
    let chunks =
        client.read_structured(&mut [1; 4096], 0, CommandFlags::empty()).expect("it is read");
    assert_eq!(chunks, [ReadChunk { at: 0, length: 4096, hole: false }]);
}

#[test]
fn errors_of_the_server_come_with_number_words_and_place() {
    let server = nbdkit(&[
        "--filter=error",
        "memory",
        "1M",
        "error-pread=ENOSPC",
        "error-pread-rate=100%",
        "error-pwrite=EIO",
        "error-pwrite-rate=100%",
        "error-trim=ENOMEM",
        "error-trim-rate=100%",
        "error-zero=EPERM",
        "error-zero-rate=100%",
        "error-extents=ENOMEM",
        "error-extents-rate=100%",
        "error-cache=ESHUTDOWN",
        "error-cache-rate=100%",
    ]);
    let mut client = connect(&server, allocation());
    let errors = [
        (client.read_exact_at(&mut [0; 512], 512), 28, "read of 512 bytes at 512"),
        (client.write_all_at(&[0; 512], 0), 5, "write of 512 bytes at 0"),
        (client.trim(0, 512), 12, "trim of 512 bytes at 0"),
        (client.write_zeroes(0, 512, CommandFlags::empty()), 1, "bytes at 0"),
        (client.block_status(0, 512, CommandFlags::empty()).map(drop), 12, "bytes at 0"),
        (client.cache(0, 512), 108, "cache of 512 bytes at 0"),
    ];
    for (result, errno, words) in errors {
        let error = result.expect_err("the server fails it");
        assert!(error.command_failure().is_some(), "{error}");
        assert_eq!(error.errno(), errno, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("server error"), "who erred: {error}");
    }
}

#[test]
fn block_status_one_extent_and_several() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, allocation());
    client.write_all_at(&[1; 65536], 0).expect("it is written");
    let id = client.context("base:allocation").expect("it was granted");
    let all = client.block_status(0, MIB, CommandFlags::empty()).expect("it is told");
    let data = Extent { length: 65536, status: 0 };
    let hole = Extent { length: MIB - 65536, status: Extent::HOLE | Extent::ZERO };
    assert_eq!(all, [(id, data), (id, hole)]);
    assert!(hole.is_hole() && hole.is_zero() && !data.is_hole());
    let all = client.block_status(0, MIB, CommandFlags::REQ_ONE).expect("it is told");
    assert_eq!(all, [(id, data)]);
}
