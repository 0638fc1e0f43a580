//! Who is measured when, and whose numbers count.

use super::data::{Rounds, Row, Sample};
use crate::Outcome;

/// So many rounds in which each has its turn, after a trial that nobody takes the time of; the
/// rounds of each come out. Who fails once, in the trial or in a round, has no numbers.
pub(super) fn race<T>(
    rounds: usize,
    contenders: &[T],
    mut try_out: impl FnMut(&T) -> Outcome,
    mut measure: impl FnMut(&T) -> Outcome<Sample>,
) -> Vec<Rounds> {
    let tried = contenders.iter().map(|one| try_out(one).map(|()| Vec::with_capacity(rounds)));
    let mut results: Vec<Outcome<Vec<Sample>>> = tried.collect();
    for round in 0..rounds {
        for place in 0..contenders.len() {
            let turn = turn_at(round, place, contenders.len());
            let Ok(samples) = &mut results[turn] else { continue };
            match measure(&contenders[turn]) {
                Ok(sample) => samples.push(sample),
                Err(error) => results[turn] = Err(error),
            }
        }
    }
    let told = |result: Outcome<Vec<Sample>>| match result {
        Ok(samples) => Row::collect(samples),
        Err(error) => {
            eprintln!("    failed: {error}");
            Rounds::Failed(brief(&error))
        }
    };
    results.into_iter().map(told).collect()
}

/// What of an error is kept: neither the many lines of a program nor names of files.
pub(super) fn brief(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let words = line.split_whitespace().map(|word| if word.contains('/') { "..." } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Each round begins with the next one, and goes the other way round than the one before.
///
/// Nobody's turn is always the first or always behind the same other one: what a program
/// leaves to the next, such as a rested or a heated processor, would count as speed.
const fn turn_at(round: usize, place: usize, turns: usize) -> usize {
    let backwards = round % 2 == 1;
    let place = if backwards { turns - place } else { place };
    (round + place) % turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: usize) -> Sample {
        Sample::from([("n".to_owned(), value as f64)])
    }

    #[test]
    fn everybody_has_one_turn_a_round_and_every_place_in_time() {
        let mut order = Vec::new();
        let measured = race(
            6,
            &[0, 1, 2],
            |_| Ok(()),
            |turn| {
                order.push(*turn);
                Ok(sample(*turn))
            },
        );
        assert_eq!(order, [0, 1, 2, 1, 0, 2, 2, 0, 1, 0, 2, 1, 1, 2, 0, 2, 1, 0]);
        let each = |turn: usize| Row::collect(vec![sample(turn); 6]);
        assert_eq!(measured, [each(0), each(1), each(2)]);
    }

    #[test]
    fn no_names_of_files_are_kept() {
        let error = "`nbd-bench --size 4k nbd+unix:///?socket=/tmp/x/s` ended with 1:\nmore\n";
        assert_eq!(brief(error), "`nbd-bench --size 4k ... ended with 1:");
    }

    #[test]
    fn who_fails_once_has_no_numbers_and_no_more_turns() {
        let mut turns = [0; 3];
        let measured = race(
            3,
            &[0, 1, 2],
            |turn| if *turn == 0 { Err("wrong data".to_owned()) } else { Ok(()) },
            |turn| {
                turns[*turn] += 1;
                match (*turn, turns[*turn]) {
                    (1, 2) => Err("killed".to_owned()),
                    _ => Ok(sample(*turn)),
                }
            },
        );
        assert_eq!(turns, [0, 2, 3]);
        assert_eq!(measured[0], Rounds::Failed("wrong data".to_owned()));
        assert_eq!(measured[1], Rounds::Failed("killed".to_owned()));
        assert_eq!(measured[2], Row::collect(vec![sample(2); 3]));
    }
}
