//! Every kind of server that can be had here, by what is special about it.

use std::fs;

use nbd_sim::peer::pki::Pki;
use nbd_sim::peer::{PeerError, Scratch, Server, ServerBuilder, run, tool};

use super::support::{Content, MIB, arg};

/// A server, and how it is asked.
pub(crate) struct Row {
    /// What is special about it.
    pub(crate) what: &'static str,
    pub(crate) server: ServerBuilder,
    pub(crate) export: &'static str,
    /// What a URI says of TLS: who asks, and with which credentials.
    pub(crate) tls: Option<(&'static str, String)>,
}

impl Row {
    fn new(what: &'static str, server: ServerBuilder) -> Self {
        Self { what, server, export: "", tls: None }
    }

    fn export(self, export: &'static str) -> Self {
        Self { export, ..self }
    }

    fn tls(self, credentials: &str) -> Self {
        Self { tls: Some(("", credentials.to_owned())), ..self }
    }

    #[cfg(feature = "psk")]
    fn user(self, user: &'static str, credentials: &str) -> Self {
        Self { tls: Some((user, credentials.to_owned())), ..self }
    }

    /// Starts it; returns its URI too.
    pub(crate) fn start(self) -> Result<(&'static str, Server, String), PeerError> {
        let server = self.server.start()?;
        let plain = server.export_uri(self.export);
        let uri = match self.tls {
            None => plain,
            Some((user, credentials)) => {
                let sign = if plain.contains('?') { '&' } else { '?' };
                let uri =
                    plain.replacen("nbd", "nbds", 1).replacen("://", &format!("://{user}"), 1);
                format!("{uri}{sign}{credentials}")
            }
        };
        Ok((self.what, server, uri))
    }
}

/// The files that they serve and are set up by.
pub(crate) struct Files {
    scratch: Scratch,
    pki: Pki,
}

impl Files {
    pub(crate) fn new() -> Result<Self, PeerError> {
        let (scratch, pki) = (Scratch::new()?, Pki::new());
        Content::Sparse.image(&scratch, "disk", MIB);
        let tool = |program: &str, args: &[&str]| -> Result<(), PeerError> {
            run(tool(program)?.current_dir(scratch.path()).args(args))?.success().map(drop)
        };
        let qcow2 = ["create", "-q", "-f", "qcow2"];
        tool("qemu-img", &[&qcow2[..], &["base", "1M"]].concat())?;
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 64k", "base"])?;
        tool("qemu-img", &[&qcow2[..], &["-b", "base", "-F", "qcow2", "top"]].concat())?;
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 2 64k 64k", "top"])?;
        for bitmap in ["bitmap0", "bitmap1"] {
            tool("qemu-img", &["bitmap", "--add", "--enable", "-f", "qcow2", "top", bitmap])?;
        }
        let writes = ["-c", "write -P 3 128k 64k", "-c", "write -z 512k 64k"];
        tool("qemu-io", &[&["-f", "qcow2"], &writes[..], &["top"]].concat())?;
        tool("qemu-img", &[&qcow2[..], &["huge", "10T"]].concat())?;
        let extents = "0 64K\n64K 64K hole\n128K 64K hole,zero\n192K 64K zero\n";
        fs::write(scratch.join("extents"), extents).unwrap();
        for (name, without) in [("12", &["3"][..]), ("13", &["2", "1", "0"])] {
            let without = without.iter().map(|v| format!("disabled-version = tls1.{v}\n"));
            let text = format!("[overrides]\n{}", without.collect::<String>());
            fs::write(scratch.join(name), text).unwrap();
        }
        fs::create_dir(scratch.join("names")).unwrap();
        for name in ["%%", "hello world"] {
            fs::write(scratch.join("names").join(name), [7; 512]).unwrap();
        }
        fs::create_dir(scratch.join("ondemand")).unwrap();
        let key = "alice:000102030405060708090a0b0c0d0e0f\n";
        fs::write(scratch.join("keys.psk"), key).unwrap();
        Ok(Self { scratch, pki })
    }

