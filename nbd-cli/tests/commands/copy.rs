//! `nbd copy`: there and back, byte for byte.

use std::fs;
use std::path::Path;

use nbd_sim::peer::{PeerError, Scratch, Server, ServerBuilder, run, tool};

use super::support::{Content, MIB, NBD, TestResult, arg, serve, succeed};

/// No block, less than a sector, not quite one, and a little more than four requests.
const SIZES: [u64; 4] = [0, 1, 511, MIB + 1];

/// Copies an image to a server and back, and compares. A server may round its size up.
fn there_and_back(server: &Server, export: &str, image: &Path) -> TestResult {
    let scratch = Scratch::new()?;
    let back = scratch.join("back");
    let (uri, from, to) = (server.export_uri(export), arg(image), arg(&back));
    succeed(&["copy", &from, &uri])?;
    succeed(&["copy", &uri, &to])?;
    let (sent, received) = (fs::read(image).unwrap(), fs::read(&back).unwrap());
    assert!(received.len() >= sent.len(), "{uri}: it came back shorter");
    let (received, excess) = received.split_at(sent.len());
    assert!(received == sent, "{uri}: it came back changed");
    assert!(excess.len() < 512 && excess.iter().all(|byte| *byte == 0));
    Ok(())
}

/// All contents in all sizes, each on a fresh server.
fn everything(sizes: &[u64], start: impl Fn(&Scratch, u64) -> ServerBuilder) -> TestResult {
    for size in sizes {
        for content in Content::ALL {
            let scratch = Scratch::new()?;
            let image = content.image(&scratch, "image", *size);
            let server = start(&scratch, *size).start()?;
            there_and_back(&server, "", &image)?;
        }
    }
    Ok(())
}

fn nbdkit(sizes: &[u64], args: &'static [&'static str]) -> TestResult {
    everything(sizes, |_, size| Server::nbdkit(args).arg("memory").arg(size.to_string()))
}

#[test]
fn nbdkit_memory() -> TestResult {
    nbdkit(&SIZES, &[])
}

#[test]
fn nbdkit_without_structured_replies() -> TestResult {
    nbdkit(&SIZES, &["--no-sr"])
}

#[test]
fn nbdkit_oldstyle() -> TestResult {
    nbdkit(&SIZES, &["--oldstyle"])
}

#[test]
fn nbdkit_without_zeroes() -> TestResult {
    nbdkit(&[511, MIB + 1], &["--filter=nozero", "--filter=noextents"])
}

/// Reads and writes that do not fit the blocks fail there.
#[test]
fn nbdkit_with_strict_blocks() -> TestResult {
    for sizes in [[512, 4096, 4096], [4096, 65536, 65536], [65536, 65536, 1 << 20]] {
        let [minimum, preferred, maximum] = sizes;
        everything(&[3 * MIB + 65536], |_, size| {
            Server::nbdkit(&["--filter=blocksize-policy", "memory"])
                .arg(size.to_string())
                .arg("blocksize-error-policy=error")
                .arg(format!("blocksize-minimum={minimum}"))
                .arg(format!("blocksize-preferred={preferred}"))
                .arg(format!("blocksize-maximum={maximum}"))
        })?;
    }
    Ok(())
}

/// Nor are requests smaller than a block of either end, whatever was asked for.
#[test]
fn requests_are_no_smaller_than_blocks() -> TestResult {
    let scratch = Scratch::new()?;
    let (image, back) = (Content::Random.image(&scratch, "image", MIB), scratch.join("back"));
    let server = Server::nbdkit(&["--filter=blocksize-policy", "memory", "1M"])
        .arg("blocksize-error-policy=error")
        .arg("blocksize-minimum=4096")
        .arg("blocksize-preferred=4096")
        .arg("blocksize-maximum=1M")
        .start()?;
    let small = ["copy", "--request-size=512", "--no-extents"];
    succeed(&[&small[..], &[&arg(&image), &server.uri()]].concat())?;
    succeed(&[&small[..], &[&server.uri(), &arg(&back)]].concat())?;
    assert!(fs::read(&back).unwrap() == fs::read(&image).unwrap(), "it came back changed");
    Ok(())
}

#[test]
fn qemu_nbd_raw() -> TestResult {
    everything(&SIZES, |scratch, size| {
        let disk = scratch.raw_image("disk", size).unwrap();
        Server::qemu_nbd(&["-f", "raw"]).arg(disk)
    })
}

#[test]
fn qemu_nbd_qcow2() -> TestResult {
    everything(&SIZES, |scratch, size| {
        let disk = scratch.qcow2_image("disk", size).unwrap();
        Server::qemu_nbd(&["-f", "qcow2"]).arg(disk)
    })
}

/// nbd-server takes no empty file.
#[test]
fn nbd_server() -> TestResult {
    let abilities = "flush = true\nfua = true\ntrim = true\n";
    for (content, options) in Content::ALL.into_iter().zip(["", abilities, ""]) {
        let scratch = Scratch::new()?;
        let mut config = String::new();
        for size in &SIZES[1..] {
            let disk = scratch.raw_image(&format!("disk{size}"), *size)?;
            let disk = disk.display();
            config += &format!("[{size}]\nexportname = {disk}\n{options}");
        }
        let server = Server::nbd_server(&config).start()?;
        for size in &SIZES[1..] {
            let image = content.image(&scratch, "image", *size);
            there_and_back(&server, &size.to_string(), &image)?;
        }
    }
    Ok(())
}

