//! `nbd info` says what nbdinfo says.

use std::fs;

use nbd_sim::peer::{Scratch, Server, ServerBuilder, run, tool};
use serde_json::{Map, Value};

use super::differences::{ABOUT_SIZE, Release, SIMPLE};
use super::support::{MIB, TestResult, arg, fail, json, serve, succeed};

/// What both say of an export, when there is something to say.
const OPTIONAL: [&str; 5] =
    ["description", "contexts", "block_size_minimum", "block_size_preferred", "block_size_maximum"];
/// What both say of every export.
const ALWAYS: [&str; 12] = [
    "export-name",
    "export-size",
    "is_rotational",
    "is_read_only",
    "can_cache",
    "can_df",
    "can_fast_zero",
    "can_flush",
    "can_fua",
    "can_multi_conn",
    "can_trim",
    "can_zero",
];

/// Compares what the two programs print for these arguments.
fn agree(args: &[&str]) -> TestResult {
    agree_about("", None, args)
}

/// The same but for one key, of which nbdinfo says what is not so, and for what is known to
/// differ with such a server.
fn agree_about(what: &str, wrong: Option<&str>, args: &[&str]) -> TestResult {
    let args = [&["--json"], args].concat();
    let theirs = json(&run(tool("nbdinfo")?.args(&args))?.success()?);
    let ours = json(&succeed(&[&["info"], &args[..]].concat())?);
    let ours = Release::installed()?.json(what, ours);
    for key in ["protocol", "TLS", "structured"] {
        assert_eq!(ours[key], theirs[key], "{key} of {args:?}");
    }
    let (ours, theirs) = (exports(&ours), exports(&theirs));
    assert_eq!(ours.len(), theirs.len(), "exports of {args:?}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        for key in ALWAYS.into_iter().filter(|key| Some(*key) != wrong) {
            assert!(theirs.contains_key(key), "nbdinfo says no {key}");
            assert_eq!(ours.get(key), theirs.get(key), "{key} of {args:?}");
        }
        for key in OPTIONAL {
            // An empty list and none at all say the same.
            let said = |map: &Map<String, Value>| {
                let value = map.get(key).cloned();
                value.filter(|value| value.as_array().is_none_or(|list| !list.is_empty()))
            };
            assert_eq!(said(ours), said(&theirs), "{key} of {args:?}");
        }
    }
    Ok(())
}

fn exports(info: &Value) -> Vec<Map<String, Value>> {
    let list = info["exports"].as_array().expect("a list of exports");
    list.iter().filter_map(Value::as_object).cloned().collect()
}

fn agree_with(servers: Vec<ServerBuilder>) -> TestResult {
    for server in servers {
        agree(&[&server.start()?.uri()])?;
    }
    Ok(())
}

#[test]
fn nbdkit_plugins() -> TestResult {
    agree_with(vec![
        Server::nbdkit(&["memory", "1M"]),
        Server::nbdkit(&["memory", "0"]),
        Server::nbdkit(&["pattern", "1000001"]),
        Server::nbdkit(&["data", "1 2 3 @0x100000 4", "size=1T"]),
        Server::nbdkit(&["sparse-random", "16G"]),
        Server::nbdkit(&["-r", "memory", "1M"]),
        Server::nbdkit(&["null", "1E"]).tcp(),
        Server::nbdkit(&["null", "512"]).tcp6(),
        Server::nbdkit(&[
            "eval",
            "get_size=echo 1M",
            "pread=head -c $3 /dev/zero",
            "block_size=echo 4K 64K 1M",
            "is_rotational=exit 0",
            "can_fua=echo emulate",
        ]),
        Server::nbdkit(&["--filter=exportname", "memory", "1M", "exportdesc=fixed:a disk"]),
    ])
}

