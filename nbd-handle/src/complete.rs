//! What becomes of a command that is finished.

use nbd_proto::ContextId;
use nbd_session::Completion;
use rustix::io::Errno;

use crate::commands::Pending;
use crate::fail::Fail;
use crate::handle::{Handle, Memory};
use crate::request::{CompletionCallback, Extent};

/// What a completion callback has decided.
pub(crate) enum Verdict {
    /// Nobody will ask for it.
    Retired,
    /// It is asked for later, and has this error or 0.
    Kept(i32),
}

/// Calls a completion callback, which may change the error.
pub(crate) fn decide(callback: Option<&mut CompletionCallback>, errno: i32) -> Verdict {
    let Some(callback) = callback else { return Verdict::Kept(errno) };
    let mut told = errno;
    match callback(&mut told) {
        1 => Verdict::Retired,
        -1 if told != 0 => Verdict::Kept(told),
        _ => Verdict::Kept(errno),
    }
}

impl<B: Memory> Handle<B> {
    /// Takes what the session has finished.
    pub(crate) fn take_completions(&mut self) {
        while let Some(done) =
            self.engine.as_mut().and_then(|engine| engine.session.next_completion())
        {
            self.complete(done);
        }
    }

    fn complete(&mut self, done: Completion) {
        let Some(mut pending) = self.commands.remove(done.id) else { return };
        if !done.extents.is_empty() {
            self.report_extents(&mut pending, &done.extents);
        }
        let error = done.result.err();
        if let (Some(error), 0) = (&error, pending.errno) {
            // Whatever ended the connection, a command that was under way has lost it.
            pending.errno = match error.command_failure() {
                Some(_) => error.errno(),
                None => Errno::NOTCONN.raw_os_error(),
            };
        }
        let Pending { cookie, errno, mut callbacks, .. } = pending;
        match decide(callbacks.completion.as_mut(), errno) {
            Verdict::Retired => {}
            Verdict::Kept(0) => self.commands.finish(cookie, Ok(()), callbacks),
            Verdict::Kept(errno) => {
                let text = match error {
                    Some(error) => error.to_string(),
                    None => format!("{} failed", done.command),
                };
                self.commands.finish(cookie, Err(Fail::numbered(errno, text)), callbacks);
            }
        }
    }

    /// One call for each meta context.
    fn report_extents(&self, pending: &mut Pending<B>, extents: &[(ContextId, nbd_proto::Extent)]) {
        let mut seen: Vec<ContextId> = Vec::new();
        for (context, _) in extents {
            if seen.contains(context) {
                continue;
            }
            seen.push(*context);
            let named = self.facts.contexts.iter().find(|known| known.id == *context);
            let Some(named) = named else { continue };
            let mut run = Vec::new();
            for (_, extent) in extents.iter().filter(|(of, _)| of == context) {
                run.push(Extent {
                    length: extent.length.min(i64::MAX as u64),
                    flags: extent.status,
                });
            }
            let offset = pending.offset;
            pending.tell(|callbacks, told| match &mut callbacks.extents {
                Some(callback) => callback(&named.name, offset, &run, told),
                None => 0,
            });
        }
    }
}
