//! Sizes as people write them: `4096`, `64K`, `1MiB`, `2tb`.
//!
//! The units are powers of 1024, with or without `iB` or `B` behind them.

/// The units and the powers of two they stand for.
const UNITS: [(char, u32); 6] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// It does not start with a digit.
    #[error("a size is a whole number with an optional unit, such as 4096, 64K or 1G")]
    NoNumber,
    /// What follows the number is no unit.
    #[error("`{0}` is no unit; the units are B, K, M, G, T, P and E, powers of 1024")]
    Unit(String),
    /// More than 64 bits.
    #[error("the size is more than 64 bits can hold")]
    TooLarge,
}

/// Reads a size in bytes.
///
/// # Errors
///
/// When the text has no number in front or no unit behind it, and when the size
/// does not fit in 64 bits.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let shift = shift_of(unit).ok_or_else(|| SizeError::Unit(unit.to_owned()))?;
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or(SizeError::TooLarge)
}

/// Writes a size so that [`parse`] reads the same number: with the largest unit
/// that leaves no remainder.
pub(crate) fn format(size: u64) -> String {
    let exact = UNITS.iter().rev().find(|(_, shift)| size != 0 && size.trailing_zeros() >= *shift);
    match exact {
        Some((unit, shift)) => format!("{}{unit}", size >> shift),
        None => size.to_string(),
    }
}

/// The power of two that a unit stands for.
fn shift_of(unit: &str) -> Option<u32> {
    let mut letters = unit.chars();
    let Some(first) = letters.next().map(|letter| letter.to_ascii_uppercase()) else {
        return Some(0);
    };
    let rest = letters.as_str();
    if first == 'B' && rest.is_empty() {
        return Some(0);
    }
    let (_, shift) = UNITS.iter().find(|(unit, _)| *unit == first)?;
    let known =
        rest.is_empty() || rest.eq_ignore_ascii_case("b") || rest.eq_ignore_ascii_case("ib");
    known.then_some(*shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_powers_of_1024() {
        let sizes = [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4K", 4 << 10),
            ("4k", 4 << 10),
            ("4KiB", 4 << 10),
            ("4kb", 4 << 10),
            ("1M", 1 << 20),
            ("1G", 1 << 30),
            ("1T", 1 << 40),
            ("3P", 3 << 50),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, size) in sizes {
            assert_eq!(parse(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "K", "-1", " 1", "1.5G", "1 M"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse("1X"), Err(SizeError::Unit("X".to_owned())));
        assert_eq!(parse("1Ki"), Err(SizeError::Unit("Ki".to_owned())));
        assert_eq!(parse("1BB"), Err(SizeError::Unit("BB".to_owned())));
        for text in ["16E", "18446744073709551616", "18014398509481984K"] {
            assert_eq!(parse(text), Err(SizeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_the_largest_exact_unit() {
        let sizes = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1K"),
            (1536 << 20, "1536M"),
            (1 << 40, "1T"),
            (u64::MAX, "18446744073709551615"),
        ];
        for (size, text) in sizes {
            assert_eq!(format(size), text);
        }
    }

    proptest! {
        #[test]
        fn written_sizes_are_read_back(number in any::<u64>(), shift in 0u32..64) {
            let size = number << shift;
            prop_assert_eq!(parse(&format(size)), Ok(size));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
