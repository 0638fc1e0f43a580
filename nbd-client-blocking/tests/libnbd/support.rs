//! Servers and clients that many tests want.

use std::time::Duration;

use nbd_client_blocking::proto::ClientConfig;
use nbd_client_blocking::transport::UriPolicy;
use nbd_client_blocking::{Client, ConnectOptions, Options};
use nbd_sim::peer::{Scratch, Server};

pub(crate) const MIB: u64 = 1 << 20;

/// An image of zeroes that qemu-nbd serves, with more arguments for it.
pub(crate) struct Qemu {
    pub(crate) server: Server,
    // Goes after the server.
    _scratch: Scratch,
}

pub(crate) fn qemu(size: u64, args: &[&str]) -> Qemu {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk", size).expect("an image is made");
    let image = image.to_str().expect("the path is text");
    let args = [&["-f", "raw"], args, &[image]].concat();
    Qemu { server: Server::qemu_nbd(&args).start().expect("qemu-nbd starts"), _scratch: scratch }
}

/// A disk of which every access must be a multiple of 4096 bytes.
pub(crate) fn qemu_4k(size: u64) -> Qemu {
    let scratch = Scratch::new().expect("a directory is made");
    let image = scratch.raw_image("disk", size).expect("an image is made");
    let image = image.to_str().expect("the path is text");
    let options = format!("driver=blkdebug,align=4096,image.driver=file,image.filename={image}");
    Qemu {
        server: Server::qemu_nbd(&["--image-opts", &options]).start().expect("qemu-nbd starts"),
        _scratch: scratch,
    }
}

pub(crate) fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit starts")
}

pub(crate) fn defaults() -> ConnectOptions {
    let long = Duration::from_secs(60);
    ConnectOptions::new().connect_timeout(long).request_timeout(long)
}

pub(crate) fn connect(server: &Server, config: ClientConfig) -> Client {
    defaults()
        .config(config)
        .uri(&server.uri())
        .and_then(Client::connect)
        .expect("the server accepts")
}

pub(crate) fn negotiate(server: &Server, config: ClientConfig) -> Options {
    defaults()
        .config(config)
        .uri(&server.uri())
        .and_then(Options::connect)
        .expect("the server greets")
}

pub(crate) fn with_local_files() -> UriPolicy {
    UriPolicy::default().local_files(true)
}
