//! No script makes a client allocate 16 MiB beyond its buffers, nor a server.
//!
//! This is a test binary of its own with one test in it: the allocator counts for
//! the whole process.

use std::alloc::System;

use nbd_proto::{Command, CommandType};
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::all;
use nbd_sim::rude;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MOST: usize = 16 << 20;

/// What a command may take: its buffer, and what is sent of it.
fn payload(command: &Command) -> usize {
    match command.kind {
        CommandType::Read | CommandType::Write => 2 * command.length as usize,
        _ => 0,
    }
}

/// Everything that is ever allocated is counted, whether or not it was freed again: the
/// peak is below that.
#[test]
fn no_case_makes_a_machine_allocate_much() {
    let mut largest = (0, "none");
    for case in all() {
        let buffers: usize = case.commands.iter().map(payload).sum();
        let region = Region::new(ALLOCATOR);
        let seen = case.play(Delivery::Whole, None);
        let allocated = region.change().bytes_allocated.saturating_sub(buffers.min(MOST));
        drop(seen);
        assert!(allocated < MOST, "{}: {allocated} bytes", case.id);
        largest = largest.max((allocated, case.id));
    }
    println!("at most {} bytes, in {}", largest.0, largest.1);
    assert!(largest.0 > 64 << 10, "the allocator must count");
    for case in rude::all() {
        let region = Region::new(ALLOCATOR);
        let heard = case.play(Delivery::Offered);
        let allocated = region.change().bytes_allocated;
        drop(heard);
        assert!(allocated < MOST, "{}: {allocated} bytes", case.id);
    }
}
