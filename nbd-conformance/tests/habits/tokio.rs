//! With tokio.

/// Compiling it is the test.
pub(super) fn all() {
    let _ = buffered::habit;
    let _ = connect::habit;
    let _ = io_copy::habit;
    let _ = one_connection_each::habit;
    let _ = own_stream::habit;
    let _ = pool::habit;
    let _ = spawn::habit;
    let _ = stream_of_extents::habit;
    let _ = timeout::habit;
    let _ = write_again::habit;
    let _ = write_what_is_at_hand::habit;
}

/// From object_store: many reads at a time, in order.
mod buffered {
    use futures_util::{StreamExt, TryStreamExt, stream};

    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let client = &client;
        let blocks: Vec<_> = stream::iter(0..64_u64)
            .map(|index| async move { client.read(index * 4096, 4096).await })
            .buffered(16)
            .try_collect()
            .await?;
        println!("{}", blocks.len());
        Ok(())
    }
}

/// From tokio-postgres: a function of the crate.
mod connect {
    pub(super) async fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let sector = client.read(0, 512).await?;
        println!("{sector:?}");
        Ok(())
    }
}

/// From tokio::io: an export is a file.
mod io_copy {
    use ::tokio::io::{AsyncReadExt, AsyncSeekExt};
    use nbd_client_tokio::ExportFile;

    pub(super) async fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let mut file = ExportFile::new(client);
        let mut head = [0; 16];
        file.read_exact(&mut head).await?;
        file.rewind().await?;
        ::tokio::io::copy(&mut file, &mut ::tokio::io::sink()).await?;
        Ok(())
    }
}

/// From sqlx: a type is connected to an address.
mod one_connection_each {
    use nbd_client_tokio::{Client, Connect};

    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let uri = String::from("nbd://localhost/disk");
        let client = Client::connect(&uri).await?;
        client.read(0, 512).await?;
        client.disconnect().await
    }
}

/// From hyper: a handshake over a stream that is there.
mod own_stream {
    use ::tokio::net::TcpStream;
    use nbd_client_tokio::{ConnectOptions, Connector};

    pub(super) async fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let stream = TcpStream::connect("localhost:10809").await?;
        let options = ConnectOptions::new().export("disk");
        let client = Connector::new(options).connect_over(stream).await?;
        println!("{}", client.size());
        Ok(())
    }
}

/// From deadpool: so many connections to one address.
mod pool {
    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let pool = nbd_client_tokio::connect_pool("nbd://localhost/disk", 4).await?;
        pool.write_all_at(vec![0; 4096], 0).await?;
        pool.flush().await
    }
}

/// From tokio: a handle is cloned into tasks.
mod spawn {
    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let tasks: Vec<_> = (0..64_u64)
            .map(|index| {
                let client = client.clone();
                ::tokio::spawn(async move { client.read(index * 4096, 4096).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic")?;
        }
        Ok(())
    }
}

/// From futures: `try_next`.
mod stream_of_extents {
    use futures_util::TryStreamExt;

    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let mut extents = client.extents("base:allocation", ..)?;
        while let Some(extent) = extents.try_next().await? {
            println!("{extent:?}");
        }
        Ok(())
    }
}

/// From tokio: a limit around a future.
mod timeout {
    use std::time::Duration;

    pub(super) async fn habit() -> Result<(), Box<dyn std::error::Error>> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        ::tokio::time::timeout(Duration::from_secs(1), client.flush()).await??;
        Ok(())
    }
}

/// From reqwest: a body is made of whatever is at hand.
mod write_what_is_at_hand {
    pub(super) async fn habit() -> Result<(), nbd_client_tokio::Error> {
        let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
        let block = vec![7; 4096];
        client.write_all_at(&block[..512], 2048).await?;
        client.write_all_at(&block, 4096).await?;
        client.write_all_at("text", 0).await?;
        client.write_all_at(vec![0; 512], 512).await?;
        client.write_all_at(bytes::Bytes::from_static(b"bytes"), 1024).await?;
        Ok(())
    }
}

/// From tokio's channels: what could not be sent comes back with the error.
mod write_again {
    use nbd_client_tokio::{Client, Rejected};

    pub(super) async fn habit(
        client: &Client,
        other: &Client,
    ) -> Result<(), nbd_client_tokio::Error> {
        let Err(Rejected { error, buffer }) = client.write_all_at(vec![0; 4096], 0).await else {
            return Ok(());
        };
        match buffer {
            Some(data) => Ok(other.write_all_at(data, 0).await?),
            None => Err(error),
        }
    }
}
