//! `nbd serve` against the clients people use, and against clients that do not
//! behave.

mod lifecycle;
mod listening;
mod options;
mod rude;
mod shell;
mod support;
mod surroundings;
mod tools;
mod unruly;
