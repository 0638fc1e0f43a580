//! What stands behind a task on the command line.

use std::str::FromStr;

use crate::Outcome;

/// The value of an option that says how many, which is not none.
pub(crate) fn how_many<T: FromStr + Default + PartialOrd>(option: &str, value: &str) -> Outcome<T> {
    let number = value.parse().ok().filter(|number| *number > T::default());
    number.ok_or_else(|| format!("{option} wants a number above 0, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_no_number() {
        assert_eq!(how_many("--rounds", "7"), Ok(7_u32));
        for value in ["0", "-1", "", "many", "4294967296"] {
            let told = how_many::<u32>("--rounds", value).expect_err(value);
            assert_eq!(told, format!("--rounds wants a number above 0, not {value:?}"));
        }
    }
}