#[test]
fn our_own_server() -> TestResult {
    for size in SIZES {
        for content in Content::ALL {
            let scratch = Scratch::new()?;
            let image = content.image(&scratch, "image", size);
            let memory = serve(&["--memory", &size.to_string()])?;
            there_and_back(&memory, "", &image)?;
            let disk = arg(&scratch.raw_image("disk", size)?);
            there_and_back(&serve(&["--file", &disk])?, "", &image)?;
            assert!(fs::read(&disk).unwrap() == fs::read(&image).unwrap());
        }
    }
    Ok(())
}

#[test]
fn from_server_to_server() -> TestResult {
    let scratch = Scratch::new()?;
    let disk = scratch.qcow2_image("disk", 4 * MIB)?;
    for content in Content::ALL {
        let image = arg(&content.image(&scratch, "image", 3 * MIB + 1));
        let from = Server::nbdkit(&["file", &image]).start()?;
        let to = Server::qemu_nbd(&["-f", "qcow2"]).arg(&disk).start()?;
        succeed(&["copy", &from.uri(), &to.uri()])?;
        let back = arg(&scratch.join("back"));
        run(tool("nbdcopy")?.args([&to.uri(), &back]))?.success()?;
        let (sent, received) = (fs::read(&image).unwrap(), fs::read(&back).unwrap());
        assert!(received[..sent.len()] == sent, "{content:?}");
    }
    Ok(())
}

#[test]
fn between_commands() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", MIB);
    let copy = scratch.raw_image("copy", MIB)?;
    let (from, to) = (arg(&image), arg(&copy));
    let words = ["copy", "[", "nbdkit", "file", &from, "]", "[", "nbdkit", "file", &to, "]"];
    succeed(&words)?;
    assert!(fs::read(&image).unwrap() == fs::read(&copy).unwrap());
    Ok(())
}

#[test]
fn from_file_to_file() -> TestResult {
    for size in SIZES {
        for content in Content::ALL {
            let scratch = Scratch::new()?;
            let image = content.image(&scratch, "image", size);
            let copy = scratch.join("copy");
            // A longer file that is there already is replaced.
            fs::write(&copy, vec![7; 3 * MIB as usize]).unwrap();
            succeed(&["copy", &arg(&image), &arg(&copy)])?;
            assert!(fs::read(&image).unwrap() == fs::read(&copy).unwrap());
        }
    }
    Ok(())
}

/// Runs a shell command in which `$nbd`, `$uri`, `$image` and `$copy` mean what they say.
fn shell(script: &str, uri: &str, image: &Path, copy: &Path) -> Result<String, PeerError> {
    let mut sh = tool("sh")?;
    sh.args(["-euc", script]).env("nbd", NBD).env("uri", uri);
    run(sh.env("image", image).env("copy", copy))?.success()
}

#[test]
fn through_streams() -> TestResult {
    for size in SIZES {
        for content in Content::ALL {
            let scratch = Scratch::new()?;
            let image = content.image(&scratch, "image", size);
            let server = Server::nbdkit(&["memory", "2M"]).start()?;
            for script in [
                "cat $image | $nbd copy - $copy",
                "$nbd copy - $copy < $image",
                "$nbd copy $image - | cat > $copy",
                "cat $image | $nbd copy - - | cat > $copy",
                "cat $image | $nbd copy - $uri; $nbd copy $uri - | head -c $(stat -c %s $image) > $copy",
            ] {
                let copy = scratch.join("copy");
                shell(script, &server.uri(), &image, &copy)?;
                let same = fs::read(&image).unwrap() == fs::read(&copy).unwrap();
                assert!(same, "{script}: {size} bytes, {content:?}");
                fs::remove_file(copy).unwrap();
            }
        }
    }
    Ok(())
}

/// Replies that overtake each other arrive on standard output in order.
#[test]
fn a_stream_stays_in_order() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 24 * MIB);
    let file = arg(&image);
    let slow = ["--filter=delay", "file", &file, "delay-read=3ms"];
    let server = Server::nbdkit(&slow).start()?;
    let script = "$nbd copy --request-size 64k $uri - > $copy";
    let copy = scratch.join("copy");
    shell(script, &server.uri(), &image, &copy)?;
    assert!(fs::read(&image).unwrap() == fs::read(&copy).unwrap());
    Ok(())
}

#[test]
fn into_nothing() -> TestResult {
    let server = Server::nbdkit(&["pattern", "16M"]).start()?;
    assert_eq!(succeed(&["copy", &server.uri(), "null:"])?, "");
    Ok(())
}

#[test]
fn every_option() -> TestResult {
    let scratch = Scratch::new()?;
    let image = Content::Sparse.image(&scratch, "image", 2 * MIB + 4096);
    let options: [&[&str]; 8] = [
        &["--requests=1"],
        &["--requests=1024", "--request-size=512"],
        &["--request-size=32M"],
        &["--sparse=0"],
        &["--sparse=1M"],
        &["--no-extents"],
        &["--allocated"],
        &["--destination-is-zero"],
    ];
    for option in options {
        let file = arg(&image);
        let from = Server::nbdkit(&["file", &file]).start()?;
        let to = Server::nbdkit(&["memory", "2101248"]).start()?;
        let back = arg(&scratch.join("back"));
        succeed(&[&["copy"], option, &[&from.uri(), &to.uri()]].concat())?;
        succeed(&[&["copy"], option, &[&to.uri(), &back]].concat())?;
        let same = fs::read(&image).unwrap() == fs::read(&back).unwrap();
        assert!(same, "{option:?}");
    }
    Ok(())
}
