//! What all lanes of one copy share.

use std::ops::Range;
use std::sync::Arc;

use super::lanes::Regions;
use super::plan::Plan;
use super::progress::Progress;
use super::stop::Stop;

/// One copy.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) plan: Plan,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: Arc<Stop>,
    pub(super) regions: Regions,
}

impl Job {
    /// The next region that nobody has taken, unless it is wished to stop.
    pub(super) fn take(&self) -> Option<Range<u64>> {
        if self.stop.is_wished() { None } else { self.regions.take() }
    }
}
