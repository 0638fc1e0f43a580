//! What is served, where, and for how long.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nbd_sim::peer::{Server, run, tool};
use nbd_sim::raw::{READ, request};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{NBD, TestResult, eventually, nbdsh, serve};

/// A child that does not outlive its test.
struct Guard(Child);

impl Guard {
    fn terminate(&self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::TERM).unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `nbd serve` to its end.
fn ends(args: &[&str]) -> (bool, String, String) {
    let output = run(Command::new(NBD).arg("serve").args(args)).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn nbdinfo(args: &[&str]) -> String {
    run(tool("nbdinfo").unwrap().args(args)).unwrap().success().unwrap()
}

#[test]
fn several_exports_have_names() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    for (name, size) in [("a.img", 1000), ("b.img", 2000)] {
        fs::write(directory.path().join(name), vec![7; size]).unwrap();
    }
    let path = |name: &str| directory.path().join(name).display().to_string();
    let toml = format!(
        "[[export]]\nname = 'one'\npath = '{}'\n\
         [[export]]\nname = 'two'\npath = '{}'\nread-only = true\ndescription = 'second'\n\
         [[export]]\nname = 'three'\nmemory = '64K'\n",
        path("a.img"),
        path("b.img"),
    );
    fs::write(path("exports.toml"), toml).unwrap();
    let (one, two) = (format!("one={}", path("a.img")), format!("two={}", path("b.img")));
    let servers =
        [serve(&["--export", &one, "--export", &two]), serve(&["--config", &path("exports.toml")])];
    for server in servers {
        let server = server.start()?;
        for (name, size) in [("", "1000"), ("one", "1000"), ("two", "2000")] {
            assert_eq!(nbdinfo(&["--size", &server.export_uri(name)]), size, "{name}");
        }
        let list = nbdinfo(&["--list", "--json", &server.uri()]);
        assert!(list.contains("\"one\"") && list.contains("\"two\""), "{list}");
    }
    Ok(())
}

#[test]
fn a_directory_lends_its_files() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("disk one"), [1; 512]).unwrap();
    let server = serve(&["--directory", &directory.path().display().to_string()]).start()?;
    fs::write(directory.path().join("later"), [1; 1024]).unwrap();
    assert_eq!(nbdinfo(&["--size", &server.export_uri("disk one")]), "512");
    assert_eq!(nbdinfo(&["--size", &server.export_uri("later")]), "1024");
    for name in ["", "../disk one", "missing"] {
        let refused = run(tool("nbdinfo")?.args(["--size", &server.export_uri(name)]))?;
        assert!(!refused.status.success(), "{name}");
    }
    Ok(())
}

#[test]
fn an_overlay_leaves_the_file_alone() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![5; 200_000]).unwrap();
    let server = serve(&["--overlay", &path.display().to_string()]).start()?;
    let script = "h.pwrite(b'changed', 70_000)\nh.zero(1000, 199_000)\nh.flush()\n\
                  assert h.pread(9, 69_999) == b'\\x05changed\\x05'\n\
                  assert h.pread(1000, 199_000) == bytes(1000)";
    nbdsh(&server.uri(), script)?;
    nbdsh(&server.uri(), "assert h.pread(7, 70_000) == b'changed'")?;
    drop(server);
    assert!(fs::read(&path).unwrap() == vec![5; 200_000]);
    Ok(())
}

#[test]
fn what_cannot_be_served_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("disk"), [0; 512]).unwrap();
    fs::write(path("typo.toml"), "[[export]]\nname = 'x'\nfile = 'y'\n").unwrap();
    fs::write(path("twice.toml"), "[[export]]\nmemory = '1M'\n[[export]]\nmemory = '1M'\n")
        .unwrap();
    let socket = path("s");
    let long = "x".repeat(4097);
    let cases: &[(&[&str], &str)] = &[
        (&["--memory", "1M"], "nowhere to listen"),
        (&["--unix", &socket], "nothing to serve"),
        (&["--unix", &socket, "--export", "name"], "NAME=PATH"),
        (&["--unix", &socket, &path("missing")], "missing"),
        (&["--unix", &socket, "--config", &path("typo.toml")], "unknown field `file`"),
        (&["--unix", &socket, "--config", &path("twice.toml")], "two exports"),
        (
            &["--unix", &socket, "--memory", "1M", "--description", &long],
            "the description is too long",
        ),
        (&["--unix", &socket, "--directory", &path("disk")], "is no directory"),
        (&["--unix", &socket, "--memory", "1M", "--format=qcow2"], "memory has none"),
        (&["--unix", &socket, "--directory", &path("."), "--format=raw"], "files of a directory"),
        (&["--unix", &socket, "--config", &path("twice.toml"), "--format=raw"], "format of each"),
        (&["--tcp", "127.0.0.1:port", "--memory", "1M"], "HOST:PORT"),
    ];
    for (args, reason) in cases {
        let (success, stdout, stderr) = ends(args);
        assert!(!success && stderr.contains(reason), "{args:?}: {stderr}");
        assert_eq!(stdout, "", "{args:?}");
        assert!(!directory.path().join("s").exists(), "{args:?}");
    }
}

