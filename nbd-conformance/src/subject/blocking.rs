//! The adapter for threads.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nbd_client_blocking::{Client, Completion, Options};
use nbd_proto::{
    Command, CommandFlags, CommandType, ContextId, ExportEntry, Extent, MetaContext, Negotiated,
};
use nbd_transport::tls::TlsInfo;

use super::{Choosing, How, Refused, Session, Subject};
use crate::outcome::{Failure, Op, Outcome, Reply};

pub(crate) struct Blocking;

impl Subject for Blocking {
    fn splits(&self) -> bool {
        true
    }

    fn connect(&self, how: &How) -> Outcome<Box<dyn Session>> {
        Ok(Box::new(Client::connect(how.options()?)?))
    }

    fn negotiate(&self, how: &How) -> Outcome<Box<dyn Choosing>> {
        Ok(Box::new(Options::connect(how.options()?)?))
    }
}

impl Session for Client {
    fn facts(&self) -> Negotiated {
        self.negotiated().clone()
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        self.session().tls_info().cloned()
    }

    fn read(&mut self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        let mut data = vec![0; length];
        self.read_exact_at(&mut data, offset)?;
        Ok(data)
    }

    fn write(&mut self, offset: u64, data: &[u8], flags: CommandFlags) -> Outcome {
        Ok(self.write_all_at_with(data, offset, flags)?)
    }

    fn run(&mut self, command: Command) -> Outcome {
        Ok(self.submit_and_wait(command)?)
    }

    fn status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Outcome<Vec<(ContextId, Extent)>> {
        Ok(self.block_status(offset, length, flags)?)
    }

    fn batch(&mut self, ops: Vec<Op>, meanwhile: &mut dyn FnMut()) -> Vec<Outcome<Reply>> {
        let mut outcomes: Vec<Option<Outcome<Reply>>> = ops.iter().map(|_| None).collect();
        let mut line: VecDeque<_> = ops.into_iter().enumerate().collect();
        let mut owners = BTreeMap::new();
        let mut pipeline = self.pipeline();
        let mut meanwhile = Some(meanwhile);
        let mut place = 0;
        loop {
            while !pipeline.is_full()
                && let Some((index, op)) = line.pop_front()
            {
                let buffer = match op.command.kind {
                    CommandType::Read => Some(vec![0; op.command.length as usize]),
                    _ => op.data,
                };
                match pipeline.submit(op.command, buffer) {
                    Ok(id) => drop(owners.insert(id, index)),
                    Err(rejected) => outcomes[index] = Some(Err(rejected.error.into())),
                }
            }
            if let Some(meanwhile) = meanwhile.take() {
                pipeline.notify_write();
                meanwhile();
            }
            match pipeline.wait() {
                Some(Completion { id, buffer, extents, result, .. }) => {
                    let reply = Reply { data: buffer.unwrap_or_default(), extents, place };
                    let index = owners.remove(&id).expect("it was submitted");
                    outcomes[index] = Some(result.map(|()| reply).map_err(Failure::from));
                    place += 1;
                }
                None if line.is_empty() => break,
                None => {}
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each has an end")).collect()
    }

    fn set_timeout(&mut self, timeout: Duration) -> Outcome {
        self.set_request_timeout(timeout);
        Ok(())
    }

    fn disconnect(self: Box<Self>) -> Outcome<Option<Box<dyn Session>>> {
        Self::disconnect(*self)?;
        Ok(None)
    }
}

impl Choosing for Options {
    fn list(&mut self) -> Outcome<Vec<ExportEntry>> {
        Ok(Self::list(self)?)
    }

    fn info(&mut self) -> Outcome<Negotiated> {
        Ok(Self::info(self)?)
    }

    fn list_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        Ok(self.list_meta_contexts(queries)?)
    }

    fn set_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        Ok(self.set_meta_contexts(queries)?)
    }

    fn set_export_name(&mut self, name: &str) -> Outcome {
        Ok(Self::set_export_name(self, name)?)
    }

    fn go(self: Box<Self>) -> Result<Box<dyn Session>, Refused> {
        match Self::go(*self) {
            Ok(client) => Ok(Box::new(client)),
            Err(failed) => Err(Refused {
                failure: failed.error.into(),
                rest: failed.options.map(|options| options as Box<dyn Choosing>),
            }),
        }
    }

    fn abort(self: Box<Self>) -> Outcome {
        Ok(Self::abort(*self)?)
    }
}
