//! Option mode.

use std::fmt;
use std::io;
use std::time::Instant;

use nbd_proto::Protocol;
use nbd_session::{Error, Limit, OptionReply, OptionRequest};
use rustix::io::Errno;

use crate::complete::decide;
use crate::fail::Fail;
use crate::handle::{Handle, Memory, not_connected};
use crate::request::CompletionCallback;

/// Told each export of a list: its name and its description, which may be empty.
pub type ListCallback = Box<dyn FnMut(&str, &str) + Send>;

/// Told each meta context.
pub type ContextCallback = Box<dyn FnMut(&str) + Send>;

/// An option to be asked for, and its callbacks.
#[must_use]
pub struct OptionCall {
    request: OptionRequest,
    list: Option<ListCallback>,
    context: Option<ContextCallback>,
    completion: Option<CompletionCallback>,
}

impl fmt::Debug for OptionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionCall").field("request", &self.request).finish_non_exhaustive()
    }
}

impl OptionCall {
    const fn new(request: OptionRequest) -> Self {
        Self { request, list: None, context: None, completion: None }
    }

    /// Chooses the export.
    pub const fn go() -> Self {
        Self::new(OptionRequest::Go)
    }

    /// Asks what the export is like.
    pub const fn info() -> Self {
        Self::new(OptionRequest::Info)
    }

    /// Ends the negotiation.
    pub const fn abort() -> Self {
        Self::new(OptionRequest::Abort)
    }

    /// Asks for TLS.
    pub const fn start_tls() -> Self {
        Self::new(OptionRequest::StartTls)
    }

    /// Asks for structured replies.
    pub const fn structured_replies() -> Self {
        Self::new(OptionRequest::StructuredReplies)
    }

    /// Asks for extended headers.
    pub const fn extended_headers() -> Self {
        Self::new(OptionRequest::ExtendedHeaders)
    }

    /// Lists the exports.
    pub fn list(callback: ListCallback) -> Self {
        Self { list: Some(callback), ..Self::new(OptionRequest::List) }
    }

    /// Lists the meta contexts that match the queries.
    pub fn list_meta_contexts(queries: Vec<String>, callback: ContextCallback) -> Self {
        let request = OptionRequest::ListMetaContexts(queries);
        Self { context: Some(callback), ..Self::new(request) }
    }

    /// Selects the meta contexts that match the queries.
    pub fn set_meta_contexts(queries: Vec<String>, callback: ContextCallback) -> Self {
        let request = OptionRequest::SetMetaContexts(queries);
        Self { context: Some(callback), ..Self::new(request) }
    }

    /// Tells when it is finished.
    pub fn on_completion(mut self, callback: Option<CompletionCallback>) -> Self {
        self.completion = callback;
        self
    }

    pub(crate) fn complete(&mut self, errno: i32) {
        decide(self.completion.as_mut(), errno);
    }
}

impl<B: Memory> Handle<B> {
    /// Asks for an option, without waiting for the answer.
    ///
    /// # Errors
    /// When it cannot be asked for. The callbacks are dropped then.
    pub fn start_option(&mut self, call: OptionCall) -> Result<(), Fail> {
        let now = Instant::now();
        self.reconfigure()?;
        let Some(engine) = &mut self.engine else { return Err(not_connected()) };
        if call.request == OptionRequest::Abort && self.facts.protocol != Protocol::FixedNewstyle {
            // Such a server cannot be told, only left.
            engine.session.fail(io::Error::from(io::ErrorKind::NotConnected), now);
            engine.attend(now);
            self.settle(now);
            self.cause = None;
            self.answer = Some(Ok(0));
            return Ok(());
        }
        engine.session.request_option(call.request.clone(), Limit::Never, now)?;
        self.ending |= call.request == OptionRequest::Abort;
        self.option = Some(call);
        self.answer = None;
        self.send(now);
        Ok(())
    }

    /// Asks for an option and waits for the answer: how many there were of a list, whether it was
    /// granted, or 0.
    ///
    /// # Errors
    /// When it cannot be asked for, was refused, or the connection ended.
    pub fn option(&mut self, call: OptionCall) -> Result<i32, Fail> {
        self.start_option(call)?;
        while self.option.is_some() && !self.state.is_over() {
            // What ends it is the answer, too.
            let _ = self.turn();
        }
        self.cause = None;
        self.answer.take().unwrap_or_else(|| Err(not_connected()))
    }

    /// What is set now is asked for from now on.
    pub(crate) fn reconfigure(&mut self) -> Result<(), Fail> {
        let (settings, level) = (&self.settings, self.level);
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.is_choosing()) else {
            return Ok(());
        };
        engine.session.reconfigure(|_| settings.config(level))?;
        self.learn();
        Ok(())
    }

    /// The server has answered.
    pub(crate) fn finish_option(&mut self, outcome: Result<OptionReply, Error>) {
        self.learn();
        let Some(mut call) = self.option.take() else { return };
        let mut errno = 0;
        let answer = match outcome {
            Ok(OptionReply::Exports(exports)) => {
                for export in &exports {
                    if let Some(callback) = &mut call.list {
                        callback(&export.name, &export.description);
                    }
                }
                Ok(count(exports.len()))
            }
            Ok(OptionReply::MetaContexts(contexts)) => {
                for context in &contexts {
                    if let Some(callback) = &mut call.context {
                        callback(&context.name);
                    }
                }
                Ok(count(contexts.len()))
            }
            Ok(OptionReply::Granted(granted)) => {
                if !granted {
                    errno = Errno::NOTSUP.raw_os_error();
                }
                Ok(i32::from(granted))
            }
            Ok(_) => Ok(0),
            Err(error) => {
                let fail = Fail::from(error);
                // Whoever looks at the number alone must see that it failed.
                errno = if fail.errno() == 0 { Errno::NOTSUP.raw_os_error() } else { fail.errno() };
                Err(fail)
            }
        };
        self.note_selection(&call.request, errno == 0);
        self.answer = Some(answer);
        call.complete(errno);
    }

    /// Whether the selection of meta contexts is that of the export that is asked for.
    fn note_selection(&mut self, request: &OptionRequest, granted: bool) {
        match request {
            OptionRequest::SetMetaContexts(_) => self.selected = granted,
            OptionRequest::Go | OptionRequest::Info if granted => {
                self.selected |= self.settings.request_meta_contexts;
            }
            OptionRequest::Go | OptionRequest::Info => self.selected = false,
            // What was agreed on in clear is forgotten.
            OptionRequest::StartTls => self.selected &= !granted,
            _ => {}
        }
    }
}

fn count(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}
