//! With other runtimes, a server, the protocol alone.

/// Compiling it is the test.
pub(super) fn all() {
    let _ = mio_connect::habit;
    let _ = proto_command_flags::habit;
    let _ = server_behind_an_arc::habit;
    let _ = server_in_memory::habit;
    let _ = server_of_a_trait::habit;
    let _ = smol_connect::habit;
}

/// From mio: a source is made, then registered.
mod mio_connect {
    use mio::{Interest, Poll, Token};
    use nbd_client_mio::Connection;

    pub(super) fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let poll = Poll::new()?;
        let mut disk = Connection::<Vec<u8>>::connect("nbd://localhost/disk")?;
        poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;
        Ok(())
    }
}

/// From bitflags: flags are joined by `|`.
mod proto_command_flags {
    use nbd_proto::{Command, CommandFlags};

    pub(super) fn habit() {
        let _ = Command::write(0, 512).with(CommandFlags::FUA | CommandFlags::NO_HOLE);
    }
}

/// From axum: state is shared in an Arc.
mod server_behind_an_arc {
    use nbd_server::{MemoryExport, Server};
    use std::sync::Arc;

    pub(super) fn habit() -> std::io::Result<()> {
        let disk = Arc::new(MemoryExport::new(1 << 20));
        Server::new(Arc::clone(&disk)).listen_tcp("127.0.0.1:0")?.start()?.stop()
    }
}

/// From tiny_http: a server in one line.
mod server_in_memory {
    use nbd_server::{MemoryExport, Server};

    pub(super) fn habit() -> std::io::Result<()> {
        let server = Server::new(MemoryExport::new(1 << 20)).listen_tcp("127.0.0.1:0")?.start()?;
        println!("{}", server.uris()[0]);
        server.stop()
    }
}

/// From tower and others: implement what is needed, leave the rest.
mod server_of_a_trait {
    use nbd_server::{Export, Server};
    use std::io;

    struct Zeroes;

    impl Export for Zeroes {
        fn size(&self) -> u64 {
            1 << 30
        }

        fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<()> {
            buf.fill(0);
            Ok(())
        }
    }

    pub(super) fn habit() -> io::Result<()> {
        Server::new(Zeroes).listen_unix("/run/zeroes.sock")?.start()?.stop()
    }
}

/// From smol: the same with its executor.
mod smol_connect {
    pub(super) fn habit() -> Result<(), nbd_client_futures::Error> {
        smol::block_on(async {
            let client = nbd_client_futures::smol::connect("nbd://localhost/disk").await?;
            client.read(0, 512).await?;
            client.disconnect().await
        })
    }
}
