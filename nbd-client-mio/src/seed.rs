//! Chance, as far as a session needs it.

use std::hash::{BuildHasher, RandomState};

/// Differs from session to session, so that many that are lost at once do not come back in step.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(())
}
