//! Reading an export.

use std::collections::BTreeMap;
use std::time::Instant;

use nbd_client_blocking::proto::CommandType;

use super::connected::{ALLOCATION, Connected};
use super::map::Map;
use super::request_size;
use super::silence::Silence;
use super::window::Window;
use crate::copy::job::Job;
use crate::copy::piece::PieceSender;
use crate::copy::sparse;
use crate::failure::{Context, Result};

/// How many reads may overtake the oldest, for each one in flight. What comes early is kept
/// by a destination that needs it in order.
const OVERTAKING: usize = 4;

/// Sends every byte on of the regions it takes.
pub(in crate::copy) fn read_all(
    source: Connected,
    job: &Job,
    sender: &PieceSender<'_>,
) -> Result<()> {
    let Connected { server, mut client, limit, .. } = source;
    let allocation = client.context(ALLOCATION);
    let (name, plan) = (server.name, &job.plan);
    let mut map = Map::new(&client, allocation, job);
    let longest = client.session().max_request();
    let mut window = Window::new(plan, request_size(&client, plan), longest);
    let mut pipeline = client.pipeline();
    let silence = Silence::new(&name, limit, &job.stop);
    let mut order = Order::new(plan.requests * OVERTAKING);
    while !job.stop.is_requested() {
        map.ask(&mut pipeline).context(&name)?;
        while pipeline.in_flight() < window.requests() && order.has_room() {
            let Some(range) = map.next(window.request()) else {
                break;
            };
            if range.start >= job.until() {
                continue;
            }
            let buffer = job.memory.buffer((range.end - range.start) as usize);
            pipeline.read(buffer, range.start).context(&name)?;
            order.submitted(range.start);
            window.sent(range.start, Instant::now);
        }
        let Some(done) = silence.wait(&mut pipeline)? else {
            break;
        };
        if done.command.kind == CommandType::BlockStatus {
            match done.result {
                // To know of holes only saves reading them.
                Err(error) if error.command_failure().is_some() => map.give_up(),
                result => {
                    result.context(&name)?;
                    map.learn(&done.extents, sender)?;
                }
            }
            continue;
        }
        done.result.context(&name)?;
        order.finished(done.command.offset);
        if window.answered(done.command.offset, Instant::now) {
            order.limit = window.requests() * OVERTAKING;
            job.distance.is_far();
        }
        if let Some(buffer) = done.buffer {
            job.let_pass(buffer.len() as u64);
            sparse::send(sender, done.command.offset, buffer, &job.memory, plan.sparse)?;
        }
    }
    job.progress.connected(pipeline.client().session().stats().connections);
    drop(pipeline);
    if !job.stop.is_requested() {
        // All is here, however the goodbye goes. Nobody wants what is in flight otherwise.
        let _ = client.disconnect();
    }
    Ok(())
}

/// Keeps reads from overtaking the oldest by too much.
struct Order {
    limit: usize,
    submitted: usize,
    /// Offsets of the reads in flight, and how many were submitted before each.
    in_flight: BTreeMap<u64, usize>,
}

impl Order {
    const fn new(limit: usize) -> Self {
        Self { limit, submitted: 0, in_flight: BTreeMap::new() }
    }

    fn has_room(&self) -> bool {
        // Reads are submitted in order of their offsets.
        let oldest = self.in_flight.first_key_value();
        oldest.is_none_or(|(_, before)| self.submitted - before < self.limit)
    }

    fn submitted(&mut self, offset: u64) {
        self.in_flight.insert(offset, self.submitted);
        self.submitted += 1;
    }

    fn finished(&mut self, offset: u64) {
        self.in_flight.remove(&offset);
    }
}
