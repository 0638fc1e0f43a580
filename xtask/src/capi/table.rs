//! The functions of the C library, as data.

/// One function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// The release in which it came.
    since: &'static str,
    /// Names and kinds, without the handle.
    pub(crate) arguments: &'static [(&'static str, &'static str)],
    pub(crate) result: &'static str,
    pub(crate) about: &'static [&'static str],
}

impl Function {
    /// The number behind `1.`.
    pub(crate) fn minor(&self) -> u16 {
        self.since.strip_prefix("1.").and_then(|minor| minor.parse().ok()).unwrap_or(u16::MAX)
    }
}

macro_rules! functions {
    ($(
        $(#[doc = $doc:literal])*
        $since:literal $name:ident($($arg:ident: $kind:ident),*) -> $ret:ident
        [$($state:ident)*] $(, clears ($buf:ident, $len:ident))?
        $how:ident |$h:ident| $body:expr;
    )*) => {
        /// All of them, in the order of the header.
        pub(crate) const FUNCTIONS: &[Function] = &[$(Function {
            name: stringify!($name),
            since: $since,
            arguments: &[$((stringify!($arg), stringify!($kind))),*],
            result: stringify!($ret),
            about: &[$($doc),*],
        }),*];
    };
}

include!("../../../libnbd/src/api.rs");

/// Releases in which functions came, in order.
pub(crate) fn releases() -> impl Iterator<Item = u16> {
    let mut releases: Vec<u16> = FUNCTIONS.iter().map(Function::minor).collect();
    releases.sort_unstable();
    releases.dedup();
    releases.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_releases_have() {
        let count = |minor| FUNCTIONS.iter().filter(|one| one.minor() <= minor).count();
        assert_eq!(
            [0, 14, 16, 18, 22, 24].map(count),
            [79, 126, 146, 156, 160, 165],
            "facts of libnbd"
        );
        assert_eq!(releases().collect::<Vec<_>>(), [0, 2, 4, 6, 8, 12, 16, 18, 22, 24]);
    }
}
