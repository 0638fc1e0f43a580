//! Programs of others, which do not know that it is another library.

use std::fs;
use std::process::Command;

use nbd_sim::peer::pki::Pki;
use nbd_sim::peer::{Scratch, tool};
use nbd_sim::rng::noise;

use crate::rig::{Library, nbdkit, succeed};

fn with(name: &str) -> Command {
    Library::system().used_by(tool(name).unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn nbdinfo() {
    let server = nbdkit(&["memory", "1M"]);
    assert_eq!(succeed(with("nbdinfo").arg("--size").arg(server.uri())), "1048576");
    let told = succeed(with("nbdinfo").arg("--json").arg(server.uri()));
    for expected in ["\"protocol\": \"newstyle-fixed\"", "\"can_zero\": true", "base:allocation"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let map = succeed(with("nbdinfo").arg("--map").arg(server.uri()));
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1048576", "3", "hole,zero"]);
    succeed(with("nbdinfo").args(["--list"]).arg(server.uri()));
    succeed(with("nbdinfo").args(["--can", "flush"]).arg(server.uri()));
    let size = succeed(with("nbdinfo").args(["--size", "--", "[", "nbdkit", "null", "3M", "]"]));
    assert_eq!(size, "3145728");
}

#[test]
fn nbdcopy_both_ways() {
    let scratch = Scratch::new().expect("a directory is made");
    let (from, disk, to) = (scratch.join("from"), scratch.join("disk"), scratch.join("to"));
    let data = noise(5 << 20, 1);
    fs::write(&from, &data).expect("a file is written");
    fs::write(&disk, vec![0; data.len()]).expect("a file is written");
    let server = nbdkit(&["file", disk.to_str().expect("the path is text")]);
    succeed(with("nbdcopy").arg("--flush").arg(&from).arg(server.uri()));
    succeed(with("nbdcopy").arg(server.uri()).arg(&to));
    assert!(fs::read(&to).expect("it was copied") == data, "the copy is another");
    let twice = scratch.join("twice");
    fs::write(&twice, vec![0; data.len()]).expect("a file is written");
    let other = nbdkit(&["file", twice.to_str().expect("the path is text")]);
    succeed(with("nbdcopy").arg(server.uri()).arg(other.uri()));
    assert!(fs::read(&twice).expect("it was copied") == data, "the copy is another");
}

#[test]
fn nbddump() {
    let server = nbdkit(&["data", "65 66 67"]);
    assert!(succeed(with("nbddump").arg(server.uri())).contains("ABC"));
}

/// What it writes it reads again, and compares.
#[test]
fn fio_verifies_what_it_has_written() {
    let server = nbdkit(&["memory", "8M"]);
    let scratch = Scratch::new().expect("a directory is made");
    for (mode, verify) in [("randread", "0"), ("randwrite", "crc32c"), ("randtrim", "0")] {
        let mut fio = with("fio");
        fio.args(["--name=t", "--ioengine=nbd", "--bs=4k", "--iodepth=32", "--size=8M"]);
        fio.arg(format!("--rw={mode}")).arg(format!("--uri={}", server.uri()));
        if verify != "0" {
            fio.arg(format!("--verify={verify}"));
        }
        succeed(fio.current_dir(scratch.path()));
    }
}

#[test]
fn fio_and_nbdinfo_over_tls() {
    let pki = Pki::new();
    let certificates = format!("--tls-certificates={}", pki.arg());
    let server = nbdkit(&["--tls=require", &certificates, "memory", "8M"]);
    let uri = server.uri().replacen("nbd+unix", "nbds+unix", 1);
    assert_eq!(succeed(with("nbdinfo").arg("--size").arg(&uri)), "8388608");
    let scratch = Scratch::new().expect("a directory is made");
    let mut fio = with("fio");
    fio.args(["--name=t", "--ioengine=nbd", "--bs=4k", "--iodepth=32", "--size=8M"]);
    fio.args(["--rw=randwrite", "--verify=crc32c", &format!("--uri={uri}")]);
    succeed(fio.current_dir(scratch.path()));
}
