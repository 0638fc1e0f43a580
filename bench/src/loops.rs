//! The clients whose loop is the caller's.

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::proto::CommandFlags;
use nbd_client_mio::{Connection, State};

use crate::Outcome;
use crate::load::{Load, Offsets};
use crate::measured::{Measured, Stopwatch};

/// When a request was submitted, and for where: by slot.
type InFlight = Vec<(u64, u64)>;

pub(crate) fn blocking(load: &Load) -> Outcome<Measured> {
    let mut client = nbd_client_blocking::Client::connect(load.connection()?)?;
    let mut offsets = Offsets::new(load, client.size())?;
    let mut unused: Vec<_> = (0..load.depth).map(|_| load.buffer()).collect();
    let mut in_flight: InFlight = vec![(0, 0); load.depth];
    let mut stopwatch = Stopwatch::start(load)?;
    let mut pipeline = client.pipeline::<Vec<u8>>();
    // What comes out of one read of the socket came at one moment, and what follows it leaves
    // in one write: one look at the clock for both.
    let mut now = 0;
    loop {
        while let Some(mut buffer) = unused.pop() {
            let Some(at) = offsets.next() else { break };
            let id = if load.write {
                load.fill(&mut buffer, at);
                pipeline.write(buffer, at)?
            } else {
                pipeline.read(buffer, at)?
            };
            in_flight[id.slot()] = (now, at);
        }
        if pipeline.wait_for(1) == 0 {
            break;
        }
        now = stopwatch.now();
        while let Some(done) = pipeline.next_completion() {
            done.result?;
            let (start, at) = in_flight[done.id.slot()];
            stopwatch.record(now - start);
            let buffer = done.buffer.ok_or("a buffer is missing")?;
            load.check(&buffer, at)?;
            unused.push(buffer);
        }
    }
    drop(pipeline);
    let measured = stopwatch.stop(load)?;
    client.disconnect()?;
    Ok(measured)
}

pub(crate) fn mio(load: &Load) -> Outcome<Measured> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let mut disk: Connection<Vec<u8>> = Connection::connect(load.connection()?)?;
    poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;
    while disk.drive(poll.registry())? != State::Ready {
        turn(&mut poll, &mut events, &mut disk)?;
    }
    let size = disk.session().export().map_or(0, |export| export.size);
    let mut offsets = Offsets::new(load, size)?;
    let mut left = offsets.left();
    let mut unused: Vec<_> = (0..load.depth).map(|_| load.buffer()).collect();
    let mut in_flight: InFlight = vec![(0, 0); load.depth];
    let mut stopwatch = Stopwatch::start(load)?;
    let mut now = 0;
    while left > 0 {
        while let Some(mut buffer) = unused.pop() {
            let Some(at) = offsets.next() else { break };
            let id = if load.write {
                load.fill(&mut buffer, at);
                disk.write(buffer, at, CommandFlags::empty())?
            } else {
                disk.read(buffer, at)?
            };
            in_flight[id.slot()] = (now, at);
        }
        disk.drive(poll.registry())?;
        now = stopwatch.now();
        let before = left;
        while let Some(done) = disk.next_completion() {
            done.result?;
            let (start, at) = in_flight[done.id.slot()];
            stopwatch.record(now - start);
            let buffer = done.buffer.ok_or("a buffer is missing")?;
            load.check(&buffer, at)?;
            unused.push(buffer);
            left -= 1;
        }
        if left == before {
            turn(&mut poll, &mut events, &mut disk)?;
        }
    }
    let measured = stopwatch.stop(load)?;
    disk.disconnect(nbd_client_mio::Limit::Default);
    while disk.drive(poll.registry())? != State::Closed {
        turn(&mut poll, &mut events, &mut disk)?;
    }
    Ok(measured)
}

fn turn(poll: &mut Poll, events: &mut Events, disk: &mut Connection<Vec<u8>>) -> Outcome<()> {
    if !disk.needs_drive() {
        poll.poll(events, None)?;
        events.iter().for_each(|event| disk.handle_event(event));
    }
    Ok(())
}
