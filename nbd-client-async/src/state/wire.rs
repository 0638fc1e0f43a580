//! The connection's own side of the state: bytes out, bytes in, and the end in good order.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use nbd_proto::io::{Progress, is_gone};
use nbd_proto::{Command, Direction, Machine, SubmitError};
use nbd_session::OldError as Error;

use super::{BUDGET, LINGER, State};
use crate::end::End;
use crate::shim::Shim;

impl State {
    pub(crate) fn has_unsent(&self) -> bool {
        self.link.direction(&self.core).contains(Direction::WRITE)
    }

    /// Whether more than one request is under way, so that more may come at any moment.
    pub(crate) fn is_busy(&self) -> bool {
        self.core.in_flight() > 1
    }

    pub(super) fn send_or_rouse(&mut self) {
        if self.is_busy() {
            self.rousing = true;
            return;
        }
        // Before its first turn the driver cannot be told to go on with the rest.
        let Some(waker) = self.driver.clone() else {
            return;
        };
        self.send(&mut Context::from_waker(&waker));
        self.rousing |= self.has_unsent();
    }

    /// The driver's turn has come; this is how to wake it again.
    pub(crate) fn on_turn(&mut self, waker: &Waker) {
        (self.rousing, self.roused) = (false, false);
        if !self.driver.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            self.wake.extend(self.driver.replace(waker.clone()));
        }
    }

    /// The driver's waker, if it is to be woken and has not been.
    pub(crate) fn rouse_driver(&mut self) -> Option<Waker> {
        if !mem::take(&mut self.rousing) || mem::replace(&mut self.roused, true) {
            return None;
        }
        self.driver.clone()
    }

    /// Sends what is due, as far as there is room. The context is the driver's, whoever
    /// calls: it is the driver that goes on when there is room again.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>) {
        while self.has_unsent() {
            let Some(wire) = &mut self.wire else { return };
            let mode = wire.stream.mode();
            let mut shim = Shim::new(&mut wire.stream, cx);
            let result = self.link.write(&mut self.core, &mut shim, &self.calls, mode);
            let (calls, pending) = (shim.calls, shim.write_pending);
            self.unflushed = true;
            match result {
                Err(error) => return self.close(error.into()),
                Ok(Progress::Closed) => {
                    // What was sent before may still be answered. A real socket's end
                    // follows; another stream is not waited for without limit.
                    self.unflushed = false;
                    self.refuse(ErrorKind::BrokenPipe.into());
                    break;
                }
                Ok(_) if calls == 0 || pending => break,
                Ok(_) => {}
            }
        }
        if !self.has_unsent() {
            self.calls.all_sent();
        }
        self.flush(cx);
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        let Some(wire) = self.wire.as_mut().filter(|_| self.unflushed) else {
            return;
        };
        let result = Shim::new(&mut wire.stream, cx).flush();
        match result.map_err(|error| (error.kind(), error)) {
            Ok(()) => self.unflushed = false,
            Err((ErrorKind::WouldBlock, _)) => {}
            Err((kind, error)) if is_gone(kind) => {
                self.unflushed = false;
                self.core.send_failed();
                self.refuse(error);
            }
            Err((_, error)) => self.close(End::Io(error.into())),
        }
    }

    /// The stream takes no more bytes.
    fn refuse(&mut self, error: io::Error) {
        self.refused.get_or_insert_with(|| error.into());
        self.linger();
    }

    /// Why a command was not submitted: that the stream takes no more says most.
    pub(super) fn not_submitted(&self, command: Command, error: SubmitError) -> Error {
        match &self.refused {
            Some(refused) if error == SubmitError::NotConnected => Error::Io(Arc::clone(refused)),
            _ => Error::Submit { command, error },
        }
    }

    /// From now on the connection lasts only as long as it takes to end in good order.
    pub(super) fn linger(&mut self) {
        if let Some(at) = Instant::now().checked_add(LINGER) {
            self.linger = self.linger.or(Some(at));
            self.remind(at);
        }
    }

    /// Takes in what has come and hands it out. Returns whether there may be more at
    /// once; if not, the context's task is woken when there is.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let mut more = true;
        for _ in 0..BUDGET {
            let Some(wire) = &mut self.wire else {
                return false;
            };
            let mode = wire.stream.mode();
            let mut shim = Shim::new(&mut wire.stream, cx);
            let result = self.link.read(&mut self.core, &mut shim, &mut self.calls, mode);
            let (calls, pending) = (shim.calls, shim.read_pending);
            match result {
                Err(error) => {
                    self.last_word(cx);
                    self.close(error.into());
                    return false;
                }
                Ok(_) if self.core.is_closed() => {
                    self.close(End::Closed);
                    return false;
                }
                // Without a call to the stream there may have been progress all the same: what
                // lies in the link under TLS is of no concern to the stream.
                Ok(progress) if pending || (calls == 0 && progress == Progress::Blocked) => {
                    more = false;
                    break;
                }
                // Handed out before the rest is taken in, so that the next commands are on
                // their way and the server works meanwhile.
                Ok(_) if self.core.completed() > 0 => break,
                Ok(_) => {}
            }
        }
        self.deliver();
        self.admit();
        more
    }

    /// The link may have one for the server. Whether it arrives changes nothing.
    fn last_word(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.wire {
            let mode = wire.stream.mode();
            let mut shim = Shim::new(&mut wire.stream, cx);
            let _ = self.link.write(&mut self.core, &mut shim, &self.calls, mode);
        }
    }

    /// Goes on with ending the session, if that was asked for.
    pub(crate) fn wind_up(&mut self, cx: &mut Context<'_>) {
        if !self.core.is_ending() || self.has_unsent() {
            return;
        }
        if let Some(wire) = self.wire.as_mut().filter(|_| !self.shut) {
            // Nothing more will be sent. A peer that is gone already is no loss.
            self.shut = wire.stream.poll_close(cx).is_ready();
        }
        if self.shut && self.linger.is_some() {
            self.close(End::Closed);
        }
    }
}