#[test]
fn nbdkit_negotiations() -> TestResult {
    agree_with(vec![
        Server::nbdkit(&["--oldstyle", "memory", "1M"]),
        Server::nbdkit(&["--oldstyle", "-r", "pattern", "511"]),
        Server::nbdkit(&["--mask-handshake=0", "memory", "1M"]),
        Server::nbdkit(&["--mask-handshake=1", "memory", "1M"]),
        Server::nbdkit(&["--mask-handshake=2", "memory", "1M"]),
    ])?;
    let simple = Server::nbdkit(&["--no-sr", "memory", "1M"]).start()?;
    agree_about(SIMPLE, None, &[&simple.uri()])
}

#[test]
fn qemu_nbd() -> TestResult {
    let scratch = Scratch::new()?;
    let raw = arg(&scratch.raw_image("raw", 3 * MIB + 512)?);
    let odd = arg(&scratch.raw_image("odd", 1)?);
    let qcow2 = arg(&with_bitmaps(&scratch)?);
    agree_with(vec![
        Server::qemu_nbd(&["-f", "raw", &raw]),
        Server::qemu_nbd(&["-f", "raw", "-r", &raw]).tcp(),
        Server::qemu_nbd(&["-f", "raw", &odd]),
        Server::qemu_nbd(&["-f", "raw", "-D", "a description", &raw]),
        Server::qemu_nbd(&["-f", "qcow2", &qcow2]),
        Server::qemu_nbd(&["-f", "qcow2", "-B", "before", "-B", "after", "-A", "-r", &qcow2]),
    ])
}

/// A qcow2 image with two bitmaps, the second of which has seen a write.
pub(crate) fn with_bitmaps(
    scratch: &Scratch,
) -> Result<std::path::PathBuf, nbd_sim::peer::PeerError> {
    let path = scratch.qcow2_image("bitmaps", 8 * MIB)?;
    for (bitmap, write) in [("before", "write 3M 64k"), ("after", "write 1M 128k")] {
        run(tool("qemu-io")?.args(["-c", write]).arg(&path))?.success()?;
        let add = ["bitmap", "--add", "-g", "65536"];
        run(tool("qemu-img")?.args(add).arg(&path).arg(bitmap))?.success()?;
    }
    run(tool("qemu-io")?.args(["-c", "write 5M 192k"]).arg(&path))?.success()?;
    Ok(path)
}

#[test]
fn nbd_server() -> TestResult {
    let image = "{dir}/disk";
    let config = format!("[rw]\nexportname = {image}\nflush = true\nfua = true\ntrim = true\n");
    let read_only = format!("[ro]\nexportname = {image}\nreadonly = true\nmulticonn = true\n");
    let scratch = Scratch::new()?;
    let disk = arg(&scratch.raw_image("disk", MIB)?);
    let server = Server::nbd_server(&(config + &read_only).replace(image, &disk)).start()?;
    // The server answers a mere question with a size of 0.
    for args in [&[&*server.export_uri("rw")][..], &[&server.export_uri("ro")]] {
        agree_about("nbd-server", Some(ABOUT_SIZE[0]), args)?;
    }
    agree_about("nbd-server", Some(ABOUT_SIZE[0]), &["--list", &server.uri()])
}

#[test]
fn nbd_serve() -> TestResult {
    let arguments: [&[&str]; 2] = [
        &["--memory", "1M"],
        &["--memory", "1T", "--read-only", "--export", "a b", "--description", "words"],
    ];
    for args in arguments {
        let server = serve(args)?;
        agree(&[&server.uri()])?;
        agree(&["--list", &server.uri()])?;
    }
    Ok(())
}

