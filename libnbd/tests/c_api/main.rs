//! The library as programs in C and other languages see it.

mod consumers;
mod interface;
mod ocaml;
mod python;
mod rig;
mod semantics;
