//! The clients whose loop is the caller's.

use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::proto::CommandFlags;
use nbd_client_mio::{Connection, State};

use crate::Outcome;
use crate::load::{Load, Places};

pub(crate) fn blocking(load: &Load) -> Outcome<Duration> {
    let mut client = nbd_client_blocking::Client::connect(&load.uri)?;
    let mut places = Places::new(load, client.size())?;
    let start = Instant::now();
    let mut pipeline = client.pipeline::<Vec<u8>>();
    let mut unused = vec![vec![1; load.length]; load.depth];
    loop {
        while let Some(buffer) = unused.pop() {
            let Some(at) = places.next() else { break };
            if load.write {
                pipeline.write(buffer, at)?;
            } else {
                pipeline.read(buffer, at)?;
            }
        }
        let Some(done) = pipeline.wait() else { break };
        done.result?;
        unused.extend(done.buffer);
        // What came with it takes no waiting.
        while let Some(done) = pipeline.next_completed() {
            done.result?;
            unused.extend(done.buffer);
        }
    }
    drop(pipeline);
    let took = start.elapsed();
    client.disconnect()?;
    Ok(took)
}

pub(crate) fn mio(load: &Load) -> Outcome<Duration> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let mut disk: Connection<Vec<u8>> = Connection::connect(&load.uri)?;
    poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;
    while disk.drive(poll.registry())? != State::Ready {
        turn(&mut poll, &mut events, &mut disk)?;
    }
    let size = disk.session().export().map_or(0, |export| export.size);
    let mut places = Places::new(load, size)?;
    let start = Instant::now();
    let mut unused = vec![vec![1; load.length]; load.depth];
    let mut left = load.count;
    while left > 0 {
        while let Some(buffer) = unused.pop() {
            let Some(at) = places.next() else { break };
            if load.write {
                disk.write(buffer, at, CommandFlags::empty())?;
            } else {
                disk.read(buffer, at)?;
            }
        }
        disk.drive(poll.registry())?;
        while let Some(done) = disk.next_completion() {
            done.result?;
            unused.extend(done.buffer);
            left -= 1;
        }
        if unused.is_empty() {
            turn(&mut poll, &mut events, &mut disk)?;
        }
    }
    let took = start.elapsed();
    disk.disconnect(nbd_client_mio::Limit::Default);
    while disk.drive(poll.registry())? != State::Closed {
        turn(&mut poll, &mut events, &mut disk)?;
    }
    Ok(took)
}

fn turn(poll: &mut Poll, events: &mut Events, disk: &mut Connection<Vec<u8>>) -> Outcome<()> {
    if !disk.needs_drive() {
        poll.poll(events, None)?;
        events.iter().for_each(|event| disk.handle_event(event));
    }
    Ok(())
}
