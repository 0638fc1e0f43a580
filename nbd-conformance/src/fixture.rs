//! What a case finds: an adapter, a server, and a connection that is there already.

use std::time::Duration;

use nbd_proto::ClientConfig;
use nbd_session::ConnectOptions;
use nbd_session::replay::Reconnect;
use nbd_sim::peer::PeerError;

use crate::outcome::Outcome;
use crate::site::{Disk, Running, Site};
use crate::subject::beyond::Beyond;
use crate::subject::{Choosing, How, Session, Subject};

/// Longer than anything takes that goes well.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Fixture<'a> {
    pub(crate) site: Site,
    pub(crate) subject: &'a dyn Subject,
    beyond: Box<dyn Beyond>,
    shared: Running,
    named: Option<Running>,
    session: Option<Box<dyn Session>>,
}

impl<'a> Fixture<'a> {
    pub(crate) fn new(
        site: Site,
        subject: &'a dyn Subject,
        beyond: Box<dyn Beyond>,
    ) -> Result<Self, PeerError> {
        let shared = site.start(Disk::Plain)?;
        Ok(Self { site, subject, beyond, shared, named: None, session: None })
    }

    /// What the adapter has beyond one connection.
    pub(crate) fn beyond(&self) -> &dyn Beyond {
        &*self.beyond
    }

    /// The connection that cases use one after the other, to a disk whose content is
    /// whatever the last one left.
    pub(crate) fn disk(&mut self) -> Outcome<&mut dyn Session> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.connect(|config| config.meta_context("base:allocation"))?,
        };
        Ok(self.session.insert(session).as_mut())
    }

    /// Forgets the connection after a case that failed.
    pub(crate) fn clear(&mut self) {
        self.session = None;
    }

    /// The server of that disk.
    pub(crate) fn shared(&self) -> &Running {
        &self.shared
    }

    /// The server of [`Disk::Named`].
    pub(crate) fn named(&mut self) -> Result<&Running, PeerError> {
        let running = match self.named.take() {
            Some(running) => running,
            None => self.site.start(Disk::Named)?,
        };
        Ok(self.named.insert(running))
    }

    /// Connects to the shared disk.
    pub(crate) fn connect(
        &self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Outcome<Box<dyn Session>> {
        self.connect_to(&self.shared.uri(), change)
    }

    /// Connects to any URI.
    pub(crate) fn connect_to(
        &self,
        uri: &str,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Outcome<Box<dyn Session>> {
        self.subject.connect(&how(uri, change))
    }

    /// Connects, to connect again.
    pub(crate) fn connect_reconnecting(
        &self,
        how: &How,
        policy: Reconnect,
    ) -> Outcome<Box<dyn Session>> {
        let base = how.base.clone().reconnect(policy);
        self.subject.connect(&How { base, ..how.clone() })
    }

    /// Connects to any URI, to ask and choose.
    pub(crate) fn negotiate(
        &self,
        uri: &str,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Outcome<Box<dyn Choosing>> {
        self.subject.negotiate(&how(uri, change))
    }
}

/// How most connections are made.
pub(crate) fn how(uri: &str, change: impl FnOnce(ClientConfig) -> ClientConfig) -> How {
    let (base, config) = (ConnectOptions::new(), change(ClientConfig::new()));
    How { uri: uri.to_owned(), base, config, tls: None, timeout: LONG }
}

/// Leaves the configuration as it is.
pub(crate) fn as_is(config: ClientConfig) -> ClientConfig {
    config
}
