//! An export that is open, and how to open it once more.

use std::time::Duration;

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::ClientConfig;

use crate::copy::plan::Plan;
use crate::copy::workers;
use crate::failure::Result;
use crate::target::Server;

pub(super) const ALLOCATION: &str = "base:allocation";

/// A connection of one end.
pub(in crate::copy) struct Connected {
    pub(super) server: Server,
    config: ClientConfig,
    pub(super) limit: Option<Duration>,
    pub(super) client: Client,
}

impl Connected {
    /// Connects in order to read, and to be told of holes if that is wanted.
    pub(in crate::copy) fn to_read(server: &Server, plan: &Plan) -> Result<Self> {
        let config = ClientConfig::new();
        let config = if plan.use_extents { config.meta_context(ALLOCATION) } else { config };
        Self::with(server, config, plan.limit)
    }

    /// Connects in order to write.
    pub(super) fn to_write(server: &Server, limit: Option<Duration>) -> Result<Self> {
        Self::with(server, ClientConfig::new(), limit)
    }

    fn with(server: &Server, config: ClientConfig, limit: Option<Duration>) -> Result<Self> {
        let client = server.connect(config.clone(), limit)?;
        Ok(Self { server: server.clone(), config, limit, client })
    }

    /// Of the export, in bytes.
    pub(in crate::copy) fn size(&self) -> u64 {
        self.client.size()
    }

    /// What requests must be whole multiples of, in bytes.
    pub(in crate::copy) fn block(&self) -> usize {
        self.client.export().minimum_block() as usize
    }

    /// How many workers it can be used on, of those that are wanted.
    pub(in crate::copy) fn workers(&self, wanted: usize) -> usize {
        workers::connections(&self.client, self.server.is_command(), wanted)
    }

    /// Connects once more, if that is safe.
    pub(in crate::copy) fn another(&self) -> impl FnOnce() -> Result<Self> + Send + use<> {
        let (server, config, limit) = (self.server.clone(), self.config.clone(), self.limit);
        let facts = self.client.negotiated().clone();
        move || {
            let client = workers::beside(&server, config.clone(), limit, &facts)?;
            Ok(Self { server, config, limit, client })
        }
    }
}
