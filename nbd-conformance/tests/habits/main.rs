//! Lines as they are written by habit, by who knows std, tokio, reqwest, sqlx and others but not
//! these crates. That they compile is the test.

mod blocking;
mod others;
mod tokio;

#[test]
fn what_is_written_by_habit_compiles() {
    blocking::all();
    tokio::all();
    others::all();
}
