//! Room among the kept ones: who takes it, who waits for it, who gives it back.

use super::*;

#[test]
fn a_flush_makes_room_and_writes_wait_for_it() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 499));
    assert_eq!(harness.send(), []);
    harness.written(2, Command::write(500, 1));
    assert_eq!(harness.send(), [FLUSH], "half of the room is used");
    harness.submit(3, Command::write(1000, 400));
    harness.submit(4, Command::write(2000, 200));
    harness.submit(5, Command::write(3000, 1));
    harness.submit(6, Command::read(3000, 1));
    assert_eq!(harness.send(), [1000, 3000], "a read needs no room");
    assert_eq!(harness.succeed(0), None);
    assert_eq!(harness.send(), [2000, 3000]);
    // One that is larger than the room is sent alone.
    harness.submit(7, Command::write(0, 5000));
    assert_eq!(harness.send(), []);
    for _ in 0..4 {
        harness.succeed(0);
    }
    assert_eq!(harness.send(), [FLUSH]);
    harness.succeed(0);
    assert_eq!(harness.send(), [0]);
    harness.succeed(0);
    assert_eq!(harness.send(), [FLUSH]);
}

#[test]
fn the_number_of_kept_commands_is_bounded() {
    let mut harness = Harness::new(KEEP.keep_unflushed(u64::MAX));
    for token in 0..2047 {
        harness.written(token, Command::trim(u64::from(token) * 10, 10));
    }
    assert_eq!(harness.send(), []);
    harness.written(2047, Command::trim(1 << 19, 10));
    assert_eq!(harness.send(), [FLUSH]);
    // As many again, while the flush is under way, and no more.
    for token in 2048..4096 {
        harness.submit(token, Command::trim(u64::from(token) * 10, 10));
        assert_eq!(harness.send().len(), 1);
        assert_eq!(harness.succeed(1), Some(token));
    }
    harness.submit(4096, Command::trim(0, 10));
    assert_eq!(harness.send(), []);
    harness.succeed(0);
    // Another one, for what was acknowledged behind the first.
    assert_eq!(harness.send(), [0, FLUSH]);
    harness.succeed(0);
    harness.succeed(0);
    harness.reconnect();
    assert_eq!(harness.send(), [0]);
}

#[test]
fn room_is_taken_to_the_last_byte() {
    for (length, first) in [(900, 1000), (901, FLUSH)] {
        let mut harness = Harness::new(KEEP);
        harness.written(1, Command::write(0, 100));
        harness.submit(2, Command::write(1000, length));
        assert_eq!(harness.send(), [first], "{length}");
    }
}

#[test]
fn who_waits_for_room_is_told_when_there_will_be_none() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 900));
    assert_eq!(harness.send(), [FLUSH]);
    harness.submit(2, Command::write(1000, 200));
    harness.submit(3, Command::write(1100, 1));
    harness.submit(4, Command::write(5000, 300));
    assert_eq!(harness.answer(0, IO), None);
    let failed = |token| Some((token, RecoveryError::CannotFlush(Errno::Io)));
    assert_eq!(harness.log.poll_failed(), failed(2));
    // What fits goes; the flush is tried again only because somebody waits for it.
    assert_eq!(harness.log.poll_failed(), None);
    assert_eq!(harness.send(), [1100, FLUSH]);
    assert_eq!(harness.answer(1, IO), None);
    assert_eq!(harness.log.poll_failed(), failed(4));
    assert_eq!(harness.send(), []);
    harness.submit(5, Command::write(2000, 200));
    assert_eq!(harness.send(), [FLUSH]);
    assert_eq!(harness.succeed(1), None);
    assert_eq!(harness.send(), [2000]);
}

#[test]
fn who_never_had_room_gives_none_back() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 900));
    assert_eq!(harness.send(), [FLUSH]);
    let waiting = harness.submit(2, Command::write(1000, 200));
    harness.log.cancel(waiting);
    harness.submit(3, Command::write(2000, 200));
    assert_eq!(harness.send(), []);
    assert_eq!(harness.succeed(0), None);
    assert_eq!(harness.send(), [2000]);
}

#[test]
fn room_comes_back_from_what_failed_or_was_cancelled() {
    let mut harness = Harness::new(KEEP);
    for round in 0..4 {
        let first = harness.submit(1, Command::write(0, 600));
        assert_eq!(harness.send(), [0], "{round}");
        let second = harness.submit(2, Command::write(1000, 600));
        assert_eq!(harness.send(), []);
        match round {
            0 => drop(harness.answer(0, IO)),
            1 => harness.log.cancel(first),
            2 => {
                harness.reconnect();
                let (due, _) = harness.log.due().unwrap();
                assert_eq!(harness.log.refused(due, SubmitError::Unsupported), Some(1));
            }
            _ => {
                harness.reconnect();
                harness.log.cancel(first);
            }
        }
        assert_eq!(harness.send(), [1000]);
        harness.log.cancel(second);
        harness.under_way.clear();
        assert!(harness.log.is_idle());
    }
}
