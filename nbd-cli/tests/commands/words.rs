//! Words of a command line that are not recognised are never taken for something else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use nbd_sim::peer::{Finished, PeerError, Scratch, Server, run_within};

use super::support::{Content, LIMIT, NBD, TestResult, arg, nbd, succeed};

/// Runs it in a directory with a file `a.img`; returns how it ended and the names that are
/// there afterwards. The file is as it was.
fn copy_in(words: &[&str], others: &[&str]) -> Result<(Finished, Vec<String>), PeerError> {
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "a.img", 5000);
    for name in others {
        fs::write(scratch.join(name), "other").unwrap();
    }
    let before = fs::read(&image).unwrap();
    let mut command = Command::new(NBD);
    let finished = run_within(LIMIT, command.current_dir(scratch.path()).arg("copy").args(words))?;
    assert!(fs::read(&image).unwrap() == before, "{words:?} changed the file");
    let names = fs::read_dir(scratch.path()).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok((finished, names))
}

#[test]
fn an_unknown_option_is_no_file() -> TestResult {
    for (words, told) in [
        (&["a.img", "--unknown"][..], "unexpected argument '--unknown'"),
        (&["--unknown", "a.img"], "unexpected argument '--unknown'"),
        (&["a.img", "--flsh", "b"], "'--flush'"),
        (&["a.img", "-Q"], "unexpected argument '-Q'"),
        // Known ones take no place of a file either.
        (&["a.img", "--flush"], "<DESTINATION>"),
        (&["--flush", "a.img"], "<DESTINATION>"),
    ] {
        let (finished, names) = copy_in(words, &["--unknown", "--flush", "-q"])?;
        let said = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(told), "{words:?}: {said}");
        assert_eq!(names, ["--flush", "--unknown", "-q", "a.img"], "{words:?}");
    }
    Ok(())
}

#[test]
fn what_looks_like_an_option_or_a_server_is_no_file() -> TestResult {
    for (words, told) in [
        (&["--", "a.img", "-x"][..], "`./-x`"),
        (&["a.img", "nbd:localhost:10809"], "nbd://localhost"),
        (&["nbd:localhost:10809", "a.img"], "nbd://localhost"),
        (&["a.img", "nbd:unix:/run/s:exportname=d"], "nbd+unix:///d?socket=/run/s"),
        (&["a.img", "localhost:10809"], "nbd://localhost"),
        (&["a.img", "ndb://localhost/"], "unknown URI scheme"),
        (&["a.img", "nbd+unx:///?socket=s"], "unknown URI scheme"),
        (&["a.img", "https://localhost/"], "unknown URI scheme"),
        (&["a.img", "nul:"], "did you mean `null:`?"),
        (&["a.img", " nbd://localhost"], "nbd"),
        (&["a.img", ""], "empty file name"),
    ] {
        let (finished, names) = copy_in(words, &[])?;
        let said = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(finished.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(told), "{words:?}: {said}");
        assert_eq!(names, ["a.img"], "{words:?}");
    }
    Ok(())
}

/// A file of such a name can still be named.
#[test]
fn files_of_strange_names() -> TestResult {
    let names = ["./--flush", "./nbd:localhost:10809", "a:b", "[x", "null", "nbd"];
    for name in names {
        let (finished, names) = copy_in(&["a.img", name], &[])?;
        assert_eq!(finished.success()?, "");
        assert!(names.contains(&name.trim_start_matches("./").to_owned()), "{names:?}");
    }
    let scratch = Scratch::new()?;
    let image = Content::Random.image(&scratch, "image", 5000);
    let name = scratch.path().join(OsStr::from_bytes(b"\xff\xfe.img"));
    for (from, to) in [(&image, &name), (&name, &scratch.join("back"))] {
        run_within(LIMIT, Command::new(NBD).arg("copy").args([from, to]))?.success()?;
        assert!(fs::read(to).unwrap() == fs::read(&image).unwrap());
    }
    Ok(())
}

#[test]
fn options_go_anywhere() -> TestResult {
    let scratch = Scratch::new()?;
    let server = Server::nbdkit(&["memory", "1M"]).start()?;
    let (uri, file) = (server.uri(), arg(&scratch.join("file")));
    succeed(&["copy", &uri, "--requests=2", &file, "--no-extents"])?;
    succeed(&["copy", "[", "nbdkit", "-r", "memory", "1M", "]", "--flush", &file, "--sparse=0"])?;
    assert_eq!(succeed(&["info", &uri, "--size"])?, "1048576");
    let finished = nbd(&["info", "[", "nbdkit", "--unknown", "memory", "1M", "]", "--siz"])?;
    let said = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(2), "{said}");
    assert!(said.contains("'--siz'") && !said.contains('\0'), "{said}");
    Ok(())
}
