//! Walking over the extents of an export, as long as the server's answers lead somewhere.

use std::ops::Range;
use std::task::Poll;
use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{ClientConfig, ContextId, Extent, HeaderStyle, RequestId};
use nbd_client_blocking::session::extents::{ExtentWalk, Segment, StatusQuery};
use nbd_client_blocking::{Client, Pipeline};

use crate::failure::{Context, Failure, Result};
use crate::target::Server;

/// An answer about fewer bytes leads nowhere, unless that is all that was asked about.
const LITTLE: u64 = 4096;

/// Calls `each` for every segment of a range, by these meta contexts, in order.
pub(crate) fn walk(
    client: &mut Client,
    server: &Server,
    contexts: &[&str],
    range: Range<u64>,
    limit: Option<Duration>,
    mut each: impl FnMut(Segment) -> Result<()>,
) -> Result<()> {
    let name = &server.name;
    let mut walk = ExtentWalk::new(client.negotiated(), contexts, range).context(name)?;
    let mut pipeline: Pipeline<'_, Vec<u8>> = client.pipeline();
    let mut asked: Vec<(RequestId, u64)> = Vec::new();
    let mut progress = Progress::new(limit, Instant::now());
    loop {
        while let Some(query) = walk.next_query() {
            ask(query, &mut walk, &mut pipeline, &mut asked);
        }
        match walk.next_segment() {
            Poll::Ready(Some(segment)) => {
                each(segment.context(name)?)?;
                continue;
            }
            Poll::Ready(None) => return Ok(()),
            Poll::Pending => {}
        }
        let Some(done) = pipeline.wait() else {
            return Err(Failure::new(format!("{name}: the server closed the connection")));
        };
        let Some(place) = asked.iter().position(|(id, _)| *id == done.id) else { continue };
        let (_, number) = asked.swap_remove(place);
        let told = told(&done.extents);
        if !progress.made(told, done.command.length, Instant::now()) {
            return Err(Failure::new(format!(
                "{name}: the server tells of {told} bytes at a time: too little to come to an \
                 end; --timeout waits longer"
            )));
        }
        walk.answered(number, done.result.map(|()| &done.extents[..]));
    }
}

/// What is told when a server has no such context.
pub(crate) fn no_context(server: &Server, context: &str, limit: Option<Duration>) -> Failure {
    let name = &server.name;
    let has = there_are(server, limit);
    Failure::new(format!("{name}: the server has no meta context `{context}`; {has}"))
}

/// Which meta contexts there are, in words.
fn there_are(server: &Server, limit: Option<Duration>) -> String {
    let options = server.negotiate(ClientConfig::new(), limit);
    let contexts = options.and_then(|mut options| {
        let contexts = match options.negotiated().headers {
            HeaderStyle::Simple => Ok(Vec::new()),
            _ => options.list_meta_contexts(&[]).context("it does not tell which it has"),
        };
        let _ = options.abort();
        contexts
    });
    match contexts {
        Ok(contexts) if contexts.is_empty() => "it has none".to_owned(),
        Ok(contexts) => {
            let names: Vec<_> = contexts.iter().map(|context| context.name.as_str()).collect();
            format!("it has {}", names.join(", "))
        }
        Err(failure) => failure.to_string(),
    }
}

fn ask(
    query: StatusQuery,
    walk: &mut ExtentWalk,
    pipeline: &mut Pipeline<'_, Vec<u8>>,
    asked: &mut Vec<(RequestId, u64)>,
) {
    match pipeline.submit_request(walk.request(&query), None) {
        Ok(id) => asked.push((id, query.number)),
        Err(rejected) if rejected.error.is_full() && !asked.is_empty() => {
            walk.not_sent(query.number);
        }
        Err(rejected) => walk.answered(query.number, Err(rejected.error)),
    }
}

/// How many bytes an answer is about, by its first context.
fn told(extents: &[(ContextId, Extent)]) -> u64 {
    let first = extents.first().map(|(context, _)| *context);
    let of_it = extents.iter().filter(|(context, _)| Some(*context) == first);
    of_it.fold(0, |sum, (_, extent)| sum.saturating_add(extent.length))
}

/// When an answer last led somewhere.
struct Progress {
    limit: Option<Duration>,
    since: Instant,
}

impl Progress {
    const fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, since: now }
    }

    /// Whether to go on, after an answer about so many bytes of those that were asked about.
    fn made(&mut self, told: u64, asked: u64, now: Instant) -> bool {
        if told >= LITTLE.min(asked) {
            self.since = now;
        }
        self.limit.is_none_or(|limit| now.duration_since(self.since) <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_for_too_long_is_no_headway() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(Some(Duration::from_secs(30)), start);
        assert!(progress.made(1, 1 << 20, at(29)));
        assert!(progress.made(LITTLE, 1 << 20, at(100)));
        assert!(progress.made(1, 1 << 20, at(130)));
        // All that was asked about is enough, however little.
        assert!(progress.made(5, 5, at(200)));
        assert!(progress.made(1, 1 << 20, at(230)));
        assert!(!progress.made(LITTLE - 1, 1 << 20, at(231)));
        let mut endless = Progress::new(None, start);
        assert!(endless.made(0, 1, at(1 << 30)));
    }
}
