//! What plain values answer when they are asked.

use std::time::Duration;

use nbd_proto::{Command, Errno};
use nbd_session::replay::{Changed, Reconnect, RecoveryError};

#[test]
fn each_error_of_recovery_has_its_number() {
    let lost = Command::write(4096, 512);
    let recovered = [
        (RecoveryError::UnflushedLost, Errno::Io),
        (RecoveryError::ReplayFailed { command: lost, errno: Errno::Perm }, Errno::Io),
        (RecoveryError::CannotFlush(Errno::NoSpc), Errno::NoSpc),
        (RecoveryError::CannotKeep, Errno::NotSup),
        (RecoveryError::NoWayBack, Errno::NotSup),
        (RecoveryError::Changed(Changed::Size { was: 1, is: 2 }), Errno::NotConn),
    ];
    for (error, errno) in recovered {
        assert_eq!(error.errno(), errno, "{error}");
    }
}

#[test]
fn a_policy_of_reconnecting_tells_what_it_was_given() {
    let policy = Reconnect::default();
    assert_eq!(policy, Reconnect::new());
    assert_eq!(policy.patience(), Duration::from_secs(60));
    assert_eq!(policy.longest_wait(), Duration::from_secs(5));
    assert_eq!(policy.kept_bytes(), None);
    let policy = policy
        .give_up_after(Duration::from_secs(7))
        .max_delay(Duration::from_secs(3))
        .keep_unflushed(9);
    assert_eq!(policy.patience(), Duration::from_secs(7));
    assert_eq!(policy.longest_wait(), Duration::from_secs(3));
    assert_eq!(policy.kept_bytes(), Some(9));
}
