//! The server from outside, with exports of the test's own.

mod concurrency;
mod exports;
mod limits;
mod raw;
mod starting;
