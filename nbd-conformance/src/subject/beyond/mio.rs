//! The adapter for event loops.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::mpsc::channel;
use std::task::Poll as Step;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nbd_client_mio::{Connection, Error, ExportView, Limit, State};
use nbd_proto::Command;
use nbd_session::replay::Reconnect;

use super::{Beyond, File, Pool};
use crate::outcome::Outcome;
use crate::subject::mio::{Live, Mio, options, ready};
use crate::subject::{How, Session};

impl Beyond for Mio {
    fn pool(&self, how: &How, policy: Option<Reconnect>, size: usize) -> Outcome<Box<dyn Pool>> {
        let options = options(how, false)?.reconnect(policy);
        let mut pooled = Pooled {
            poll: Poll::new().map_err(Error::from)?,
            events: Events::with_capacity(8),
            pool: nbd_client_mio::Pool::connect(options, size, Token(0))?,
        };
        while pooled.pool.members().is_empty() {
            if pooled.turn(None)? == State::Closed {
                let first = &pooled.pool.connections()[0];
                return Err(first.error().expect("it was to be ready").into());
            }
        }
        Ok(Box::new(RefCell::new(pooled)))
    }

    fn file(&self, how: &How) -> Outcome<Box<dyn File>> {
        let live = ready(options(how, false)?)?;
        let view = live.disk.view()?;
        Ok(Box::new(Viewed { live, view }))
    }

    fn extents(
        &self,
        how: &How,
        context: &str,
        range: Range<u64>,
    ) -> Outcome<Vec<(u64, u64, u64)>> {
        let mut live = ready(options(how, false)?)?;
        let mut extents = live.disk.extents(&[context], range)?;
        let mut all = Vec::new();
        loop {
            match extents.next(&mut live.disk) {
                Step::Ready(Some(segment)) => {
                    let placed = segment?.placed();
                    all.push((placed.offset, placed.extent.length, placed.extent.status));
                }
                Step::Ready(None) => return Ok(all),
                Step::Pending => live.turn_and_take()?,
            }
        }
    }

    fn leave_extents(&self, how: &How, context: &str, after: usize) -> Outcome<Vec<u8>> {
        let mut live = ready(options(how, false)?)?;
        let mut extents = live.disk.extents(&[context], 0..live.facts_size())?;
        let mut told = 0;
        while told < after {
            match extents.next(&mut live.disk) {
                Step::Ready(Some(segment)) => told += segment.map(|_| 1)?,
                Step::Ready(None) => break,
                Step::Pending => live.turn_and_take()?,
            }
        }
        drop(extents);
        live.read(0, 512)
    }
}

struct Pooled {
    poll: Poll,
    events: Events,
    pool: nbd_client_mio::Pool<Vec<u8>>,
}

impl Pooled {
    /// Does what is due, or waits for an event until something is; no longer than that.
    fn turn(&mut self, longest: Option<Duration>) -> Outcome<State> {
        let now = Instant::now();
        let connections = self.pool.connections();
        let busy = connections.iter().any(Connection::needs_drive);
        let next = connections.iter().filter_map(Connection::next_deadline).min();
        let left = next.map(|at| at.saturating_duration_since(now)).into_iter().chain(longest);
        let wait = if busy { Some(Duration::ZERO) } else { left.min() };
        match self.poll.poll(&mut self.events, wait) {
            // A process that was stopped and goes on sees its calls interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            polled => polled.map_err(Error::from)?,
        }
        for event in &self.events {
            // It may be one of a connection that could not join.
            if let Some(connection) = self.pool.connections().get_mut(event.token().0) {
                connection.handle_event(event);
            }
        }
        let state = self.pool.drive(self.poll.registry()).map_err(Error::from)?;
        let now = Instant::now();
        for connection in self.pool.connections() {
            // What has come in time counts, however late it is looked at.
            if connection.next_deadline().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
        }
        Ok(state)
    }

    /// One command from its submission to its end.
    fn perform(&mut self, command: Command, buffer: Option<Vec<u8>>) -> Outcome<Vec<u8>> {
        let (tell, told) = channel();
        self.pool.submit(command, buffer, move |done| drop(tell.send(done)));
        loop {
            if let Ok(done) = told.try_recv() {
                return Ok(done.map_err(Error::from)?.buffer.unwrap_or_default());
            }
            self.turn(None)?;
        }
    }
}

impl Pool for RefCell<Pooled> {
    fn alive(&self) -> usize {
        let mut pooled = self.borrow_mut();
        // What makes the others needs its turn.
        pooled.turn(Some(Duration::ZERO)).expect("the poll works");
        pooled.pool.members().alive()
    }

    fn read(&self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        let command = Command::read(offset, length as u32);
        self.borrow_mut().perform(command, Some(vec![0; length]))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        let command = Command::write(offset, data.len() as u32);
        self.borrow_mut().perform(command, Some(data.to_vec())).map(drop)
    }

    fn flush(&self) -> Outcome {
        self.borrow_mut().perform(Command::flush(), None).map(drop)
    }

    fn disconnect(self: Box<Self>) -> Outcome {
        let mut pooled = self.into_inner();
        pooled.pool.disconnect(Limit::Default);
        while pooled.turn(None)? != State::Closed {}
        Ok(pooled.pool.members().farewell()?)
    }
}

struct Viewed {
    live: Live,
    view: ExportView<Vec<u8>>,
}

impl Viewed {
    /// Turns until a call does not block.
    fn wait<T>(
        &mut self,
        mut call: impl FnMut(&mut nbd_client_mio::ExportFile<'_, Vec<u8>>) -> std::io::Result<T>,
    ) -> Outcome<T> {
        loop {
            match call(&mut self.live.disk.file(&mut self.view)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.live.turn_and_take()?,
                other => return Ok(other.map_err(Error::from)?),
            }
        }
    }
}

impl File for Viewed {
    fn seek(&mut self, position: u64) -> Outcome {
        self.wait(|file| file.seek(SeekFrom::Start(position))).map(drop)
    }

    fn read(&mut self, length: usize) -> Outcome<Vec<u8>> {
        let mut data = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.wait(|file| file.read(&mut data[filled..]))? {
                0 => break,
                count => filled += count,
            }
        }
        data.truncate(filled);
        Ok(data)
    }

    fn write(&mut self, mut data: &[u8]) -> Outcome {
        while !data.is_empty() {
            match self.wait(|file| file.write(data))? {
                0 => return Err(Error::from(std::io::Error::from(ErrorKind::WriteZero)).into()),
                count => data = &data[count..],
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        self.wait(|file| file.flush())
    }

    fn again(&mut self) {
        self.view = self.live.disk.view().expect("it is ready");
    }
}
