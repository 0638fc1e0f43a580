//! An export as a file, and the examples, on tokio.

use std::future::poll_fn;
use std::io::SeekFrom;
use std::pin::Pin;
use std::process::Command;
use std::task::Poll;

use futures_util::SinkExt;
use nbd_client_tokio::{Client, ConnectOptions, Connector, ExportFile, connect};
use nbd_sim::peer::{Scratch, Server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{FramedWrite, LinesCodec};

#[tokio::test]
async fn an_export_is_a_file() {
    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 1 << 20).unwrap();
    let align = format!(
        "driver=blkdebug,align=4096,image.driver=file,image.filename={}",
        image.to_str().unwrap()
    );
    let server = Server::qemu_nbd(&["--image-opts", &align]).start().unwrap();
    let mut file = ExportFile::new(connect(&server.uri()).await.unwrap());
    let data: Vec<u8> = (0..10_000).map(|index| (index % 251) as u8 + 1).collect();
    file.seek(SeekFrom::Start(5_000)).await.unwrap();
    file.write_all(&data).await.unwrap();
    file.flush().await.unwrap();
    file.seek(SeekFrom::Start(4_999)).await.unwrap();
    let mut back = vec![1; 10_002];
    file.read_exact(&mut back).await.unwrap();
    assert_eq!((back[0], back[10_001]), (0, 0));
    assert!(back[1..10_001] == data);
    file.seek(SeekFrom::Current(-10_001)).await.unwrap();
    assert_eq!(file.fill_buf().await.unwrap()[0], 1);
    file.seek(SeekFrom::End(-3)).await.unwrap();
    assert_eq!(file.read(&mut [0; 10]).await.unwrap(), 3);
    assert_eq!(file.read(&mut [0; 10]).await.unwrap(), 0);
    assert!(file.seek(SeekFrom::Current(-2 << 20)).await.is_err());
    // What is written beyond the end is refused, not lost.
    file.seek(SeekFrom::End(-3)).await.unwrap();
    let error = file.write_all(&[9; 10]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WriteZero);
    file.shutdown().await.unwrap();
}

