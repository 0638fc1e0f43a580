//! Commands that nobody waits for any more.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use nbd_proto::{Client, Machine, PayloadSource, RequestId};

use super::payload::HalfSentWrite;
use super::{Open, Session, Stage};

/// What becomes of the payload of a command that was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
#[expect(
    clippy::exhaustive_enums,
    reason = "the caller must know whose the buffer is: a third answer may not go unnoticed"
)]
pub enum Withdrawn {
    /// It is the caller's again.
    Free,
    /// It is half sent, and may still be asked for under its id: keep it until
    /// [`Session::next_released`] says so, or let the session
    /// [copy](Session::copy_held) it.
    HalfSent,
}

impl Session {
    /// Stops waiting for a command: there will be no completion. What is not sent is not sent
    /// any more; what is half sent is finished, for the stream's sake. Whether it took place
    /// is unknown.
    ///
    /// The destination of a read is never asked for again.
    pub fn withdraw(&mut self, id: RequestId, now: Instant) -> Withdrawn {
        self.silence.tell(now);
        self.timers.remove(id);
        self.details.take(id);
        self.durability.forget(id);
        if !self.late.is_empty() {
            self.late.retain(|timer| timer.id != id);
        }
        let withdrawn = self.abandon(id);
        self.look_for_room(now);
        if let Stage::Open(open) = &self.stage {
            self.silence.look(&open.core);
        }
        withdrawn
    }

    /// Stops waiting for every command.
    pub fn withdraw_all(&mut self, now: Instant) -> Withdrawn {
        if let Some(recovery) = self.recovery.as_deref() {
            let mut all = Withdrawn::Free;
            for id in recovery.all() {
                if self.withdraw(id, now) == Withdrawn::HalfSent {
                    all = Withdrawn::HalfSent;
                }
            }
            return all;
        }
        self.late.clear();
        self.settle_leaving();
        let Stage::Open(Open { core, .. }) = &mut self.stage else { return Withdrawn::Free };
        core.abandon_all();
        if let Some(probe) = &mut self.keep_alive {
            probe.answered();
        }
        self.timers = crate::timers::Timers::default();
        self.durability.forget_all();
        let half = if self.leaving.is_none() { half_sent(core) } else { None };
        self.look_for_room(now);
        match half {
            Some(id) => {
                self.leaving = Some(HalfSentWrite { id, sent_as: id, copy: None });
                Withdrawn::HalfSent
            }
            None => Withdrawn::Free,
        }
    }

    /// From the core and the log.
    pub(super) fn abandon(&mut self, id: RequestId) -> Withdrawn {
        self.settle_leaving();
        let Some(recovery) = self.recovery.as_deref_mut() else {
            let Stage::Open(Open { core, .. }) = &mut self.stage else { return Withdrawn::Free };
            if core.abandon(id) || !core.needs_payload(id) {
                return Withdrawn::Free;
            }
            self.leaving = Some(HalfSentWrite { id, sent_as: id, copy: None });
            return Withdrawn::HalfSent;
        };
        let Some(open) = recovery.get(id) else { return Withdrawn::Free };
        let Some(place) = open.place else {
            recovery.take(id, false);
            return Withdrawn::Free;
        };
        let sent_as = recovery.log.as_ref().and_then(|log| log.request(place));
        let mut leaving = false;
        if let (Some(sent_as), Stage::Open(Open { core, .. })) = (sent_as, &mut self.stage)
            && !core.abandon(sent_as)
            && core.needs_payload(sent_as)
        {
            let copy = recovery.log.as_ref().and_then(|log| log.payload(sent_as)).cloned();
            leaving = copy.is_none();
            self.leaving = Some(HalfSentWrite { id, sent_as, copy });
        }
        if let Some(log) = &mut recovery.log {
            log.cancel(place);
        }
        recovery.take(id, leaving);
        self.hand_over();
        if leaving { Withdrawn::HalfSent } else { Withdrawn::Free }
    }

    /// Copies what is [held](super::Completion::held) of a command, all of whose payload this
    /// is: for callers who cannot leave it. It is the caller's again then, and
    /// [`next_released`](Self::next_released) does not tell of it.
    pub fn copy_held(&mut self, id: RequestId, payload: &[u8]) {
        if let Some(leaving) = self.leaving.as_mut().filter(|leaving| leaving.id == id)
            && leaving.copy.is_none()
        {
            leaving.copy = Some(Bytes::copy_from_slice(payload));
            if let Some(recovery) = self.recovery.as_deref_mut() {
                recovery.release(id);
            }
        }
    }

    /// The id of a command that is held, if there is one.
    #[must_use]
    pub fn held(&self) -> Option<RequestId> {
        self.leaving.as_ref().filter(|leaving| leaving.copy.is_none()).map(|leaving| leaving.id)
    }

    /// A command that was half sent when it was withdrawn, or when its time was over, and
    /// whose payload is free now.
    pub fn next_released(&mut self) -> Option<RequestId> {
        if self.leaving.is_some() {
            self.settle_leaving();
        }
        self.released.pop()
    }

    /// Looks whether the last byte of what is leaving has left. At most one command is half
    /// sent at any time.
    pub(super) fn settle_leaving(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let needed = match &self.stage {
            Stage::Open(Open { core, .. }) => core.needs_payload(leaving.sent_as),
            _ => false,
        };
        if !needed {
            self.leave();
        }
    }

    /// What is leaving has left, or never will.
    pub(super) fn leave(&mut self) {
        let Some(leaving) = self.leaving.take() else { return };
        if leaving.copy.is_none() {
            if let Some(recovery) = self.recovery.as_deref_mut() {
                recovery.release(leaving.id);
            }
            self.released.push(leaving.id);
        }
    }
}

/// The write whose payload the core asks for first.
fn half_sent(core: &Client) -> Option<RequestId> {
    /// Has nothing, and notes what it is asked for.
    struct Asked(Cell<Option<RequestId>>);

    impl PayloadSource for Asked {
        fn bytes(&self, id: RequestId, _: usize, _: usize) -> &[u8] {
            self.0.set(self.0.get().or(Some(id)));
            &[]
        }
    }

    let asked = Asked(Cell::new(None));
    // It fails, for there are no bytes.
    let _ = core.for_each_unsent(&asked, |_| ControlFlow::Continue(()));
    asked.0.get()
}
