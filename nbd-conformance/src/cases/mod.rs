//! The cases, by subject.

mod abilities;
mod concurrency;
mod endings;
mod exports;
mod failures;
mod files;
mod limits;
mod negotiated;
mod oldstyle;
mod options;
mod pools;
mod reads;
mod reconnect;
mod refusals;
mod status;
mod tls;
mod writes;
mod zeroes;

use crate::case::Case;

/// Every case there is.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let tables = [
        negotiated::CASES,
        reads::CASES,
        writes::CASES,
        zeroes::CASES,
        status::CASES,
        concurrency::CASES,
        refusals::CASES,
        exports::CASES,
        options::CASES,
        endings::CASES,
        failures::CASES,
        tls::CASES,
        abilities::CASES,
        oldstyle::CASES,
        reconnect::CASES,
        limits::CASES,
        pools::CASES,
        files::CASES,
    ];
    tables.into_iter().flatten()
}
