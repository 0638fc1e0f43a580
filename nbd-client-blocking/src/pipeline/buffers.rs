//! The memory behind the commands of a pipeline.

use std::fmt;

use nbd_proto::{
    Buffers as Table, Command, CommandType, PayloadSink, PayloadSource, RequestId, part, part_mut,
};

/// Buffers that were given with their commands, and those that are made when they are needed.
pub(super) struct Buffers<'c, B> {
    slots: Table<Slot<B>>,
    make: Option<Box<dyn FnMut(usize) -> B + 'c>>,
}

#[derive(Debug)]
enum Slot<B> {
    Here(B),
    /// Of so many bytes, made when the first of them come.
    Late(usize),
}

impl<'c, B> Buffers<'c, B> {
    pub(super) const fn new(make: Option<Box<dyn FnMut(usize) -> B + 'c>>) -> Self {
        Self { slots: Table::new(), make }
    }

    /// Bytes of the buffer that came with a command: of one that is made later, as many as the
    /// command says.
    #[inline]
    pub(super) fn length(&self, command: &Command, buffer: Option<&B>) -> usize
    where
        B: AsRef<[u8]>,
    {
        match (buffer, &self.make) {
            (Some(buffer), _) => buffer.as_ref().len(),
            (None, Some(_)) if command.kind == CommandType::Read => {
                usize::try_from(command.length).unwrap_or(usize::MAX)
            }
            (None, _) => 0,
        }
    }

    #[inline]
    pub(super) fn insert(&mut self, id: RequestId, buffer: B) {
        self.slots.insert(id, Slot::Here(buffer));
    }

    /// The buffer of this command is made when its first bytes come.
    pub(super) fn make_late(&mut self, id: RequestId, length: usize) {
        self.slots.insert(id, Slot::Late(length));
    }

    #[inline]
    pub(super) fn get(&self, id: RequestId) -> Option<&B> {
        match self.slots.get(id)? {
            Slot::Here(buffer) => Some(buffer),
            Slot::Late(_) => None,
        }
    }

    /// Nothing, where no byte has come of what was to be made a buffer for.
    #[inline]
    pub(super) fn remove(&mut self, id: RequestId) -> Option<B> {
        match self.slots.remove(id)? {
            Slot::Here(buffer) => Some(buffer),
            Slot::Late(_) => None,
        }
    }
}

impl<B: AsMut<[u8]>> PayloadSink for Buffers<'_, B> {
    #[inline]
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        let Some(slot) = self.slots.get_mut(id) else { return &mut [] };
        if let Slot::Late(length) = *slot
            && let Some(make) = &mut self.make
        {
            *slot = Slot::Here(make(length));
        }
        match slot {
            Slot::Here(buffer) => part_mut(buffer.as_mut(), at, len),
            Slot::Late(_) => &mut [],
        }
    }
}

impl<B: AsRef<[u8]>> PayloadSource for Buffers<'_, B> {
    #[inline]
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.get(id).map_or(&[], |buffer| part(buffer.as_ref(), at, len))
    }
}

impl<B: fmt::Debug> fmt::Debug for Buffers<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").field("slots", &self.slots).finish_non_exhaustive()
    }
}