#[test]
fn an_image_of_another_format_is_served_as_it_is_with_a_warning() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2").display().to_string();
    run(tool("qemu-img")?.args(["create", "-q", "-f", "qcow2", &path, "1M"]))?.success()?;
    let server = serve(&[&path]).start()?;
    eventually("the warning", || server.log().contains("looks like a qcow2 image"));
    nbdsh(&server.uri(), "assert h.pread(3, 0) == b'QFI'")?;
    Ok(())
}

/// The server lives as long as the command, and exits as it does.
#[test]
fn a_captive_command_finds_the_server() {
    let command = "nbdinfo --size \"$uri\"; exit 7";
    let output =
        run(Command::new(NBD).args(["serve", "--memory", "3M", "--run", command])).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3145728");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_captive_command_ends_with_the_server() {
    let mut child = Guard(
        Command::new(NBD)
            .args(["serve", "--memory", "3M", "--run", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    let stdout = child.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    child.terminate();
    let status = child.0.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15));
}

/// Clients that start their server pass it a socket; whose they are does not matter.
#[test]
fn clients_start_it_by_socket_activation() {
    let ours = run(Command::new(NBD)
        .args(["info", "--size", "--", "["])
        .args([NBD, "serve", "--memory", "1M", "]"]))
    .unwrap()
    .success()
    .unwrap();
    assert_eq!(ours, "1048576");
    let theirs = nbdinfo(&["--size", "--", "[", NBD, "serve", "--memory", "1M", "]"]);
    assert_eq!(theirs, "1048576");
}

#[test]
fn it_serves_the_client_at_standard_input() {
    let script = format!(
        "h.connect_command(['{NBD}', 'serve', '--single', '--memory', '1M'])\n\
         h.pwrite(b'hello', 0)\nprint(h.pread(5, 0))"
    );
    let output = run(tool("nbdsh").unwrap().args(["-c", &script])).unwrap().success().unwrap();
    assert_eq!(output, "bytearray(b'hello')");
    // With its client it ends.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Guard(
        Command::new(NBD)
            .args(["serve", "--single", "--memory", "1M"])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap(),
    );
    drop(ours);
    assert!(child.0.wait().unwrap().success());
}

/// As at the end of an ssh command, or of socat's.
#[test]
fn it_serves_the_client_at_two_pipes() {
    let mut child = Guard(
        Command::new(NBD)
            .args(["serve", "--single", "--memory", "1M"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let (mut to, mut from) = (child.0.stdin.take().unwrap(), child.0.stdout.take().unwrap());
    to.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    let mut greeting = [0; 28];
    from.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    to.write_all(&request(READ, 1, 0, 300_000)).unwrap();
    drop(to);
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 16 + 300_000);
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn it_ends_with_its_last_client() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let log = ["--exit-with-last", "-v", "--log-format", "json", "--memory", "1M", "--pid-file"];
    let mut child = Guard(
        Command::new(NBD)
            .args(["serve", "--tcp", "127.0.0.1:0"])
            .args(log)
            .arg(&pid_file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut uri = String::new();
    let stdout = child.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut uri).unwrap();
    eventually("the process id", || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text == format!("{}\n", child.0.id()))
    });
    nbdsh(uri.trim(), "h.pread(1, 0)")?;
    let mut log = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(child.0.wait().unwrap().success() && !pid_file.exists());
    for event in ["connected", "opened", "closed"] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "{log}");
    }
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
    Ok(())
}

