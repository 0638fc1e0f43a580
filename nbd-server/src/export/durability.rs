//! What a failed sync means for all that come after it.

use std::io;
use std::sync::{Mutex, PoisonError};

/// Remembers that a sync has failed.
///
/// The kernel tells each failure to write back once, and then takes the pages for clean:
/// the next sync succeeds although data are gone. So the first failure is the answer to
/// every sync from then on, whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    failed: Mutex<Option<Failed>>,
}

/// The first failure, to be told again.
#[derive(Debug)]
struct Failed {
    number: Option<i32>,
    kind: io::ErrorKind,
}

impl Durability {
    /// Runs `sync`, one at a time: of two at once only one would be told of a failure.
    ///
    /// # Errors
    ///
    /// Those of `sync`, or of the first that failed.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = &*failed {
            return Err(match first.number {
                Some(number) => io::Error::from_raw_os_error(number),
                None => first.kind.into(),
            });
        }
        let result = sync();
        if let Err(error) = &result {
            *failed = Some(Failed { number: error.raw_os_error(), kind: error.kind() });
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = 5;

    #[test]
    fn the_first_failure_is_the_answer_for_ever() {
        let durability = Durability::default();
        durability.sync(|| Ok(())).unwrap();
        let first = durability.sync(|| Err(io::Error::from_raw_os_error(EIO)));
        assert_eq!(first.unwrap_err().raw_os_error(), Some(EIO));
        for _ in 0..2 {
            let again = durability.sync(|| panic!("it was asked again"));
            assert_eq!(again.unwrap_err().raw_os_error(), Some(EIO));
        }
    }
}
