//! The oracle against real sessions, golden vectors and every rule it knows.

mod transcripts;