    fn path(&self, name: &str) -> String {
        arg(&self.scratch.join(name))
    }

    /// All of them.
    pub(crate) fn servers(&self) -> Vec<Row> {
        let parts = [self.handshakes(), self.replies(), self.sizes(), self.flags()];
        let more = [self.exports(), self.transports(), self.tls(), self.keys()];
        parts.into_iter().chain(more).flatten().collect()
    }

    fn handshakes(&self) -> Vec<Row> {
        let memory = ["memory", "1M"];
        let nbdkit = |args: &[&str]| Server::nbdkit(&[args, &memory].concat());
        let strict =
            ["--filter=exportname", "memory", "1M", "exportname=a", "exportname-strict=true"];
        let disk = self.path("disk");
        let exports = format!(
            "[rw]\nexportname = {disk}\nflush = true\nfua = true\ntrim = true\nrotational = true\n\
             [ro]\nexportname = {disk}\nreadonly = true\n\
             [cow]\nexportname = {disk}\ncopyonwrite = true\n"
        );
        vec![
            Row::new("oldstyle", nbdkit(&["-o"])),
            Row::new("not fixed, zeroes", nbdkit(&["--mask-handshake=0"])),
            Row::new("not fixed, no zeroes", nbdkit(&["--mask-handshake=2"])),
            Row::new("fixed, zeroes", nbdkit(&["--mask-handshake=1"])),
            Row::new("fixed, no zeroes", nbdkit(&[])),
            Row::new("an export that is not there", Server::nbdkit(&strict)).export("zzz"),
            Row::new("nbd-server", Server::nbd_server(&exports)).export("rw"),
            Row::new("nbd-server, read-only", Server::nbd_server(&exports)).export("ro"),
            Row::new("nbd-server, copy on write", Server::nbd_server(&exports)).export("cow"),
        ]
    }

    fn replies(&self) -> Vec<Row> {
        let extents = format!("extentlist={}", self.path("extents"));
        let (top, huge) = (self.path("top"), self.path("huge"));
        let bitmaps = ["-f", "qcow2", "-A", "-B", "bitmap0", "-B", "bitmap1", &top];
        let byte_by_byte = [
            "eval",
            "get_size=echo 32",
            "pread=head -c $3 /dev/zero",
            "can_extents=exit 0",
            "extents=echo $4 1 $(($4%2))",
        ];
        let far = ["data", "1 @131072 2 @6442450944 3", "size=8G"];
        vec![
            Row::new("simple replies", Server::nbdkit(&["--no-sr", "memory", "1M"])),
            Row::new("structured replies", Server::nbdkit(&["pattern", "1M"])),
            Row::new("replies with holes", Server::qemu_nbd(&["-f", "qcow2", &top])),
            Row::new(
                "extended headers",
                Server::qemu_nbd(&["-f", "qcow2", "--discard=unmap", &huge]),
            ),
            Row::new("extents", Server::nbdkit(&["data", "1 @131072 2", "size=1M"])),
            Row::new(
                "all kinds of extents",
                Server::nbdkit(&["--filter=extentlist", "memory", "256K", &extents]),
            ),
            Row::new("one byte an extent", Server::nbdkit(&byte_by_byte)),
            Row::new("several contexts", Server::qemu_nbd(&bitmaps)),
            Row::new("extents beyond 32 bits", Server::nbdkit(&far)),
        ]
    }

