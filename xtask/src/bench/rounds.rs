//! Who is measured when.

use crate::Outcome;

/// So many rounds in which each has its turn; a list for each comes out.
///
/// Nobody's turn is always the first or always behind the same other one: what a program
/// leaves to the next, such as a rested or a heated processor, would count as speed.
pub(super) fn in_turns<T>(
    rounds: usize,
    turns: usize,
    mut measure: impl FnMut(usize) -> Outcome<T>,
) -> Outcome<Vec<Vec<T>>> {
    let mut results: Vec<_> = (0..turns).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for place in 0..turns {
            let turn = turn_at(round, place, turns);
            results[turn].push(measure(turn)?);
        }
    }
    Ok(results)
}

/// Each round begins with the next one; after a cycle of rounds it goes the other way round.
const fn turn_at(round: usize, place: usize, turns: usize) -> usize {
    let backwards = (round / turns) % 2 == 1;
    let place = if backwards { turns - 1 - place } else { place };
    (round + place) % turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_turn_a_round_and_every_place_in_time() {
        const TURNS: usize = 3;
        let mut order = Vec::new();
        let measured = in_turns(2 * TURNS, TURNS, |turn| {
            order.push(turn);
            Ok(turn)
        });
        let measured = measured.expect("nothing fails");
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1, 2, 1, 0, 0, 2, 1, 1, 0, 2]);
        assert_eq!(measured, [[0; 2 * TURNS], [1; 2 * TURNS], [2; 2 * TURNS]]);
    }
}
