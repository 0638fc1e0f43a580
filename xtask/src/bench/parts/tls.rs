//! Reads and copies behind TLS, with certificates and with pre-shared keys.
//!
//! Beside large reads there is a client that decrypts nothing: so fast is the server.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Entry, Run};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::Side;
use crate::bench::load::Load;
use crate::bench::server::{DISK, Directory, Server, nbdkit, with_server};
use crate::steps::{capture, run as command};

const LOADS: [Load; 2] = [
    Load { name: "read 256 KiB, depth 4", direction: "read", size: "256k", depth: 4, count: 3_000 },
    Load { name: "read 4 KiB, depth 16", direction: "read", size: "4k", depth: 16, count: 30_000 },
];

/// How server and clients know each other.
#[derive(Clone, Copy)]
enum Kind {
    Certificates,
    Keys,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Certificates => "X.509",
            Self::Keys => "PSK",
        }
    }

    /// Makes the credentials in a directory and starts a server with them.
    /// Returns the URI, too.
    fn start(self, dir: &Path) -> Outcome<(Server, String)> {
        let (shown, path) = (dir.display().to_string(), dir.join("s"));
        let socket = path.display();
        let (option, uri) = match self {
            Self::Certificates => {
                make_certificates(dir)?;
                let uri = format!("nbds+unix:///?socket={socket}&tls-certificates={shown}");
                (format!("--tls-certificates={shown}"), uri)
            }
            Self::Keys => {
                let file = dir.join("keys.psk");
                command(Command::new("psktool").args(["-u", "alice", "-p"]).arg(&file))?;
                let file = file.display();
                let uri = format!("nbds+unix://alice@/?socket={socket}&tls-psk-file={file}");
                (format!("--tls-psk={file}"), uri)
            }
        };
        let mut server = nbdkit(&path);
        let server = Server::start(server.args(["--tls=require", &option, "memory", DISK]), &path)?;
        Ok((server, uri))
    }
}

pub(super) fn run(run: &mut Run) -> Outcome {
    for kind in [Kind::Certificates, Kind::Keys] {
        let directory = Directory::fresh(kind.name())?;
        let (server, uri) = kind.start(directory.path())?;
        // One fills the disk with known data, and everybody reads it.
        Contender::blocking()?.check(&LOADS[0].writing(), &uri)?;
        let mut entries = vec![Entry::of(Contender::blocking()?)];
        entries.extend(Contender::libnbd()?.map(Entry::of));
        // Of small replies it says nothing: there most of the time goes into the requests.
        for (load, limit) in LOADS.iter().zip([true, false]) {
            if limit {
                entries.push(Entry::of(Contender::unread()?));
            }
            run.race(
                &format!("{}: {}", kind.name(), load.name),
                None,
                &entries,
                |entry| match entry.side {
                    Side::Ours | Side::Theirs => entry.what.check(load, &uri),
                    Side::Limit => Ok(()),
                },
                |entry| with_server(&server, || entry.what.measure(load, &uri)),
            );
            entries.retain(|entry| entry.side != Side::Limit);
        }
    }
    Ok(())
}

/// An authority and a certificate for the server.
pub(super) fn make_certificates(dir: &Path) -> Outcome {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))
    };
    write("ca.info", "cn = Benchmark\nca\ncert_signing_key\nexpiration_days = 1\n")?;
    write(
        "server.info",
        "dns_name = localhost\ntls_www_server\nsigning_key\nexpiration_days = 1\n",
    )?;
    for who in ["ca", "server"] {
        let key = format!("{who}-key.pem");
        certtool(dir, &["--generate-privkey", "--key-type=ecdsa", "--outfile", &key])?;
    }
    let authority = ["--load-privkey", "ca-key.pem", "--template", "ca.info"];
    let authority = [&["--generate-self-signed"], &authority[..], &["--outfile", "ca-cert.pem"]];
    certtool(dir, &authority.concat())?;
    certtool(
        dir,
        &[
            "--generate-certificate",
            "--load-privkey=server-key.pem",
            "--load-ca-certificate=ca-cert.pem",
            "--load-ca-privkey=ca-key.pem",
            "--template=server.info",
            "--outfile=server-cert.pem",
        ],
    )
}

fn certtool(dir: &Path, args: &[&str]) -> Outcome {
    capture(Command::new("certtool").args(args).current_dir(dir)).map(|_| ())
}
