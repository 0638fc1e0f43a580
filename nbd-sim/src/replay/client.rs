//! A recorded server, played to our client.

use nbd_proto::{
    Client, ClientConfig, CommandError, ContextId, Disconnect, Error, ErrorReport, Event, Extent,
    HeaderStyle, Limits, Machine, Negotiated, Negotiation, NegotiationEvent, PayloadSink,
    PayloadSource, Phase, ReadChunk, RequestId, StrictMode, part, part_mut,
};

use super::script::{Action, ClientScript, Item};
use crate::delivery::Delivery;
use crate::hostile::bytes::opt;

/// Everything our client told its caller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTrace {
    /// What the negotiation reported.
    pub haggled: Vec<NegotiationEvent>,
    /// What was agreed on.
    pub negotiated: Negotiated,
    /// How each command ended, in the order in which they were submitted.
    pub results: Vec<Option<Result<(), CommandError>>>,
    /// The buffer of each command.
    pub buffers: Vec<Vec<u8>>,
    /// The extents each command was told of.
    pub extents: Vec<Vec<(ContextId, Extent)>>,
    /// The parts of each read, in the order in which they came.
    pub chunks: Vec<Vec<ReadChunk>>,
    /// What the server explained: errno, offset, text.
    pub errors: Vec<(usize, Option<u64>, Vec<u8>)>,
    /// How it ended.
    pub end: Option<Error>,
}

impl ClientTrace {
    /// The last command was not sent after all.
    fn forget_last(&mut self) {
        self.buffers.pop();
        self.extents.pop();
        self.chunks.pop();
    }
}

impl PayloadSink for ClientTrace {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.buffers[id.slot()], at, len)
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        self.chunks[id.slot()].push(chunk);
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        self.extents[id.slot()].push((context, extent));
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        let message = report.message.to_vec();
        self.errors.push((id.slot(), report.offset, message));
    }
}

impl PayloadSource for ClientTrace {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        part(&self.buffers[id.slot()], at, len)
    }
}

enum Life {
    Haggling(Box<Negotiation>),
    Talking(Box<Client>),
    Over,
}

struct Player {
    life: Life,
    trace: ClientTrace,
    early: Vec<u8>,
}

impl ClientScript {
    /// Plays the session; the server's bytes are cut at `cut` as well.
    pub fn play(&self, delivery: Delivery, cut: Option<usize>, direct_min: usize) -> ClientTrace {
        let limits = Limits::default().scratch_len(0).direct_min(direct_min);
        let config: ClientConfig = self.config.clone().limits(limits);
        let negotiation = Negotiation::new(config).expect("recorded names are sound");
        let mut player = Player {
            life: Life::Haggling(Box::new(negotiation)),
            trace: ClientTrace::default(),
            early: Vec::new(),
        };
        let mut before = 0;
        let mut result = Ok(());
        for item in &self.items {
            result = result.and_then(|()| match item {
                Item::Act(action) => player.act(action),
                Item::Arrive(bytes) => {
                    let at = cut.and_then(|cut| cut.checked_sub(before));
                    before += bytes.len();
                    let (first, second) = bytes.split_at(at.unwrap_or(0).min(bytes.len()));
                    player.arrive(first, delivery)?;
                    player.arrive(second, delivery)
                }
            });
        }
        player.finish(result)
    }
}

impl Player {
    fn act(&mut self, action: &Action) -> Result<(), Error> {
        self.settle()?;
        match &mut self.life {
            Life::Haggling(negotiation) => {
                negotiate(negotiation, action)?;
                let mut sent = Vec::new();
                negotiation.drain(&mut sent, &self.trace).map(|_| ())
            }
            Life::Talking(client) => {
                match action {
                    Action::Submit(command, contexts, payload) => {
                        let read = command.kind == nbd_proto::CommandType::Read;
                        let length = if read { command.length as usize } else { 0 };
                        let mut buffer = payload.clone();
                        buffer.resize(length.max(payload.len()), 0xee);
                        self.trace.buffers.push(buffer);
                        self.trace.extents.push(Vec::new());
                        self.trace.chunks.push(Vec::new());
                        let id = if contexts.is_empty() {
                            client.submit(*command)
                        } else {
                            client.submit_filtered(*command, contexts)
                        };
                        match id {
                            Ok(id) => assert_eq!(id.slot() + 1, self.trace.buffers.len()),
                            // A changed server may have offered less, or have left.
                            Err(_) => self.trace.forget_last(),
                        }
                    }
                    _ => client.disconnect(Disconnect::AfterRequests),
                }
                client.drain(&mut Vec::new(), &self.trace).map(|_| ())
            }
            Life::Over => Ok(()),
        }
    }

