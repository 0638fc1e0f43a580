//! What a pool may promise, whoever dies when.

use nbd_proto::{Command, ExportInfo, Negotiated, TransmissionFlags};
use nbd_session::pool::{Flush, Members};
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, Error, ErrorKind};
use proptest::collection::vec;
use proptest::prelude::*;

fn facts(flags: TransmissionFlags) -> Negotiated {
    Negotiated::new(ExportInfo::new(1 << 20, flags))
}

fn safe() -> Negotiated {
    facts(TransmissionFlags::CAN_MULTI_CONN)
}

fn pool(members: usize) -> Members {
    let mut pool = Members::new(members);
    for number in 0..members {
        assert_eq!(pool.join(&safe(), &ConnectOptions::new()), Some(number));
    }
    pool
}

fn failure() -> Error {
    Error::check_payload(&Command::flush(), 1).unwrap_err()
}

#[test]
fn who_may_join() {
    let mut pool = Members::new(3);
    assert!(pool.wants_more() && pool.is_empty());
    assert_eq!(pool.join(&safe(), &ConnectOptions::new()), Some(0));
    assert!(pool.wants_more());
    assert_eq!(pool.join(&safe(), &ConnectOptions::new()), Some(1));
    let other = facts(TransmissionFlags::CAN_MULTI_CONN | TransmissionFlags::READ_ONLY);
    assert_eq!(pool.join(&other, &ConnectOptions::new()), None, "it is another export");
    assert!(!pool.wants_more());
    assert_eq!((pool.len(), pool.alive()), (2, 2));

    let keeps = ConnectOptions::new().reconnect(Reconnect::new().keep_unflushed(1 << 20));
    let parts = ConnectOptions::new().unix("one").unix("two");
    for (facts, options) in [
        (facts(TransmissionFlags::empty()), ConnectOptions::new()),
        (facts(TransmissionFlags::empty()), parts.clone().spread(true)),
        (safe(), keeps.clone()),
        (safe(), parts.clone()),
    ] {
        let mut alone = Members::new(3);
        assert_eq!(alone.join(&facts, &options), Some(0));
        assert!(!alone.wants_more(), "more are not safe");
        assert_eq!(alone.join(&facts, &options), None);
    }
    let read_only = facts(TransmissionFlags::CAN_MULTI_CONN | TransmissionFlags::READ_ONLY);
    for (facts, options) in [(read_only, &keeps), (safe(), &parts.spread(true))] {
        let mut pool = Members::new(2);
        assert_eq!([0, 1].map(|_| pool.join(&facts, options)), [Some(0), Some(1)]);
    }
    let mut pool = Members::new(3);
    pool.join(&safe(), &ConnectOptions::new());
    assert_eq!(pool.join(&safe(), &keeps), None, "what it keeps it would put back");

    let mut pool = Members::new(3);
    pool.join(&safe(), &ConnectOptions::new());
    pool.no_room();
    assert!(!pool.wants_more());
    let mut one = Members::new(1);
    one.join(&safe(), &ConnectOptions::new());
    assert!(!one.wants_more());
}

#[test]
fn each_connection_that_is_spread_begins_with_another_server() {
    let options = ConnectOptions::new().unix("one").unix("two");
    let first = |options: &ConnectOptions, number| {
        options.for_member(number).endpoints().first().map(ToString::to_string)
    };
    let spread = options.clone().spread(true);
    assert_eq!(first(&spread, 0), first(&options, 0));
    assert_ne!(first(&spread, 1), first(&options, 0));
    assert_eq!(first(&spread, 2), first(&options, 0));
    assert_eq!(first(&options, 1), first(&options, 0));
    assert!(ConnectOptions::new().spread(true).for_member(1).endpoints().is_empty());
}

