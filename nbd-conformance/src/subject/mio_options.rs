//! Option mode in an event loop: start, drive, take the events.

use nbd_client_mio::State;
use nbd_proto::{
    ApiMisuse, Error, ExportEntry, MetaContext, Negotiated, Negotiation, NegotiationEvent,
    OptionCode,
};

use super::mio::Live;
use super::{Choosing, Refused, Session};
use crate::outcome::{Failure, Outcome};

impl Live {
    fn negotiation(&mut self) -> Outcome<&mut Negotiation> {
        // An oldstyle server has left no choice.
        self.disk.negotiation().ok_or_else(|| Error::from(ApiMisuse::WrongState).into())
    }

    fn ask(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), Error>,
    ) -> Outcome<Vec<NegotiationEvent>> {
        let negotiation = self.negotiation()?;
        while negotiation.poll_event().is_some() {}
        start(negotiation)?;
        self.reach(|disk| {
            let chosen = matches!(disk.state(), State::Choosing | State::Ready);
            chosen && !disk.wants_again()
        })?;
        let mut events = Vec::new();
        if let Some(negotiation) = self.disk.negotiation() {
            while let Some(event) = negotiation.poll_event() {
                match event {
                    NegotiationEvent::Finished { option: finished, result }
                        if finished == option =>
                    {
                        result.map_err(Error::from)?;
                    }
                    other => events.push(other),
                }
            }
        }
        Ok(events)
    }

    fn contexts(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), Error>,
    ) -> Outcome<Vec<MetaContext>> {
        let events = self.ask(option, start)?.into_iter();
        Ok(events
            .filter_map(|event| match event {
                NegotiationEvent::MetaContext(context) => Some(context),
                _ => None,
            })
            .collect())
    }
}

impl Choosing for Live {
    fn list(&mut self) -> Outcome<Vec<ExportEntry>> {
        let events = self.ask(OptionCode::List, Negotiation::list)?.into_iter();
        Ok(events
            .filter_map(|event| match event {
                NegotiationEvent::Export(entry) => Some(entry),
                _ => None,
            })
            .collect())
    }

    fn info(&mut self) -> Outcome<Negotiated> {
        self.ask(OptionCode::Info, Negotiation::info)?;
        Ok(self.negotiation()?.negotiated().clone())
    }

    fn list_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        self.contexts(OptionCode::ListMetaContext, |negotiation| {
            negotiation.list_meta_contexts(queries)
        })
    }

    fn set_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        self.contexts(OptionCode::SetMetaContext, |negotiation| {
            negotiation.set_meta_contexts(queries)
        })
    }

    fn set_export_name(&mut self, name: &str) -> Outcome {
        Ok(self.negotiation()?.set_export_name(name)?)
    }

    fn go(mut self: Box<Self>) -> Result<Box<dyn Session>, Refused> {
        let result = match self.disk.state() {
            State::Ready => Ok(()),
            _ => self.ask(OptionCode::Go, Negotiation::go).map(drop),
        };
        match (result, self.disk.state()) {
            (Ok(()), State::Ready) => Ok(self),
            (Ok(()), state) => {
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
