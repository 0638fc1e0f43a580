//! The middle of some rounds, how far they are from it, and how two contenders compare.

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// How one did beside another: the median of each round's ratio. Both met a round with the
/// same machine, and a later one perhaps with a slower one.
pub(super) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    if ours.len() != theirs.len() {
        return None;
    }
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios).filter(|ratio| ratio.is_finite())
}

/// The lowest and the highest value.
pub(super) fn range(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().reduce(f64::min)?;
    Some((low, values.iter().copied().reduce(f64::max)?))
}

/// How far the farthest value is from the median, as a part of it.
pub(super) fn spread(values: &[f64]) -> Option<f64> {
    let (middle, (low, high)) = (median(values)?, range(values)?);
    (middle != 0.0).then(|| (middle - low).max(high - middle) / middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_rounds_not_of_medians() {
        assert_eq!(ratio(&[2.0, 20.0, 300.0], &[1.0, 10.0, 100.0]), Some(2.0));
        assert_eq!(ratio(&[90.0, 20.0, 10.0], &[100.0, 10.0, 20.0]), Some(0.9));
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn a_spread_is_of_the_farthest() {
        assert_eq!(spread(&[100.0, 90.0, 130.0]), Some(0.3));
        assert_eq!(spread(&[0.0]), None);
        assert_eq!(range(&[2.0, 1.0, 3.0]), Some((1.0, 3.0)));
    }
}
