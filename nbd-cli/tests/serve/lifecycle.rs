//! How the server comes to an end.

use std::time::{Duration, Instant};

use nbd_sim::peer::{PeerError, run, tool};
use nbd_sim::raw::{READ, Raw, WRITE, reply, request};

use super::support::{LIMIT, TestResult, eventually, serve, terminate};

#[test]
fn requests_that_arrived_are_answered_before_the_end() -> TestResult {
    let mut server = serve(&["--memory", "64M"]).start()?;
    let script = format!(
        "import os, signal\n\
         h.connect_uri('{}')\n\
         size = 262144\n\
         writes = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'x' * size)), i * size)\n\
         \x20         for i in range(16)]\n\
         buffers = [nbd.Buffer(size) for i in range(16)]\n\
         reads = [h.aio_pread(buffer, i * size) for i, buffer in enumerate(buffers)]\n\
         while h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE: h.poll(-1)\n\
         os.kill({}, signal.SIGTERM)\n\
         for cookie in writes + reads:\n\
         \x20   while not h.aio_command_completed(cookie): h.poll(-1)\n\
         print('all completed')\n",
        server.uri(),
        server.pid(),
    );
    let output = run(tool("nbdsh")?.args(["-c", &script]))?.success()?;
    assert_eq!(output, "all completed");
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn an_idle_client_does_not_hold_up_the_end() -> TestResult {
    let mut server = serve(&["--memory", "1M"]).start()?;
    let socket = server.unix_path().unwrap().to_owned();
    let mut established = Raw::established(&server);
    let mut negotiating = Raw::connect(&server);
    negotiating.read(18);
    // Half a request is none.
    established.write(&request(READ, 1, 0, 1)[..20]);
    terminate(&server);
    assert!(established.rest().unwrap().is_empty());
    drop((established, negotiating));
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    assert!(status.success(), "{status}");
    assert!(!server.log().contains("last replies"), "it was waited for: {}", server.log());
    assert!(!socket.exists(), "the socket was left behind");
    Ok(())
}

#[test]
fn half_a_write_is_dropped_at_the_end() -> TestResult {
    let mut server = serve(&["--memory", "1M"]).start()?;
    let mut client = Raw::established(&server);
    client.write(&request(READ, 7, 0, 1));
    client.write(&request(WRITE, 8, 0, 1000));
    client.write(&[1; 10]);
    assert_eq!(client.read(17)[..16], reply(0, 7));
    terminate(&server);
    assert!(client.rest().unwrap().is_empty());
    drop(client);
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_stalled_client_is_cut_after_the_grace() -> TestResult {
    // A server that is held up itself may have no time left to say so.
    let mut logs = (0..3).map(|_| cut_after_the_grace());
    assert!(
        logs.any(|log| log.is_ok_and(|log| log.contains("before the client had its last replies")))
    );
    Ok(())
}

/// Stops a server whose client does not read. Returns what it has said.
fn cut_after_the_grace() -> Result<String, PeerError> {
    let mut server = serve(&["--memory", "64M"]).start()?;
    let mut client = Raw::established(&server);
    client.write(&request(READ, 1, 0, 32 << 20));
    // Its reply has begun, and is not taken.
    client.read(16);
    let begun = Instant::now();
    terminate(&server);
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3), "it gave no grace: {took:?}");
    Ok(server.log())
}

#[test]
fn a_second_signal_ends_it_at_once() -> TestResult {
    let mut server = serve(&["--memory", "64M"]).start()?;
    let mut client = Raw::established(&server);
    client.write(&request(READ, 1, 0, 32 << 20));
    client.read(16);
    let socket = server.unix_path().unwrap().to_owned();
    terminate(&server);
    eventually("the first signal is obeyed", || !socket.exists());
    terminate(&server);
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    // Who waits for the client ends in good order.
    assert!(!status.success(), "{status}");
    Ok(())
}

#[test]
fn requests_that_come_too_late_take_no_reply_back() -> TestResult {
    let mut server = serve(&["--memory", "64M"]).start()?;
    let socket = server.unix_path().unwrap().to_owned();
    let mut client = Raw::established(&server);
    let length = 8 << 20;
    client.write(&request(READ, 1, 0, length as u32));
    assert_eq!(client.read(16), reply(0, 1));
    terminate(&server);
    eventually("the signal is obeyed", || !socket.exists());
    // Read or not by the server, this is no whole request.
    client.write(&request(READ, 2, 0, 1)[..20]);
    let rest = client.rest().expect("an orderly end");
    assert!(rest == vec![0; length], "{} bytes arrived", rest.len());
    drop(client);
    let status = server.wait_within(LIMIT).expect("the server did not stop");
    assert!(status.success(), "{status}");
    Ok(())
}
