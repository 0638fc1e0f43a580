//! The client application's memory, with canaries around each buffer.

use nbd_proto::{
    Command, CommandType, ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk,
    RequestId, part, part_mut,
};

use crate::rng::Rng;

/// Bytes before and after each buffer that nobody may touch.
const MARGIN: usize = 40;
const CANARY: u8 = 0xc5;

/// A command's memory and what its reply told.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) command: Command,
    bytes: Vec<u8>,
    pub(super) extents: Vec<(ContextId, Extent)>,
    pub(super) holes: u64,
}

impl Buffer {
    /// Memory for the payload of `command`, filled with noise.
    pub(super) fn new(command: Command, payload: usize, rng: &mut Rng) -> Self {
        let mut bytes = vec![CANARY; payload + 2 * MARGIN];
        rng.fill(&mut bytes[MARGIN..MARGIN + payload]);
        Self { command, bytes, extents: Vec::new(), holes: 0 }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[MARGIN..self.bytes.len() - MARGIN]
    }

    /// Whether nothing but the payload was touched.
    pub(super) fn is_intact(&self) -> bool {
        let (front, rest) = self.bytes.split_at(MARGIN);
        let back = &rest[rest.len() - MARGIN..];
        front.iter().chain(back).all(|byte| *byte == CANARY)
    }
}

/// The buffers of all commands, by slot, as adapters keep them.
#[derive(Debug)]
pub(super) struct Buffers {
    slots: Vec<Option<(RequestId, Buffer)>>,
    rng: Rng,
    /// Destinations are scattered: a region is shorter than asked for.
    scattered: bool,
    /// The first thing the machine did wrong.
    pub(super) broken: Option<String>,
}

impl Buffers {
    pub(super) fn new(mut rng: Rng) -> Self {
        let scattered = rng.one_in(3);
        Self { slots: Vec::new(), rng, scattered, broken: None }
    }

    pub(super) fn insert(&mut self, id: RequestId, buffer: Buffer) {
        if id.slot() >= self.slots.len() {
            self.slots.resize_with(id.slot() + 1, || None);
        }
        self.slots[id.slot()] = Some((id, buffer));
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Buffer> {
        let slot = self.slots.get_mut(id.slot())?;
        slot.take_if(|(owner, _)| *owner == id).map(|(_, buffer)| buffer)
    }

    pub(super) fn is_write(&mut self, id: RequestId) -> bool {
        self.find(id).is_some_and(|buffer| buffer.command.kind == CommandType::Write)
    }

    fn find(&mut self, id: RequestId) -> Option<&mut Buffer> {
        let slot = self.slots.get_mut(id.slot())?.as_mut();
        slot.filter(|(owner, _)| *owner == id).map(|(_, buffer)| buffer)
    }

    fn blame(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}

impl PayloadSink for Buffers {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        let scattered = self.scattered.then(|| 1 + self.rng.below(len.min(700)));
        let Some(length) = self.find(id).map(|buffer| buffer.payload().len()) else {
            self.blame(format!("payload for {id:?}, which is not open"));
            return &mut [];
        };
        if len == 0 || at + len > length {
            self.blame(format!("{len} bytes at {at} of {id:?}, which has {length}"));
        }
        let len = scattered.map_or(len, |most| most.min(len));
        // Not cut at the end of the payload: an overrun shall hit the canary.
        self.find(id)
            .map(|buffer| part_mut(&mut buffer.bytes, MARGIN + at, len))
            .unwrap_or_default()
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        let Some(buffer) = self.find(id) else {
            self.blame(format!("a chunk for {id:?}, which is not open"));
            return;
        };
        buffer.holes += u64::from(chunk.hole);
        let end = chunk.at + chunk.length;
        let length = buffer.payload().len();
        if end > length {
            self.blame(format!("a chunk up to {end} of {id:?}, which has {length} bytes"));
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        match self.find(id) {
            Some(buffer) => buffer.extents.push((context, extent)),
            None => self.blame(format!("an extent for {id:?}, which is not open")),
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        let Some(command) = self.find(id).map(|buffer| buffer.command) else {
            self.blame(format!("an error text for {id:?}, which is not open"));
            return;
        };
        let inside = |at: u64| (command.offset..command.offset + command.length).contains(&at);
        if !report.offset.is_none_or(inside) {
            self.blame(format!("an error at {:?} of {command:?}", report.offset));
        }
    }
}

impl PayloadSource for Buffers {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        match self.slots.get(id.slot()) {
            Some(Some((owner, buffer))) if *owner == id => {
                let len = if self.scattered { len.min(1 + at % 700) } else { len };
                part(buffer.payload(), at, len)
            }
            _ => &[],
        }
    }
}