#[test]
fn calls_go_to_who_has_the_least_to_do_and_take_turns() {
    let mut pool = pool(3);
    let picked: Vec<_> = (0..6).map(|_| pool.pick(usize::MAX).unwrap()).collect();
    assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    pool.finished(1);
    assert_eq!(pool.pick(usize::MAX), Some(1));
    // One at a time for each.
    assert_eq!(pool.pick(1), None);
    for number in [2, 2, 0, 0, 1, 1] {
        pool.finished(number);
    }
    assert_eq!(
        [pool.pick(1), pool.pick(1), pool.pick(1), pool.pick(1)],
        [Some(0), Some(2), Some(1), None]
    );
    pool.finished(2);
    assert!(!pool.pick_one(0, 1) && pool.pick_one(2, 1) && !pool.pick_one(2, 1));
    pool.died(0, false);
    pool.finished(0);
    assert!(!pool.pick_one(0, 1));
    pool.died(1, false);
    pool.died(2, false);
    assert_eq!((pool.pick(usize::MAX), pool.alive()), (None, 0));
    assert!(!pool.is_worth_another(&Command::read(0, 1)));
}

#[test]
fn what_is_tried_again() {
    let mut pool = pool(2);
    pool.died(0, false);
    for harmless in [Command::read(0, 1), Command::cache(0, 1), Command::block_status(0, 1)] {
        assert!(pool.is_worth_another(&harmless));
    }
    for other in
        [Command::write(0, 1), Command::write_zeroes(0, 1), Command::trim(0, 1), Command::flush()]
    {
        assert!(!pool.is_worth_another(&other), "{other}");
    }
}

#[test]
fn a_loss_is_told_once_and_to_all_who_were_under_way() {
    let mut pool = pool(3);
    let unflushed = |number| number != 2;
    let (mut one, other) = (pool.begin_flush(unflushed), pool.begin_flush(unflushed));
    assert_eq!(one.members(), [0, 1]);
    pool.died(0, true);
    assert_eq!(pool.farewell().unwrap_err().kind(), ErrorKind::Recovery);
    pool.flushed(&mut one, Err(failure()));
    pool.flushed(&mut one, Ok(()));
    assert_eq!(pool.end_flush(one).unwrap_err().kind(), ErrorKind::NotSent);
    let error = pool.end_flush(other).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Recovery, 5));
    pool.farewell().unwrap();
    let mut later = pool.begin_flush(|_| false);
    assert_eq!(later.members(), [1], "for what others have written");
    pool.flushed(&mut later, Ok(()));
    pool.end_flush(later).unwrap();
    // One that died when nobody flushed.
    pool.died(1, true);
    let next = pool.begin_flush(|_| true);
    assert_eq!(next.members(), [2]);
    assert_eq!(pool.end_flush(next).unwrap_err().kind(), ErrorKind::Recovery);
    // Nobody is left, and nothing was lost with the last one.
    pool.died(2, false);
    pool.died(2, true);
    assert!(pool.begin_flush(|_| true).members().is_empty());
    pool.farewell().unwrap();
}

/// Who finds a member dead that had nothing to flush has lost nothing, and another will do.
#[test]
fn a_flush_for_others_is_tried_on_another_member() {
    let mut pool = pool(2);
    let mut flush = pool.begin_flush(|_| false);
    let [first] = *flush.members() else { panic!("one will do: {flush:?}") };
    pool.died(first, false);
    pool.flushed(&mut flush, Err(failure()));
    let [_, second] = *flush.members() else { panic!("another will do: {flush:?}") };
    assert_ne!(second, first);
    pool.flushed(&mut flush, Ok(()));
    pool.end_flush(flush).expect("nothing was lost");
    let mut flush = pool.begin_flush(|_| false);
    pool.died(second, false);
    pool.flushed(&mut flush, Err(failure()));
    assert_eq!(flush.members(), [second], "there is no other");
    pool.end_flush(flush).expect_err("nobody has flushed");
}

/// One call where there are two members, or one for each that has something to flush.
#[test]
fn a_call_goes_on_until_its_caller_can_be_told() {
    let mut pool = pool(2);
    let mut read = pool.begin_call(Command::read(0, 512), |_| true);
    let first = pool.next_member(&mut read, 1).expect("both are free");
    assert!(matches!(pool.called(&mut read, Ok(())), Some(Ok(()))));
    let mut read = pool.begin_call(Command::read(0, 512), |_| true);
    let second = pool.next_member(&mut read, 1).expect("both are free");
    assert_ne!(first, second, "they take turns");
    pool.died(second, false);
    assert!(pool.called(&mut read, Err(failure())).is_none(), "another one will do");
    assert_eq!(pool.next_member(&mut read, 1), Some(first));
    let mut other = pool.begin_call(Command::read(0, 512), |_| true);
    assert_eq!(pool.next_member(&mut other, 1), None, "it is busy");
    assert_eq!(pool.next_member(&mut other, 2), Some(first));
    // A failure of the command's own is its caller's.
    assert!(matches!(pool.called(&mut read, Err(failure())), Some(Err(_))));
    let mut write = pool.begin_call(Command::write(0, 512), |_| true);
    assert_eq!(pool.next_member(&mut write, 2), Some(first));
    pool.died(first, true);
    assert!(matches!(pool.called(&mut write, Err(failure())), Some(Err(_))), "not once more");
    assert!(matches!(pool.called(&mut other, Err(failure())), Some(Err(_))), "nobody is left");
}

