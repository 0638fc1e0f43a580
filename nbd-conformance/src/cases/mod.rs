//! The cases, by subject.

mod crowds;
mod endings;
mod exports;
mod facts;
mod files;
mod lacking;
mod lasting;
mod limits;
mod older;
mod options;
mod pools;
mod reads;
mod refusals;
mod status;
mod tls;
mod trouble;
mod writes;
mod zeroes;

use crate::case::Case;

/// Every case there is.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let tables = [
        facts::CASES,
        reads::CASES,
        writes::CASES,
        zeroes::CASES,
        status::CASES,
        crowds::CASES,
        refusals::CASES,
        exports::CASES,
        options::CASES,
        endings::CASES,
        trouble::CASES,
        tls::CASES,
        lacking::CASES,
        older::CASES,
        lasting::CASES,
        limits::CASES,
        pools::CASES,
        files::CASES,
    ];
    tables.into_iter().flatten()
}
