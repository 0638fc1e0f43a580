//! What the first bytes of an export look like, as file(1) sees it.

use std::io::Write;
use std::process::{Command, Stdio};

use nbd_client_blocking::Client;

/// How much of it is looked at, in bytes.
const LOOKED_AT: u64 = 8192;

/// Words of file(1); nothing where it cannot be read or asked.
pub(super) fn of(client: &mut Client) -> Option<String> {
    let block = u64::from(client.export().minimum_block());
    let mut start = vec![0; client.size().min(LOOKED_AT.next_multiple_of(block)) as usize];
    if !start.is_empty() && client.read_exact_at(&mut start, 0).is_err() {
        return None;
    }
    let mut file = Command::new("file");
    file.args(["--brief", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = file.stderr(Stdio::null()).spawn().ok()?;
    // It may have seen enough before the end.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&start));
    let output = child.wait_with_output().ok()?;
    let words = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    (output.status.success() && !words.is_empty()).then_some(words)
}
