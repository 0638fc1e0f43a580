//! Recorded sessions, played to either side.
//!
//! The oracle tells what the recorded client asked and when. [`ClientScript`] makes
//! our client ask the same at the same points of the server's bytes, whose cookies
//! are changed to those our client gives out. [`ServerScript`] gives the client's
//! bytes to our server, with an application behind it that is always the same.
//! Played in different deliveries and cuts, either must come to the same end. With
//! [`Harm`] done to the bytes, the end may be any, but not a panic.

mod client;
mod harm;
mod script;
mod server;

pub use client::ClientTrace;
pub use harm::Harm;
pub use script::{Action, ClientScript, Item};
pub use server::{ServerScript, ServerTrace};
