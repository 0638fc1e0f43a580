//! What can be done with types without a server.

use std::error::Error as StdError;
use std::io;

use nbd_client_async::{Client, Connector, Error, ExportFile, GoError, Options, Pool};
use nbd_client_tokio::Tokio;

const fn is_shared<T: Send + Sync + 'static>() {}
const fn is_sent<T: Send + 'static>() {}
const fn is_error<T: StdError + Send + Sync + 'static>() {}

const _: () = {
    is_shared::<Client>();
    is_shared::<Pool>();
    is_shared::<Options>();
    is_shared::<Connector<Tokio>>();
    is_sent::<ExportFile>();
    is_error::<Error>();
    is_error::<GoError>();
};

/// `?` makes the error that is wanted of the one that is there: ours, and what programs have.
mod question_marks {
    use super::*;

    pub(super) async fn ours(options: Options) -> Result<Client, Error> {
        Ok(options.go().await?)
    }

    pub(super) async fn of_a_program(
        options: Options,
    ) -> Result<Client, Box<dyn StdError + Send + Sync>> {
        Ok(options.go().await?)
    }

    pub(super) async fn io(client: Client) -> io::Result<()> {
        Ok(client.flush().await?)
    }

    /// Streams of the runtimes, and of the system, are taken as they are.
    pub(super) async fn streams(
        connector: Connector<Tokio>,
        tokio: tokio::net::TcpStream,
        async_std: async_std::net::TcpStream,
        smol: smol::net::unix::UnixStream,
        system: std::net::TcpStream,
    ) -> Result<(), Error> {
        connector.connect_over(tokio).await?;
        connector.connect_over(async_std).await?;
        connector.connect_over(smol).await?;
        connector.connect_over(system).await?;
        connector.connect_over(std::os::unix::net::UnixStream::connect("socket")?).await?;
        connector.connect_with(|| tokio::net::TcpStream::connect("localhost:10809")).await?;
        connector.connect_with(async || tokio::net::UnixStream::connect("socket").await).await?;
        Ok(())
    }
}

#[test]
fn what_compiles_is_there() {
    let _ = (question_marks::ours, question_marks::of_a_program);
    let _ = (question_marks::io, question_marks::streams);
    assert_eq!(io::Error::from(Error::stopped()).kind(), io::ErrorKind::NotConnected);
}
