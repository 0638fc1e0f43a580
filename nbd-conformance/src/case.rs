//! One case, and where it can run.

use std::error::Error;

use crate::fixture::Fixture;
use crate::site::{Kind, Security};

/// How a case ends, unless it panics.
pub(crate) type CaseResult = Result<(), Box<dyn Error>>;

/// One thing that every adapter must do alike.
#[derive(Debug)]
pub struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: fn(&mut Fixture<'_>) -> CaseResult,
}

/// What keeps a case from running everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// Only these servers can do it, because …
    Server(&'static [Kind], &'static str),
    /// Security adds nothing, because …
    PlainOnly(&'static str),
    /// There must be something to get wrong.
    SomeTls,
}

impl Case {
    pub(crate) const fn new(
        name: &'static str,
        needs: &'static [Need],
        run: fn(&mut Fixture<'_>) -> CaseResult,
    ) -> Self {
        Self { name, needs, run }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it runs in the cells of a server and a security, for every adapter.
    #[must_use]
    pub fn fits(&self, kind: Kind, security: Security) -> bool {
        self.needs.iter().all(|need| match need {
            Need::Server(kinds, _) => kinds.contains(&kind),
            Need::PlainOnly(_) => security == Security::Plain,
            Need::SomeTls => security != Security::Plain,
        })
    }

    /// Why it does not run everywhere; nothing for a case that does.
    pub fn reasons(&self) -> impl Iterator<Item = &'static str> {
        self.needs.iter().map(|need| match need {
            Need::Server(_, why) | Need::PlainOnly(why) => *why,
            Need::SomeTls => "without TLS there is nothing to get wrong",
        })
    }

    pub(crate) fn run(&self, fixture: &mut Fixture<'_>) -> CaseResult {
        (self.run)(fixture)
    }
}

/// Makes a table of the functions of a module, each with what it needs.
macro_rules! cases {
    ($($run:ident $([$($need:expr),*])?),* $(,)?) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[
            $($crate::case::Case::new(stringify!($run), &[$($($need),*)?], $run)),*
        ];
    };
}

pub(crate) use cases;