/// A server whose every write takes this long.
async fn slow_to_write(delay: &str) -> (Server, Client) {
    let delay = format!("delay-write={delay}");
    let server = Server::nbdkit(&["--filter=delay", "memory", "1M", &delay]).start().unwrap();
    let client = connect(&server.uri()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_write_that_fails_is_told_by_itself() {
    let server = Server::nbdkit(&["--filter=error", "memory", "1M", "error-pwrite-rate=100%"]);
    let server = server.start().unwrap();
    let mut file = ExportFile::new(connect(&server.uri()).await.unwrap());
    assert!(file.write_all(&[1; 512]).await.is_err());
    // It was not accepted, and the position has not moved.
    assert_eq!(file.stream_position().await.unwrap(), 0);
    file.flush().await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_outlives_the_view() {
    let (_server, client) = slow_to_write("2ms").await;
    // In whole blocks and not, at the end of the export too.
    for (index, length) in [4096, 1, 511, 4097, 1000].into_iter().cycle().take(40).enumerate() {
        let at = (1 << 20) - length as u64 - index as u64 * 3;
        let mut file = ExportFile::new(client.clone());
        file.seek(SeekFrom::Start(at)).await.unwrap();
        file.write_all(&vec![index as u8 + 1; length]).await.unwrap();
        drop(file);
        assert!(client.read(at, length).await.unwrap() == vec![index as u8 + 1; length]);
    }
}

#[tokio::test]
async fn a_codec_over_a_view_can_be_closed() {
    let (_server, client) = slow_to_write("1ms").await;
    let mut sink = FramedWrite::new(ExportFile::new(client.clone()), LinesCodec::new());
    for word in ["one", "two", "three"] {
        sink.send(word).await.unwrap();
    }
    SinkExt::<&str>::close(&mut sink).await.unwrap();
    SinkExt::<&str>::close(&mut sink).await.unwrap();
    assert_eq!(&client.read(0, 14).await.unwrap()[..], b"one\ntwo\nthree\n");
    let before = client.stats().wire.messages_sent;
    // Clean, and so ready at once.
    sink.get_mut().flush().await.unwrap();
    sink.get_mut().shutdown().await.unwrap();
    assert_eq!(client.stats().wire.messages_sent, before);
    // And not clean any more.
    sink.get_mut().write_all(b"four").await.unwrap();
    sink.get_mut().flush().await.unwrap();
    assert_eq!(client.stats().wire.messages_sent, before + 2);
}

#[tokio::test]
async fn both_halves_of_a_split_view_are_woken() {
    let (_server, client) = slow_to_write("1ms").await;
    let (mut reader, mut writer) = tokio::io::split(ExportFile::new(client));
    // They share a position, which goes forward with each of them.
    let read = tokio::spawn(async move {
        let mut total = 0;
        let mut buf = [0; 1024];
        while total < 300 << 10 {
            total += reader.read(&mut buf).await.unwrap();
        }
    });
    let written = tokio::spawn(async move {
        for _ in 0..300 {
            writer.write_all(&[7; 1024]).await.unwrap();
            writer.flush().await.unwrap();
        }
    });
    read.await.unwrap();
    written.await.unwrap();
}

#[tokio::test]
async fn a_write_that_was_not_waited_for_is_not_taken_for_the_next() {
    let (_server, client) = slow_to_write("50ms").await;
    let mut file = ExportFile::new(client.clone());
    for _ in 0..3 {
        // Begun and left.
        let begun = poll_fn(|cx| Poll::Ready(Pin::new(&mut file).poll_write(cx, &[1; 1024])));
        assert!(begun.await.is_pending());
        file.write_all(&[2; 512]).await.unwrap();
        assert_eq!(file.stream_position().await.unwrap(), 512);
        assert!(client.read(0, 512).await.unwrap()[..] == [2; 512]);
        file.rewind().await.unwrap();
    }
    // What was read ahead is not what is there any more.
    assert_eq!(file.fill_buf().await.unwrap()[0], 2);
    let begun = poll_fn(|cx| Poll::Ready(Pin::new(&mut file).poll_write(cx, &[9; 1024])));
    assert!(begun.await.is_pending());
    assert_eq!(file.fill_buf().await.unwrap()[0], 9);
    // Left for another place.
    let begun = poll_fn(|cx| Poll::Ready(Pin::new(&mut file).poll_write(cx, &[3; 512])));
    assert!(begun.await.is_pending());
    file.seek(SeekFrom::Start(8192)).await.unwrap();
    file.write_all(&[3; 512]).await.unwrap();
    assert!(client.read(8192, 512).await.unwrap()[..] == [3; 512]);
}

#[tokio::test]
async fn any_stream_will_do() {
    let server = Server::nbdkit(&["memory", "8M"]).tcp().start().unwrap();
    let stream = tokio::net::TcpStream::connect(server.tcp_address().unwrap());
    let stream = tokio::io::BufWriter::new(stream.await.unwrap());
    let client = Connector::new(ConnectOptions::new()).connect_over(stream).await.unwrap();
    let data: Vec<u8> = (0..4 << 20).map(|index| (index % 253) as u8).collect();
    client.write_all_at(data.clone(), 1000).await.unwrap();
    assert!(client.read(1000, 4 << 20).await.unwrap() == data);
    client.disconnect().await.unwrap();
}

#[test]
fn the_examples_do_what_they_say() {
    let (one, two) = (Server::nbdkit(&["pattern", "3M"]), Server::nbdkit(&["memory", "3M"]));
    let (one, two) = (one.start().unwrap(), two.start().unwrap());
    // Examples are built into a directory beside the one of tests.
    let tests = std::env::current_exe().unwrap();
    let examples = tests.ancestors().nth(2).unwrap().join("examples");
    let run = |name: &str, args: &[&str]| {
        let path = examples.join(name);
        assert!(path.exists(), "{name} is missing: build it with `cargo build --examples`");
        let output = Command::new(path).args(args).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {words}");
        String::from_utf8(output.stdout).unwrap()
    };
    run("tokio_copy", &[&one.uri(), &two.uri()]);
    let sum = |uri: &str| run("tokio_checksum", &[uri])[..64].to_owned();
    assert_eq!(sum(&one.uri()), sum(&two.uri()));
    assert_ne!(sum(&one.uri()), "0".repeat(64));
}
