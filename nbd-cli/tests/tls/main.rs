//! `nbd serve` behind TLS, met by the clients people use and by this program's
//! own; and what becomes of clients and credentials that do not fit.

mod credentials;
mod ours;
mod psk;
mod refusals;
mod reload;
mod support;
mod survive;
mod tools;
mod unruly;
