//! An export as a file, and the examples, on smol.

use std::io::SeekFrom;
use std::process::Command;

use nbd_client_futures::{ExportFile, smol::connect};
use nbd_sim::peer::{Scratch, Server};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

#[test]
fn an_export_is_a_file() {
    smol::block_on(async {
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
        file.close().await.unwrap();
    });
}

#[test]
fn a_write_that_fails_is_told_by_itself() {
    smol::block_on(async {
        let server = Server::nbdkit(&["--filter=error", "memory", "1M", "error-pwrite-rate=100%"]);
        let server = server.start().unwrap();
        let mut file = ExportFile::new(connect(&server.uri()).await.unwrap());
        assert!(file.write_all(&[1; 512]).await.is_err());
        file.flush().await.unwrap();
    });
}

#[test]
fn both_halves_of_a_split_view_are_woken() {
    smol::block_on(async {
        let server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
        let file = ExportFile::new(connect(&server.uri()).await.unwrap());
        let (mut reader, mut writer) = smol::io::split(file);
        let read = smol::spawn(async move {
            let (mut total, mut buf) = (0, [0; 1024]);
            while total < 300 << 10 {
                total += reader.read(&mut buf).await.unwrap();
            }
        });
        let written = smol::spawn(async move {
            for _ in 0..300 {
                writer.write_all(&[7; 1024]).await.unwrap();
            }
            writer.close().await.unwrap();
        });
        read.await;
        written.await;
    });
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
    run("futures_copy", &[&one.uri(), &two.uri()]);
    let sum = |uri: &str| run("futures_checksum", &[uri])[..64].to_owned();
    assert_eq!(sum(&one.uri()), sum(&two.uri()));
    assert_ne!(sum(&one.uri()), "0".repeat(64));
}
