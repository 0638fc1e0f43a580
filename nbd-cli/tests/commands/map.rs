//! `nbd info --map` says what `nbdinfo --map` says.

use nbd_sim::peer::{Scratch, Server, run, tool};

use super::info::with_bitmaps;
use super::support::{TestResult, arg, fail, json, serve, succeed};

fn agree(uri: &str, map: &str) -> TestResult {
    let theirs = run(tool("nbdinfo")?.args([map, "--json", uri]))?.success()?;
    let ours = succeed(&["info", map, "--json", uri])?;
    assert_eq!(json(&ours), json(&theirs), "{map}");
    let theirs = run(tool("nbdinfo")?.args([map, uri]))?.success()?;
    let ours = succeed(&["info", map, uri])?;
    assert_eq!(ours, theirs, "{map}");
    Ok(())
}

#[test]
fn nbdkit_extents() -> TestResult {
    let list = Scratch::new()?;
    let list = list.join("extents");
    std::fs::write(&list, "0 1M\n1M 2M hole\n3M 1M zero\n5M 64K hole,zero\n").unwrap();
    let extents = format!("extentlist={}", list.display());
    let servers: [&[&str]; 6] = [
        &["data", "1 2 3 @0x100000 4 @0x2000000000 5", "size=256G"],
        &["memory", "1T"],
        &["memory", "0"],
        &["pattern", "1000001"],
        &["sparse-random", "64M", "seed=1"],
        &["--filter=extentlist", "memory", "8M", &extents],
    ];
    for args in servers {
        agree(&Server::nbdkit(args).start()?.uri(), "--map")?;
    }
    Ok(())
}

#[test]
fn qemu_bitmaps_and_depths() -> TestResult {
    let scratch = Scratch::new()?;
    let image = arg(&with_bitmaps(&scratch)?);
    let args = ["-f", "qcow2", "-r", "-A", "-B", "before", "-B", "after", &image];
    let server = Server::qemu_nbd(&args).start()?;
    for map in [
        "--map",
        "--map=base:allocation",
        "--map=qemu:allocation-depth",
        "--map=qemu:dirty-bitmap:before",
        "--map=qemu:dirty-bitmap:after",
    ] {
        agree(&server.uri(), map)?;
    }
    Ok(())
}

#[test]
fn our_own_holes() -> TestResult {
    agree(&serve(&["--memory", "1T"])?.uri(), "--map")
}

#[test]
fn a_context_that_is_not_there() -> TestResult {
    for (server, others) in [
        (&["memory", "1M"][..], "; it has base:allocation"),
        (&["--no-sr", "memory", "1M"], "; it has none"),
        (&["--oldstyle", "memory", "1M"], "; it has none"),
    ] {
        let server = Server::nbdkit(server).start()?;
        let told = fail(&["info", "--map=qemu:dirty-bitmap:x", &server.uri()])?;
        let expected = "the server has no meta context `qemu:dirty-bitmap:x`";
        assert!(told.ends_with(&format!("{expected}{others}")), "{told}");
    }
    let scratch = Scratch::new()?;
    let image = arg(&with_bitmaps(&scratch)?);
    let server = Server::qemu_nbd(&["-f", "qcow2", "-r", "-B", "before", &image]).start()?;
    let told = fail(&["info", "--map=qemu:dirty-bitmap:after", &server.uri()])?;
    assert!(told.ends_with("it has base:allocation, qemu:dirty-bitmap:before"), "{told}");
    Ok(())
}