#[test]
fn a_flush_is_one_call_of_all_that_it_concerns() {
    let mut pool = pool(3);
    let mut flush = pool.begin_call(Command::flush(), |number| number != 1);
    assert_eq!(pool.next_member(&mut flush, 1), Some(0));
    assert!(pool.called(&mut flush, Ok(())).is_none());
    assert_eq!(pool.next_member(&mut flush, 1), Some(2));
    pool.died(2, true);
    let told = pool.called(&mut flush, Err(failure())).expect("that was all");
    assert_eq!(told.unwrap_err().kind(), ErrorKind::NotSent);
    pool.farewell().expect("it was told");
    pool.leave().expect("nothing was lost since");
    assert!(!pool.wants_more());
    assert_eq!(pool.join(&safe(), &ConnectOptions::new()), None, "it would never be ended");
    pool.farewell().expect("nothing was lost since");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A write is acknowledged on a member.
    Write(usize),
    Begin,
    /// The next member of one of the flushes under way is flushed.
    Go(usize),
    Die(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Step::Write),
        3 => Just(Step::Begin),
        6 => (0..8_usize).prop_map(Step::Go),
        1 => (0..4_usize).prop_map(Step::Die),
    ]
}

/// A flush under way, in the model.
struct Running {
    flush: Flush,
    next: usize,
    /// Writes that were acknowledged before, and losses that somebody was told of.
    covers: u64,
    told: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No flush that succeeds vouches for a write that is lost, unless another flush has failed
    /// for that before it began.
    #[test]
    fn no_flush_lies(steps in vec(steps(), 1..120)) {
        let mut pool = pool(4);
        // Each write has a number; a member's are durable up to some number.
        let (mut writes, mut lost_at) = (0_u64, Vec::<(u64, u64)>::new());
        let mut acknowledged = [const { Vec::<u64>::new() }; 4];
        let mut failed_flushes = 0_u64;
        let mut running: Vec<Running> = Vec::new();
        for step in steps {
            match step {
                Step::Write(member) if pool.is_alive(member) => {
                    writes += 1;
                    acknowledged[member].push(writes);
                }
                Step::Die(member) if pool.is_alive(member) => {
                    let unflushed = std::mem::take(&mut acknowledged[member]);
                    pool.died(member, !unflushed.is_empty());
                    lost_at.extend(unflushed.into_iter().map(|write| (write, failed_flushes)));
                }
                Step::Begin => {
                    let flush = pool.begin_flush(|member| !acknowledged[member].is_empty());
                    running.push(Running { flush, next: 0, covers: writes, told: failed_flushes });
                }
                Step::Go(which) if !running.is_empty() => {
                    let which = which % running.len();
                    let one = &mut running[which];
                    if let Some(member) = one.flush.members().get(one.next).copied() {
                        one.next += 1;
                        let result = if pool.is_alive(member) {
                            acknowledged[member].clear();
                            Ok(())
                        } else {
                            Err(failure())
                        };
                        pool.flushed(&mut one.flush, result);
                        continue;
                    }
                    let Running { flush, covers, told, .. } = running.remove(which);
                    let nobody = flush.members().is_empty();
                    let result = pool.end_flush(flush);
                    if result.is_err() {
                        failed_flushes += 1;
                        continue;
                    }
                    prop_assert!(nobody || acknowledged.iter().flatten().all(|one| *one > covers));
                    for (write, before) in &lost_at {
                        // Told by a flush that failed after the loss and before this one began.
                        prop_assert!(*write > covers || *before < told, "write {}", write);
                    }
                }
                _ => {}
            }
        }
    }
}