    fn sizes(&self) -> Vec<Row> {
        let disk = self.path("disk");
        let policy = ["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=512"];
        let enforced = Server::nbdkit(&policy).arg("blocksize-preferred=4096");
        let enforced = enforced.arg("blocksize-maximum=1M").arg("blocksize-error-policy=error");
        let aligned = "driver=blkdebug,align=4096,image.driver=file,image.filename=";
        let aligned = ["--image-opts", &format!("{aligned}{disk}")];
        let eval = |size: &str| eval(&[&format!("get_size=echo {size}")]);
        vec![
            Row::new("blocks of 512, enforced", enforced),
            Row::new("blocks of 4096", eval("1M").arg("block_size=echo 4096 64K 32M")),
            Row::new("blocks that must be asked for", Server::qemu_nbd(&[&disk])),
            Row::new("blocks of 4096 of qemu-nbd", Server::qemu_nbd(&aligned)),
            Row::new("blocks of 1", Server::qemu_nbd(&["-f", "raw", &disk])),
            Row::new("nothing in it", Server::nbdkit(&["null", "0"])),
            Row::new("an odd size", Server::nbdkit(&["memory", "1000001"])),
            Row::new("the largest size", eval("9223372036854775807")),
        ]
    }

    fn flags(&self) -> Vec<Row> {
        let disk = self.path("disk");
        let memory = |args: &[&str], more: &[&str]| {
            Server::nbdkit(&[args, &["memory", "1M"], more].concat())
        };
        let writable = || eval(&["get_size=echo 1M", "can_write=exit 0", "pwrite=cat >/dev/null"]);
        let flushing = || writable().arg("can_flush=exit 0").arg("flush=exit 0");
        let unsafe_cache = ["--filter=multi-conn", "--filter=cache", "file", &disk];
        vec![
            Row::new(
                "one connection at a time",
                memory(&["--filter=multi-conn"], &["multi-conn-mode=disable"]),
            ),
            Row::new(
                "several connections that disagree",
                Server::nbdkit(&unsafe_cache).arg("multi-conn-mode=unsafe"),
            ),
            Row::new("up to four connections", Server::qemu_nbd(&["-e", "4", "-f", "raw", &disk])),
            Row::new("FUA", memory(&["--filter=fua"], &["fuamode=native"])),
            Row::new("neither FUA nor flush, nor trim", writable()),
            Row::new("flush without FUA", flushing().arg("can_fua=echo none")),
            Row::new("no zeroing", memory(&["--filter=nozero"], &[])),
            Row::new(
                "no quick zeroing",
                memory(&["--filter=nozero"], &["zeromode=notrim", "fastzeromode=slow"]),
            ),
            Row::new("no caching", memory(&["--filter=nocache"], &["cachemode=none"])),
            Row::new("rotational", eval(&["get_size=echo 1M", "is_rotational=exit 0"])),
            Row::new("read-only", memory(&["-r"], &[])),
            Row::new("reads that fail", memory(&["--filter=error"], &["error-pread=EIO"])),
        ]
    }

    fn exports(&self) -> Vec<Row> {
        let disk = self.path("disk");
        let explicit = [
            "--filter=exportname",
            "memory",
            "1M",
            "exportname=hello",
            "exportname=goodbye",
            "exportname-list=explicit",
            "exportname-strict=true",
            "exportdesc=fixed:world",
        ];
        let canonical = ["--filter=exportname", "memory", "1M", "default-export=canon"];
        let file = format!("driver=file,filename={disk},node-name=d0");
        let null = "driver=null-co,size=1073741824,read-zeroes=on,node-name=n0";
        let alpha = "nbd,id=e0,node-name=d0,name=alpha,description=first,writable=on";
        let beta = "nbd,id=e1,node-name=n0,name=beta";
        let daemon = ["--blockdev", &file, "--blockdev", null, "--export", alpha, "--export", beta];
        let many = "list_exports=echo NAMES; seq -f export%g 40";
        vec![
            Row::new("exports with descriptions", Server::nbdkit(&explicit)).export("hello"),
            Row::new(
                "names that a URI escapes",
                Server::nbdkit(&["-r", "file", &format!("dir={}", self.path("names"))]),
            )
            .export("hello world"),
            Row::new("a list that is refused", eval(&["list_exports=exit 1", "get_size=echo 1M"])),
            Row::new("an empty list", eval(&["list_exports=echo NAMES", "get_size=echo 1M"])),
            Row::new("many exports", eval(&[many, "get_size=echo 512"])),
            Row::new("another name", Server::nbdkit(&canonical).arg("exportname=canon")),
            Row::new(
                "name and description of qemu-nbd",
                Server::qemu_nbd(&["-f", "raw", "-x", "hello", "-D", "world", &disk]),
            )
            .export("hello"),
            Row::new("qemu-storage-daemon", Server::storage_daemon(&daemon)).export("alpha"),
            Row::new(
                "made when first used",
                Server::nbdkit(&["ondemand", &format!("dir={}", self.path("ondemand")), "size=1M"]),
            )
            .export("fresh"),
        ]
    }

