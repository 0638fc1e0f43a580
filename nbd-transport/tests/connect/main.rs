//! Connecting to servers, real ones and such as do not answer.

mod dial;
mod programs;
mod sockets;
mod support;