    fn arrive(&mut self, bytes: &[u8], delivery: Delivery) -> Result<(), Error> {
        self.settle()?;
        match &mut self.life {
            Life::Haggling(negotiation) => {
                let taken = delivery.deliver(&mut **negotiation, &mut self.trace, bytes)?;
                self.early.extend_from_slice(&bytes[taken..]);
                negotiation.drain(&mut Vec::new(), &self.trace)?;
                while let Some(event) = negotiation.poll_event() {
                    self.trace.haggled.push(event);
                }
                if negotiation.phase() == Phase::StartTls {
                    negotiation.tls_ready()?;
                }
                Ok(())
            }
            Life::Talking(client) => {
                delivery.deliver(&mut **client, &mut self.trace, bytes).map(|_| ())
            }
            Life::Over => Ok(()),
        }
    }

    /// From the negotiation to the data phase, once it stands.
    fn settle(&mut self) -> Result<(), Error> {
        let Life::Haggling(negotiation) = &self.life else {
            return Ok(());
        };
        if negotiation.phase() != Phase::Established {
            return Ok(());
        }
        let Life::Haggling(negotiation) = std::mem::replace(&mut self.life, Life::Over) else {
            return Ok(());
        };
        self.trace.negotiated = negotiation.negotiated().clone();
        let mut client = negotiation.finish().expect("established");
        client.set_strict(StrictMode::AUTO_FLAG);
        client.received(0, &mut self.trace)?;
        client.feed(&std::mem::take(&mut self.early), &mut self.trace)?;
        self.life = Life::Talking(Box::new(client));
        Ok(())
    }

    fn finish(mut self, result: Result<(), Error>) -> ClientTrace {
        let result = result.and_then(|()| self.settle());
        self.trace.results = vec![None; self.trace.buffers.len()];
        let ended = match &mut self.life {
            Life::Haggling(negotiation) => {
                self.trace.negotiated = negotiation.negotiated().clone();
                // A session that ends in the negotiation need not be aborted.
                if negotiation.phase() == Phase::Busy { negotiation.eof() } else { Ok(()) }
            }
            Life::Talking(client) => {
                let end = client.eof();
                while let Some(event) = client.poll_event() {
                    if let Event::Completed { id, result, .. } = event {
                        let before = self.trace.results[id.slot()].replace(result);
                        assert_eq!(before, None, "{id:?} completed twice");
                    }
                }
                end
            }
            Life::Over => Ok(()),
        };
        self.trace.end = result.and(ended).err();
        self.trace
    }
}

fn negotiate(negotiation: &mut Negotiation, action: &Action) -> Result<(), Error> {
    if negotiation.phase() != Phase::Idle {
        // The order of our own has done it: the way out when GO is unknown.
        return Ok(());
    }
    match action {
        Action::Option(opt::LIST) => negotiation.list(),
        Action::Option(opt::STARTTLS) => negotiation.start_tls(),
        Action::Option(opt::STRUCTURED_REPLY) => negotiation.structured_replies(),
        Action::Option(opt::EXTENDED_HEADERS) => negotiation.extended_headers(),
        Action::Option(_) => negotiation.abort(),
        Action::Export { go, name, block_sizes, full_info } => {
            negotiation.set_export_name(name.clone())?;
            negotiation.reconfigure(|config| {
                config.export(name.clone()).block_sizes(*block_sizes).full_info(*full_info)
            })?;
            if *go { negotiation.go() } else { negotiation.info() }
        }
        Action::Contexts { set, name, queries } => {
            negotiation.reconfigure(|config| config.export(name.clone()))?;
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            match (set, negotiation.negotiated().headers) {
                (_, HeaderStyle::Simple) => Ok(()),
                (true, _) => negotiation.set_meta_contexts(&queries),
                (false, _) => negotiation.list_meta_contexts(&queries),
            }
        }
        Action::Submit(..) | Action::Disconnect => Ok(()),
    }
}
