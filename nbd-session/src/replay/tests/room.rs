//! Room among the kept ones: who takes it, who waits for it, who gives it back.

use super::*;

#[test]
fn a_flush_makes_room_and_writes_wait_for_it() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 499));
    assert_eq!(desk.send(), []);
    desk.written(2, Command::write(500, 1));
    assert_eq!(desk.send(), [FLUSH], "half of the room is used");
    desk.submit(3, Command::write(1000, 400));
    desk.submit(4, Command::write(2000, 200));
    desk.submit(5, Command::write(3000, 1));
    desk.submit(6, Command::read(3000, 1));
    assert_eq!(desk.send(), [1000, 3000], "a read needs no room");
    assert_eq!(desk.succeed(0), None);
    assert_eq!(desk.send(), [2000, 3000]);
    // One that is larger than the room is sent alone.
    desk.submit(7, Command::write(0, 5000));
    assert_eq!(desk.send(), []);
    for _ in 0..4 {
        desk.succeed(0);
    }
    assert_eq!(desk.send(), [FLUSH]);
    desk.succeed(0);
    assert_eq!(desk.send(), [0]);
    desk.succeed(0);
    assert_eq!(desk.send(), [FLUSH]);
}

#[test]
fn the_number_of_kept_commands_is_bounded() {
    let mut desk = Desk::new(KEEP.keep_unflushed(u64::MAX));
    for token in 0..2047 {
        desk.written(token, Command::trim(u64::from(token) * 10, 10));
    }
    assert_eq!(desk.send(), []);
    desk.written(2047, Command::trim(1 << 19, 10));
    assert_eq!(desk.send(), [FLUSH]);
    // As many again, while the flush is under way, and no more.
    for token in 2048..4096 {
        desk.submit(token, Command::trim(u64::from(token) * 10, 10));
        assert_eq!(desk.send().len(), 1);
        assert_eq!(desk.succeed(1), Some(token));
    }
    desk.submit(4096, Command::trim(0, 10));
    assert_eq!(desk.send(), []);
    desk.succeed(0);
    // Another one, for what was acknowledged behind the first.
    assert_eq!(desk.send(), [0, FLUSH]);
    desk.succeed(0);
    desk.succeed(0);
    desk.reconnect();
    assert_eq!(desk.send(), [0]);
}

#[test]
fn room_is_taken_to_the_last_byte() {
    for (length, first) in [(900, 1000), (901, FLUSH)] {
        let mut desk = Desk::new(KEEP);
        desk.written(1, Command::write(0, 100));
        desk.submit(2, Command::write(1000, length));
        assert_eq!(desk.send(), [first], "{length}");
    }
}

#[test]
fn who_waits_for_room_is_told_when_there_will_be_none() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 900));
    assert_eq!(desk.send(), [FLUSH]);
    desk.submit(2, Command::write(1000, 200));
    desk.submit(3, Command::write(1100, 1));
    desk.submit(4, Command::write(5000, 300));
    assert_eq!(desk.answer(0, IO), None);
    let failed = |token| Some((token, RecoveryError::CannotFlush(Errno::Io)));
    assert_eq!(desk.log.poll_failed(), failed(2));
    // What fits goes; the flush is tried again only because somebody waits for it.
    assert_eq!(desk.log.poll_failed(), None);
    assert_eq!(desk.send(), [1100, FLUSH]);
    assert_eq!(desk.answer(1, IO), None);
    assert_eq!(desk.log.poll_failed(), failed(4));
    assert_eq!(desk.send(), []);
    desk.submit(5, Command::write(2000, 200));
    assert_eq!(desk.send(), [FLUSH]);
    assert_eq!(desk.succeed(1), None);
    assert_eq!(desk.send(), [2000]);
}

#[test]
fn who_never_had_room_gives_none_back() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 900));
    assert_eq!(desk.send(), [FLUSH]);
    let waiting = desk.submit(2, Command::write(1000, 200));
    desk.log.cancel(waiting);
    desk.submit(3, Command::write(2000, 200));
    assert_eq!(desk.send(), []);
    assert_eq!(desk.succeed(0), None);
    assert_eq!(desk.send(), [2000]);
}

#[test]
fn room_comes_back_from_what_failed_or_was_cancelled() {
    let mut desk = Desk::new(KEEP);
    for round in 0..4 {
        let first = desk.submit(1, Command::write(0, 600));
        assert_eq!(desk.send(), [0], "{round}");
        let second = desk.submit(2, Command::write(1000, 600));
        assert_eq!(desk.send(), []);
        match round {
            0 => drop(desk.answer(0, IO)),
            1 => desk.log.cancel(first),
            2 => {
                desk.reconnect();
                let (due, _) = desk.log.due().unwrap();
                assert_eq!(desk.log.refused(due, SubmitError::Unsupported), Some(1));
            }
            _ => {
                desk.reconnect();
                desk.log.cancel(first);
            }
        }
        assert_eq!(desk.send(), [1000]);
        desk.log.cancel(second);
        desk.under_way.clear();
        assert!(desk.log.is_idle());
    }
}
