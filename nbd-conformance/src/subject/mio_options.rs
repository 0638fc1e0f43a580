//! Option mode in an event loop: ask, drive, take the answer.

use nbd_client_mio::{Error, Limit, OptionReply, OptionRequest, State};
use nbd_proto::{ApiMisuse, ExportEntry, MetaContext, Negotiated};

use super::mio::Live;
use super::{Choosing, Refused, Session};
use crate::outcome::{Failure, Outcome};

impl Live {
    fn ask(&mut self, request: OptionRequest) -> Outcome<OptionReply> {
        self.disk.request_option(request, Limit::Default)?;
        let mut answer = None;
        self.reach(|disk| {
            answer = disk.take_option();
            answer.is_some()
        })?;
        Ok(answer.expect("it was reached")?)
    }

    fn contexts(&mut self, request: OptionRequest) -> Outcome<Vec<MetaContext>> {
        match self.ask(request)? {
            OptionReply::MetaContexts(contexts) => Ok(contexts),
            other => panic!("{other:?}"),
        }
    }
}

fn strings(queries: &[&str]) -> Vec<String> {
    queries.iter().map(ToString::to_string).collect()
}

impl Choosing for Live {
    fn list(&mut self) -> Outcome<Vec<ExportEntry>> {
        match self.ask(OptionRequest::List)? {
            OptionReply::Exports(exports) => Ok(exports),
            other => panic!("{other:?}"),
        }
    }

    fn info(&mut self) -> Outcome<Negotiated> {
        match self.ask(OptionRequest::Info)? {
            OptionReply::Info(negotiated) => Ok(*negotiated),
            other => panic!("{other:?}"),
        }
    }

    fn list_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        self.contexts(OptionRequest::ListMetaContexts(strings(queries)))
    }

    fn set_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        self.contexts(OptionRequest::SetMetaContexts(strings(queries)))
    }

    fn set_export_name(&mut self, name: &str) -> Outcome {
        Ok(self.disk.set_export_name(name)?)
    }

    fn go(mut self: Box<Self>) -> Result<Box<dyn Session>, Refused> {
        let result = self.ask(OptionRequest::Go);
        match (result, self.disk.state()) {
            (Ok(_), State::Ready) => Ok(self),
            (Ok(_), state) => {
                let failure = Failure::from(Error::from(ApiMisuse::WrongState));
                let text = format!("{state:?} after the choice");
                Err(Refused { failure: Failure { text, ..failure }, rest: None })
            }
            (Err(failure), State::Choosing) => Err(Refused { failure, rest: Some(self) }),
            (Err(failure), _) => Err(Refused { failure, rest: None }),
        }
    }

    fn abort(self: Box<Self>) -> Outcome {
        self.disconnect().map(drop)
    }
}