    fn transports(&self) -> Vec<Row> {
        let relay = |how: &str| {
            let script = format!(
                "nbdkit -f -U '{{dir}}/real' -P '{{dir}}/pid' pattern 64K & \
                 until [ -s '{{dir}}/pid' ]; do :; done; exec socat {how}"
            );
            Server::command("sh", &["-c", &script])
        };
        let listen = "'UNIX-LISTEN:{socket},fork' 'UNIX-CONNECT:{dir}/real";
        vec![
            Row::new("IPv4", Server::nbdkit(&["memory", "1M"]).tcp()),
            Row::new("IPv6", Server::nbdkit(&["memory", "1M"]).tcp6()),
            Row::new("a few bytes at a time", relay(&format!("-b 3 {listen}'"))),
            Row::new("cut off", relay(&format!("{listen},readbytes=60'"))),
        ]
    }

    fn tls(&self) -> Vec<Row> {
        let (pki, disk) = (self.pki.arg(), self.path("disk"));
        let credentials = format!("tls-certificates={pki}");
        let required = format!("--tls-certificates={pki}");
        let nbdkit =
            |args: &[&str]| Server::nbdkit(&[&[&*required], args, &["memory", "1M"]].concat());
        let object = format!("tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir={pki}");
        let qemu = ["--object", &object, "--tls-creds", "t", "-f", "raw", &disk];
        let version = |name: &str| {
            nbdkit(&["--tls=require"]).env("GNUTLS_SYSTEM_PRIORITY_FILE", self.path(name))
        };
        vec![
            Row::new("TLS", nbdkit(&["--tls=require"])).tls(&credentials),
            Row::new("TLS, not asked for", nbdkit(&["--tls=require"])),
            Row::new(
                "TLS and a certificate",
                nbdkit(&["--tls=require", "--tls-verify-peer"]).tcp(),
            )
            .tls(&credentials),
            Row::new("optional TLS", nbdkit(&["--tls=on"])).tls(&credentials),
            Row::new("optional TLS, not asked for", nbdkit(&["--tls=on"])),
            Row::new("another export without TLS", nbdkit(&["--tls=on", "--filter=tls-fallback"])),
            Row::new("TLS that is refused", Server::nbdkit(&["memory", "1M"])).tls(&credentials),
            Row::new("TLS of qemu-nbd", Server::qemu_nbd(&qemu)).tls(&credentials),
            Row::new("TLS 1.2", version("12")).tls(&credentials),
            Row::new("TLS 1.3", version("13")).tls(&credentials),
        ]
    }

    #[cfg(feature = "psk")]
    fn keys(&self) -> Vec<Row> {
        let keys = self.path("keys.psk");
        let credentials = format!("tls-psk-file={keys}");
        let server = ["--tls=require", &format!("--tls-psk={keys}"), "memory", "1M"];
        vec![Row::new("a shared key", Server::nbdkit(&server)).user("alice@", &credentials)]
    }

    #[cfg(not(feature = "psk"))]
    #[expect(clippy::unused_self, reason = "there are none without the feature")]
    fn keys(&self) -> Vec<Row> {
        Vec::new()
    }
}

/// nbdkit with a script of shell functions; what is read is zeroes.
fn eval(functions: &[&str]) -> ServerBuilder {
    let zeroes = "pread=head -c $3 /dev/zero";
    Server::nbdkit(&[&["eval", zeroes], functions].concat())
}
