//! The adapters for tasks, each on its runtime.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use nbd_client_async::{Client, Connector, Error, Options};
use nbd_proto::{
    Command, CommandFlags, CommandType, ContextId, ExportEntry, Extent, MetaContext, Negotiated,
};
use nbd_transport::tls::TlsInfo;

use super::host::{Host, LastTurns};
use super::{Choosing, How, Refused, Session, Subject};
use crate::outcome::{Failure, Op, Outcome, Reply};

pub(crate) struct Asynchronous<H>(pub(crate) H);

impl<H: Host> Asynchronous<H> {
    pub(super) fn connector(&self, how: &How) -> Outcome<Connector<H::Runtime>> {
        Ok(Connector::new(how.options()?))
    }
}

impl<H: Host> Subject for Asynchronous<H> {
    fn splits(&self) -> bool {
        true
    }

    fn connect(&self, how: &How) -> Outcome<Box<dyn Session>> {
        let client = self.0.block_on(self.connector(how)?.connect())?;
        Ok(Box::new(Live::new(self.0.clone(), client)))
    }

    fn negotiate(&self, how: &How) -> Outcome<Box<dyn Choosing>> {
        let options = self.0.block_on(self.connector(how)?.negotiate())?;
        let host = self.0.clone();
        Ok(Box::new(Asking { options, _turns: LastTurns(host.clone()), host }))
    }
}

struct Live<H: Host> {
    host: H,
    client: Client,
    _turns: LastTurns<H>,
}

impl<H: Host> Live<H> {
    fn new(host: H, client: Client) -> Self {
        Self { client, _turns: LastTurns(host.clone()), host }
    }
}

/// What a command becomes that other tasks run beside.
async fn perform(client: Client, op: Op) -> Result<Reply, Error> {
    let Command { kind, flags, offset, length } = op.command;
    let mut reply = Reply::default();
    match kind {
        CommandType::Read if flags.is_empty() => {
            let (result, data) = client.read_exact_at(vec![0; length as usize], offset).await;
            result?;
            reply.data = data;
        }
        CommandType::Read => {
            let buffer = vec![0; length as usize];
            let (result, data) = client.read_structured(buffer, offset, flags).await;
            result?;
            reply.data = data;
        }
        CommandType::Write => {
            client.write_all_at_with(op.data.unwrap_or_default(), offset, flags).await?;
        }
        CommandType::BlockStatus => {
            reply.extents = client.block_status(offset, length, flags).await?;
        }
        CommandType::Flush | CommandType::Trim | CommandType::Cache | CommandType::WriteZeroes => {
            client.run(op.command).await?
        }
    }
    Ok(reply)
}

impl<H: Host> Session for Live<H> {
    fn facts(&self) -> Negotiated {
        (*self.client.negotiated()).clone()
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        self.client.tls_info()
    }

    fn read(&mut self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        Ok(self.host.block_on(self.client.read(offset, length))?.into())
    }

    fn write(&mut self, offset: u64, data: &[u8], flags: CommandFlags) -> Outcome {
        let data = data.to_vec();
        Ok(self.host.block_on(self.client.write_all_at_with(data, offset, flags))?)
    }

    fn run(&mut self, command: Command) -> Outcome {
        Ok(self.host.block_on(self.client.run(command))?)
    }

    fn status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Outcome<Vec<(ContextId, Extent)>> {
        Ok(self.host.block_on(self.client.block_status(offset, length, flags))?)
    }

    fn batch(&mut self, ops: Vec<Op>, meanwhile: &mut dyn FnMut()) -> Vec<Outcome<Reply>> {
        let places = Arc::new(AtomicUsize::new(0));
        let begin = |op| {
            let (client, places) = (self.client.clone(), Arc::clone(&places));
            Box::pin(async move {
                let mut reply = perform(client, op).await.map_err(Failure::from)?;
                reply.place = places.fetch_add(1, Ordering::Relaxed);
                Ok(reply)
            })
        };
        self.host.block_on(async {
            let mut calls: Vec<_> = ops.into_iter().map(begin).map(Call::Begun).collect();
            for call in &mut calls {
                call.submit().await;
            }
            meanwhile();
            let tasks: Vec<_> = calls
                .into_iter()
                .map(|call| match call {
                    Call::Begun(call) => self.host.spawn(call),
                    Call::Over(outcome) => Box::pin(std::future::ready(outcome)),
                })
                .collect();
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await);
            }
            outcomes
        })
    }

    fn set_timeout(&mut self, timeout: Duration) -> Outcome {
        self.client = self.client.with_timeout(Some(timeout));
        Ok(())
    }

    fn disconnect(self: Box<Self>) -> Outcome<Option<Box<dyn Session>>> {
        self.host.block_on(self.client.clone().disconnect())?;
        Ok(Some(self))
    }
}

/// A call that may be over as soon as it is submitted.
enum Call<F> {
    Begun(Pin<Box<F>>),
    Over(Outcome<Reply>),
}

impl<F: Future<Output = Outcome<Reply>>> Call<F> {
    /// Polls once, which submits.
    async fn submit(&mut self) {
        if let Self::Begun(call) = self
            && let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await
        {
            *self = Self::Over(outcome);
        }
    }
}

struct Asking<H: Host> {
    host: H,
    options: Options,
    _turns: LastTurns<H>,
}

impl<H: Host> Choosing for Asking<H> {
    fn list(&mut self) -> Outcome<Vec<ExportEntry>> {
        Ok(self.host.block_on(self.options.list())?)
    }

    fn info(&mut self) -> Outcome<Negotiated> {
        Ok(self.host.block_on(self.options.info())?)
    }

    fn list_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        Ok(self.host.block_on(self.options.list_meta_contexts(queries))?)
    }

    fn set_contexts(&mut self, queries: &[&str]) -> Outcome<Vec<MetaContext>> {
        Ok(self.host.block_on(self.options.set_meta_contexts(queries))?)
    }

    fn set_export_name(&mut self, name: &str) -> Outcome {
        Ok(self.options.set_export_name(name)?)
    }

    fn go(self: Box<Self>) -> Result<Box<dyn Session>, Refused> {
        let Self { host, options, _turns } = *self;
        match host.block_on(options.go()) {
            Ok(client) => Ok(Box::new(Live::new(host, client))),
            Err(failed) => {
                let rest = failed.options.map(|options| {
                    let options = *options;
                    Box::new(Self { host, options, _turns }) as Box<dyn Choosing>
                });
                Err(Refused { failure: failed.error.into(), rest })
            }
        }
    }

    fn abort(self: Box<Self>) -> Outcome {
        Ok(self.host.block_on(self.options.abort())?)
    }
}
