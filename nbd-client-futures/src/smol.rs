//! Connections on smol.

crate::watched::runtime!(
    /// The runtime of the crate `smol`.
    Smol in "nbd_client_futures::smol",
    |task| ::smol::spawn::<()>(task).detach(),
    |work: nbd_client_async::BlockingWork| ::smol::unblock(work).detach()
);