#[test]
fn every_export_of_a_list() -> TestResult {
    let scratch = Scratch::new()?;
    let raw = scratch.raw_image("raw", MIB)?;
    let node = format!("driver=file,node-name=disk,filename={}", raw.display());
    let servers = [
        Server::nbdkit(&[
            "--filter=exportname",
            "memory",
            "1M",
            "exportname-list=explicit",
            "exportname=first",
            "exportname=the second/of three",
            "exportname=\u{e9}\u{4e16}",
            "exportdesc=fixed:one of them",
        ]),
        Server::nbdkit(&["--filter=exportname", "memory", "1M", "exportname-list=empty"]),
        Server::storage_daemon(&[
            "--blockdev",
            &node,
            "--export",
            "type=nbd,id=a,node-name=disk,name=reads,description=look only",
            "--export",
            "type=nbd,id=b,node-name=disk,name=again",
        ]),
    ];
    for server in servers {
        agree(&["--list", &server.start()?.uri()])?;
    }
    let old = Server::nbdkit(&["--oldstyle", "memory", "1M"]).start()?;
    assert!(fail(&["info", "--list", &old.uri()])?.ends_with("cannot list exports"));
    let old = Server::nbdkit(&["--mask-handshake=0", "memory", "1M"]).start()?;
    assert!(fail(&["info", "--list", &old.uri()])?.ends_with("cannot list exports"));
    Ok(())
}

#[test]
fn the_size_alone() -> TestResult {
    let server = Server::nbdkit(&["memory", "1000001"]).start()?;
    assert_eq!(succeed(&["info", "--size", &server.uri()])?, "1000001");
    let command = ["info", "--size", "[", "nbdkit", "memory", "1M", "]"];
    assert_eq!(succeed(&command)?, "1048576");
    Ok(())
}

#[test]
fn a_server_of_its_own() -> TestResult {
    let command = ["info", "--json", "[", "nbdkit", "-r", "memory", "1M", "]"];
    let info = json(&succeed(&command)?);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], MIB);
    assert_eq!(export["export-size-str"], "1M");
    assert_eq!(export["is_read_only"], true);
    Ok(())
}

#[test]
fn for_people() -> TestResult {
    let scratch = Scratch::new()?;
    let raw = scratch.raw_image("raw", MIB)?;
    let server = Server::qemu_nbd(&["-f", "raw", "-x", "disk", "-D", "words\nlines"]);
    let server = server.arg(&raw).start()?;
    let text = succeed(&["info", &server.export_uri("disk")])?;
    for line in [
        "protocol: newstyle-fixed without TLS, using extended packets",
        "export=\"disk\":",
        "\tdescription: words\\nlines",
        "\texport-size: 1048576 (1M)",
        "\t\tbase:allocation",
        "\tis_read_only: false",
        "\tcan_flush: true",
        "\tcan_block_status_payload: true",
        "\tblock_size_preferred: 4096 (4K)",
        "\tblock_size_minimum: 1",
    ] {
        assert!(text.lines().any(|said| said == line), "{line:?} in {text}");
    }
    succeed(&["info", "--can", "block-status-payload", &server.export_uri("disk")])?;
    fs::remove_file(raw).unwrap();
    Ok(())
}

/// nbdkit takes the second connection of such a plugin when the first has ended.
#[test]
fn one_connection_at_a_time_suffices() -> TestResult {
    let server =
        Server::nbdkit(&["eval", "get_size=echo 0", "thread_model=echo serialize_connections"])
            .start()?;
    let list = json(&succeed(&["info", "--list", "--json", &server.uri()])?);
    assert_eq!(list["exports"][0]["export-size"], 0);
    assert_eq!(succeed(&["list", &server.uri()])?.lines().count(), 2);
    Ok(())
}

/// Some say something else in the list than of the export itself: the list counts, as in nbdinfo.
#[test]
fn descriptions_are_those_of_the_list() -> TestResult {
    let list = "list_exports=echo INTERLEAVED; echo a; echo in the list";
    let server = Server::nbdkit(&["eval", "get_size=echo 512", list])
        .arg("export_description=echo of the export")
        .start()?;
    let told = json(&succeed(&["info", "--list", "--json", &server.uri()])?);
    assert_eq!(told["exports"][0]["description"], "in the list");
    let told = json(&succeed(&["info", "--json", &server.export_uri("a")])?);
    assert_eq!(told["exports"][0]["description"], "of the export");
    Ok(())
}
