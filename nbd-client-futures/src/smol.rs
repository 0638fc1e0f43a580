//! Connections on smol.

crate::watched::runtime!(
    /// The runtime of the crate `smol`.
    Smol in "smol",
    |task| ::smol::spawn::<()>(task).detach(),
    |work: nbd_client_async::BlockingWork| ::smol::unblock(work).detach()
);