#[test]
fn it_listens_in_several_places() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s").display().to_string();
    let args = ["--unix", &path, "--tcp", "127.0.0.1:0", "--tcp", "localhost:0"];
    let mut child = Guard(
        Command::new(NBD)
            .args(["serve", "--memory", "1M"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let uris: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    for uri in &uris {
        assert_eq!(nbdinfo(&["--size", uri]), "1048576", "{uri}");
    }
    child.terminate();
    assert!(child.0.wait().unwrap().success());
    Ok(())
}

/// What QEMU has written is read, and what is written QEMU reads.
#[test]
fn a_qcow2_image_is_a_disk() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let image = path("disk.qcow2");
    let qemu_io = |script: &str| run(tool("qemu-io")?.args(["-f", "qcow2", "-c", script, &image]));
    run(tool("qemu-img")?.args(["create", "-q", "-f", "qcow2", &image, "8M"]))?.success()?;
    qemu_io("write -P 7 1M 64k")?.success()?;
    let mut server = serve(&["--format", "qcow2", &image]).start()?;
    let script = "assert h.pread(2, (1 << 20) - 1) == b'\\0\\x07'\n\
                  h.pwrite(b'\\x09' * 65536, 2 << 20)\nh.zero(512, 1 << 20)\n\
                  h.trim(65536, 3 << 20)\nh.flush()";
    nbdsh(&server.uri(), script)?;
    let map = nbdinfo(&["--map", &server.uri()]);
    assert!(map.contains("hole"), "{map}");
    super::support::terminate(&server);
    assert!(server.wait_within(super::support::LIMIT).expect("it stops").success());
    for script in ["read -P 9 2M 64k", "read -P 0 1M 512", "read -P 7 1049088 65024"] {
        let told = qemu_io(script)?.success()?;
        assert!(!told.contains("failed"), "{script}: {told}");
    }
    run(tool("qemu-img")?.args(["check", "-q", "-f", "qcow2", &image]))?.success()?;
    // What an image says is no reason to open another file.
    let above = path("above.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &image, &above];
    run(tool("qemu-img")?.args(create))?.success()?;
    let socket = path("s");
    let (success, _, told) = ends(&["--unix", &socket, "--format", "qcow2", &above]);
    assert!(!success && told.contains("backing file"), "{told}");
    let (success, _, told) = ends(&["--unix", &socket, "--format", "qcow2", &path("missing")]);
    assert!(!success && told.contains("missing"), "{told}");
    Ok(())
}

/// An export for others is not there, and one for readers is read-only.
#[test]
fn exports_may_be_for_some() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exports.toml");
    let uid = rustix::process::getuid().as_raw();
    let toml = format!(
        "[[export]]\nname = 'theirs'\nmemory = '1M'\nusers = ['uid:{}']\n\
         [[export]]\nname = 'ours'\nmemory = '2M'\nusers = ['uid:{uid}']\n\
         [[export]]\nname = 'read'\nmemory = '3M'\nreaders = ['*']\n",
        uid + 1
    );
    fs::write(&config, toml).unwrap();
    let server = serve(&["--config", &config.display().to_string()]).start()?;
    let list = nbdinfo(&["--list", "--json", &server.uri()]);
    assert!(list.contains("\"ours\"") && !list.contains("\"theirs\""), "{list}");
    for (name, size) in [("", "2097152"), ("ours", "2097152"), ("read", "3145728")] {
        assert_eq!(nbdinfo(&["--size", &server.export_uri(name)]), size, "{name}");
    }
    nbdinfo(&["--is", "read-only", &server.export_uri("read")]);
    let refused = run(tool("nbdinfo")?.args(["--size", &server.export_uri("theirs")]))?;
    assert!(!refused.status.success());
    Ok(())
}

/// The longest request that is taken is a quarter of the memory there is, and clients are told.
#[test]
fn memory_may_be_less() -> TestResult {
    let server = serve(&["--memory", "8M", "--max-memory", "4M"]).start()?;
    let told = nbdinfo(&["--json", &server.uri()]);
    assert!(told.contains("\"block_size_maximum\": 1048576,"), "{told}");
    // Nothing but the server refuses it here.
    let script = "h.set_strict_mode(0)\n\
                  assert h.pread(1 << 20, 0) == bytes(1 << 20)\n\
                  try: h.pread((1 << 20) + 1, 0)\n\
                  except nbd.Error as e: print(e.errno)\n\
                  assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)";
    assert_eq!(nbdsh(&server.uri(), script)?, "EOVERFLOW");
    for (size, why) in
        [("255K", "it should be 256K at least"), ("much", "a size is a whole number")]
    {
        let (success, _, told) = ends(&["--memory", "1M", "--single", "--max-memory", size]);
        assert!(!success && told.contains(why), "{told}");
    }
    Ok(())
}

/// Who comes from another name space of processes has no number there, and is still who it is.
#[test]
fn a_user_is_known_without_a_process_id() -> TestResult {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exports.toml");
    // Whoever runs the test is its root.
    let toml = "[[export]]\nname = 'mine'\nmemory = '1M'\nusers = ['uid:0']\n";
    fs::write(&config, toml).unwrap();
    let config = config.display().to_string();
    let unshare = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let serve = [NBD, "serve", "--unix", "{socket}", "--config", &config];
    let server = Server::command("unshare", &[&unshare[..], &serve].concat()).start()?;
    assert_eq!(nbdinfo(&["--size", &server.export_uri("mine")]), "1048576");
    Ok(())
}

/// A number that stands for everybody who has none would let everybody in.
#[test]
fn nobody_is_let_in_by_the_number_of_those_who_have_none() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exports.toml");
    for rule in ["uid:65534", "gid:65534"] {
        let toml = format!("[[export]]\nname = 'x'\nmemory = '1M'\nusers = ['{rule}']\n");
        fs::write(&config, toml).unwrap();
        let (success, _, told) = ends(&["--single", "--config", &config.display().to_string()]);
        assert!(!success && told.contains("has no number here"), "{told}");
    }
}
