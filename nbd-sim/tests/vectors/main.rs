//! The golden vectors through `nbd_proto::wire`, both ways.
//!
//! Each vector is written from values given here by hand, and must come out byte for
//! byte; then it is read and written again, and must not have changed.

mod messages;
mod through;

use nbd_sim::transcript::vectors;

#[test]
fn values_become_the_golden_bytes() {
    for vector in vectors().unwrap() {
        let ours = messages::encoded(&vector.name);
        assert_eq!(ours, vector.bytes, "{}", vector.name);
    }
}

#[test]
fn golden_bytes_survive_being_read() {
    for vector in vectors().unwrap() {
        let again = through::read_and_written(&vector.name, &vector.bytes);
        assert_eq!(again, vector.bytes, "{}", vector.name);
    }
}
