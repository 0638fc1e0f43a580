//! Queueing, sending in pieces, taking back.

use super::*;
use crate::payload::{Buffers, Discard};
use alloc::vec;
use proptest::prelude::*;

fn id(slot: u64) -> RequestId {
    RequestId::from_cookie(slot | 1 << 32)
}

fn gather(outbox: &Outbox, table: &Buffers<Vec<u8>>) -> (Vec<u8>, usize) {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    outbox
        .for_each_unsent(table, |piece| {
            bytes.extend_from_slice(piece);
            pieces += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    (bytes, pieces)
}

#[test]
fn a_run_without_payload_is_one_piece() {
    let mut outbox = Outbox::new();
    for slot in 0..64 {
        outbox.push(&[slot as u8; 28]);
    }
    let (bytes, pieces) = gather(&outbox, &Buffers::new());
    assert_eq!((bytes.len(), pieces), (64 * 28, 1));
}

#[test]
fn a_message_without_its_payload_is_not_begun() {
    let mut outbox = Outbox::new();
    outbox.push(b"first");
    outbox.push_payload(id(0), b"second", 0, 4);
    assert_eq!(gather(&outbox, &Buffers::new()).0, b"first");
    outbox.sent(5, &mut Stats::default(), |_| {}).unwrap();
    let nothing = outbox.for_each_unsent(&Discard, |_| ControlFlow::Continue(()));
    assert_eq!(nothing, Err(ApiMisuse::PayloadMissing.into()));
}

proptest! {
    /// Any mix of messages, cancelled here and there, sent in any pieces, is the
    /// stream of those that were not cancelled.
    #[test]
    fn the_stream_is_the_messages(
        // Few sizes, and one message in five with payload, make long runs.
        messages in prop::collection::vec((1usize..4, 0usize..60, prop::bool::ANY), 1..200),
        cuts in prop::collection::vec(1usize..50, 1..200),
    ) {
        let (mut outbox, mut table, mut expected) = (Outbox::new(), Buffers::new(), Vec::new());
        let mut sequences = Vec::new();
        for (i, (fixed, payload, cancel)) in messages.iter().enumerate() {
            let fixed = vec![i as u8; *fixed];
            let data = vec![!(i as u8); payload.saturating_sub(48)];
            let sequence = match data.len() {
                0 => outbox.push(&fixed),
                len => outbox.push_payload(id(i as u64), &fixed, 0, len),
            };
            prop_assert_eq!(sequence, i as u64 + 1);
            if !cancel {
                expected.extend_from_slice(&fixed);
                expected.extend_from_slice(&data);
            }
            table.insert(id(i as u64), data);
            sequences.push((sequence, *cancel));
        }
        for (sequence, cancel) in sequences {
            if cancel {
                prop_assert!(outbox.cancel(sequence));
            }
        }
        let (mut stream, mut done, mut stats) = (Vec::new(), Vec::new(), Stats::default());
        // Where each message that was not taken back ends in the stream.
        let mut ends = Vec::new();
        for (i, (fixed, payload, cancel)) in messages.iter().enumerate() {
            if !cancel {
                let before = ends.last().map_or(0, |(_, end)| *end);
                ends.push((i as u64 + 1, before + fixed + payload.saturating_sub(48)));
            }
        }
        for cut in cuts.iter().cycle() {
            let (bytes, _) = gather(&outbox, &table);
            prop_assert!(expected.ends_with(&bytes));
            let n = bytes.len().min(*cut);
            stream.extend_from_slice(&bytes[..n]);
            outbox.sent(n, &mut stats, |id| done.push(id)).unwrap();
            for (sequence, end) in &ends {
                prop_assert_eq!(*sequence < outbox.first_unsent(), *end <= stream.len());
            }
            if outbox.is_empty() {
                break;
            }
        }
        prop_assert_eq!(stream, expected);
        let named = |(_, payload, cancel): &&(usize, usize, bool)| *payload > 48 && !cancel;
        prop_assert_eq!(done.len(), messages.iter().filter(named).count());
        prop_assert_eq!(stats.messages_sent, ends.len() as u64);
        prop_assert_eq!(outbox.sent(1, &mut stats, |_| {}), Err(ApiMisuse::SentTooMuch));
    }
}

/// What is sent makes room, even if there is always something that is not.
#[test]
fn a_queue_that_is_never_empty_does_not_grow() {
    let mut outbox = Outbox::new();
    outbox.push(&[0; 28]);
    for _ in 0..10_000 {
        outbox.push(&[0; 28]);
        outbox.sent(28, &mut Stats::default(), |_| {}).unwrap();
        assert!(outbox.fixed.len() < 4 * COMPACT_MIN, "{} bytes", outbox.fixed.len());
    }
    assert!(!outbox.is_empty());
}

/// Whether the last to leave is a part of a message, a whole one or several.
#[test]
fn much_that_has_left_gives_its_room_back() {
    for last in [1, 28, 2 * 28] {
        let mut outbox = Outbox::new();
        outbox.push(&vec![0; 4 * KEPT]);
        outbox.push(&[0; 28]);
        outbox.push(&[0; 28]);
        outbox.sent(outbox.fixed_len() - last, &mut Stats::default(), |_| {}).unwrap();
        outbox.sent(last, &mut Stats::default(), |_| {}).unwrap();
        assert!(outbox.is_empty());
        assert!(outbox.fixed.capacity() <= KEPT, "after {last}: {}", outbox.fixed.capacity());
    }
}

/// Messages that are queued and taken back behind one that is stuck take no room, whether or
/// not there is always one among them that stays.
#[test]
fn what_is_taken_back_takes_no_room() {
    for live in [0, 1, 3, 200] {
        let mut outbox = Outbox::new();
        outbox.push_payload(id(0), &[0; 28], 0, 4096);
        outbox.sent(100, &mut Stats::default(), |_| {}).unwrap();
        let mut waiting = VecDeque::new();
        for round in 0..20_000 {
            let message = &[round as u8; 32][..28 + round % 5];
            waiting.push_back(outbox.push(message));
            if waiting.len() > live {
                assert!(outbox.cancel(waiting.pop_front().unwrap()));
            }
            let most = Entry::MOST as usize * 32 * (live + 1) + 32 * 2 * SWEEP_MIN.max(2 * live);
            let room = outbox.fixed.len();
            assert!(room <= most, "{live} waiting, round {round}: {room} bytes");
            assert!(outbox.queue.len() <= 2 * (live + 1) + 2 * SWEEP_MIN.max(2 * live));
        }
    }
}

/// What may happen to a queue.
#[derive(Clone, Debug)]
enum Happens {
    /// A message of so many bytes, and so many of payload, is queued.
    Queued(usize, usize),
    /// One of those that were queued is taken back, if it can be.
    TakenBack(prop::sample::Index),
    /// So many bytes leave.
    Sent(usize),
}

proptest! {
    /// Messages are taken back at any time, and numbered all the same.
    #[test]
    fn taking_back_never_touches_the_rest(
        happenings in prop::collection::vec(
            prop_oneof![
                4 => (1usize..4, prop::sample::select(&[0usize, 0, 0, 0, 5][..]))
                    .prop_map(|(fixed, payload)| Happens::Queued(fixed, payload)),
                4 => any::<prop::sample::Index>().prop_map(Happens::TakenBack),
                1 => (0usize..12).prop_map(Happens::Sent),
            ],
            0..1000,
        ),
    ) {
        let (mut outbox, mut table) = (Outbox::new(), Buffers::new());
        // What is to come, by message: its number, its bytes, how many of them have left.
        let mut model: VecDeque<(u64, Vec<u8>, usize)> = VecDeque::new();
        let mut all = Vec::new();
        for (i, happens) in happenings.into_iter().enumerate() {
            match happens {
                Happens::Queued(fixed, payload) => {
                    let (mut bytes, data) = (vec![i as u8; fixed], vec![!(i as u8); payload]);
                    let sequence = match payload {
                        0 => outbox.push(&bytes),
                        len => outbox.push_payload(id(i as u64), &bytes, 0, len),
                    };
                    bytes.extend_from_slice(&data);
                    table.insert(id(i as u64), data);
                    model.push_back((sequence, bytes, 0));
                    all.push(sequence);
                }
                Happens::TakenBack(index) if !all.is_empty() => {
                    let sequence = *index.get(&all);
                    let place = model.iter().position(|(s, _, sent)| *s == sequence && *sent == 0);
                    prop_assert_eq!(outbox.cancel(sequence), place.is_some());
                    if let Some(place) = place {
                        model.remove(place);
                    }
                }
                Happens::TakenBack(_) => {}
                Happens::Sent(n) => {
                    let due: usize = model.iter().map(|(_, bytes, sent)| bytes.len() - sent).sum();
                    let mut left = n.min(due);
                    outbox.sent(left, &mut Stats::default(), |_| {}).unwrap();
                    while left > 0 {
                        let (_, bytes, sent) = &mut model[0];
                        let step = left.min(bytes.len() - *sent);
                        *sent += step;
                        left -= step;
                        if *sent == bytes.len() {
                            model.pop_front();
                        }
                    }
                }
            }
            let due: Vec<u8> =
                model.iter().flat_map(|(_, bytes, sent)| bytes[*sent..].to_vec()).collect();
            prop_assert_eq!(gather(&outbox, &table).0, due);
            for sequence in &all {
                let waits = model.iter().any(|(s, _, _)| s == sequence);
                let gone = *sequence < outbox.first_unsent();
                prop_assert!(waits != gone || !waits, "{} waits, and has left", sequence);
            }
            prop_assert_eq!(outbox.is_empty(), model.is_empty());
        }
    }
}
