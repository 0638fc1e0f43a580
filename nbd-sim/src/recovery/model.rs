//! What an application may expect to read, from its own commands and their outcomes.

use std::ops::Range;

/// Something a byte may be: a value, or anything at all.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    value: Option<u8>,
    /// How many writes had been acknowledged by then.
    stamp: u64,
}

#[derive(Debug, Clone)]
struct Byte {
    /// Oldest first; never empty. The last is what it is if nothing was lost.
    candidates: Vec<Candidate>,
    /// Changes under way.
    writers: u32,
    /// What the only one under way makes of it; `None` if there are more.
    coming: Option<u8>,
    /// A read has returned that already.
    seen: bool,
    /// Counts the beginnings and ends of changes.
    touched: u64,
    /// A change nobody waits for may strike at any time.
    hopeless: bool,
}

/// A byte when a read began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glance {
    touched: u64,
    seen: bool,
    /// How often sights had been lost by then.
    sights: u64,
}

/// The disk as the application may expect it.
#[derive(Debug)]
pub(crate) struct Model {
    bytes: Vec<Byte>,
    /// Writes acknowledged.
    stamp: u64,
    /// The same when a connection was lost last, or 0.
    lost: u64,
    /// The same when one was lost to a crash, or 0.
    crashed: u64,
    /// How often what was seen of changes under way has been lost.
    sights: u64,
    /// What is acknowledged stays.
    keeps: bool,
}

impl Model {
    pub(crate) fn new(disk: &[u8], keeps: bool) -> Self {
        let byte = |value: &u8| Byte {
            candidates: vec![Candidate { value: Some(*value), stamp: 0 }],
            writers: 0,
            coming: None,
            seen: false,
            touched: 0,
            hopeless: false,
        };
        Self {
            bytes: disk.iter().map(byte).collect(),
            stamp: 0,
            lost: 0,
            crashed: 0,
            sights: 0,
            keeps,
        }
    }

    /// Writes acknowledged so far: what a flush covers that is submitted now.
    pub(crate) const fn stamp(&self) -> u64 {
        self.stamp
    }

    /// To be given to [`check_read`](Self::check_read) when the read has come back.
    pub(crate) fn glance(&self, range: Range<usize>) -> Vec<Glance> {
        let sights = self.sights;
        let glance = |byte: &Byte| Glance { touched: byte.touched, seen: byte.seen, sights };
        self.bytes[range].iter().map(glance).collect()
    }

    /// A change is submitted; `data` is what it writes, if that is certain.
    pub(crate) fn begin(&mut self, range: Range<usize>, data: Option<&[u8]>) {
        for (index, byte) in self.bytes[range].iter_mut().enumerate() {
            byte.writers += 1;
            byte.touched += 1;
            byte.seen = false;
            byte.coming = data.filter(|_| byte.writers == 1).map(|data| data[index]);
        }
    }

    /// A change succeeded.
    pub(crate) fn acknowledge(&mut self, range: Range<usize>, data: Option<&[u8]>, durable: bool) {
        self.stamp += 1;
        let stamp = self.stamp;
        for (index, byte) in self.bytes[range].iter_mut().enumerate() {
            byte.end();
            if durable {
                byte.candidates.clear();
            }
            byte.candidates.push(Candidate { value: data.map(|data| data[index]), stamp });
        }
    }

    /// A change failed, in part or not at all.
    pub(crate) fn fail(&mut self, range: Range<usize>) {
        self.stamp += 1;
        let stamp = self.stamp;
        for byte in &mut self.bytes[range] {
            byte.end();
            byte.candidates.push(Candidate { value: None, stamp });
        }
    }

    /// Nobody waits for a change any more.
    pub(crate) fn give_up(&mut self, range: Range<usize>) {
        for byte in &mut self.bytes[range] {
            byte.end();
            byte.hopeless = true;
        }
    }

    /// What nobody waits for any more has struck by now, or never will.
    pub(crate) fn calm(&mut self) {
        let stamp = self.stamp;
        for byte in self.bytes.iter_mut().filter(|byte| byte.hopeless) {
            byte.hopeless = false;
            byte.touched += 1;
            byte.candidates.push(Candidate { value: None, stamp });
        }
    }

    /// The export has grown, by zeroes.
    pub(crate) fn grow(&mut self, size: usize) {
        let more = Self::new(&vec![0; size.saturating_sub(self.bytes.len())], self.keeps);
        self.bytes.extend(more.bytes);
    }

    /// A connection is lost.
    pub(crate) const fn lose(&mut self, crashed: bool) {
        self.lost = self.stamp;
        if crashed {
            self.crashed = self.stamp;
        }
    }

    /// A crash has taken what was seen of changes under way. They come again, but on other
    /// connections than those of the reads that are next.
    pub(crate) fn lose_sight(&mut self) {
        self.sights += 1;
        self.bytes.iter_mut().for_each(|byte| byte.seen = false);
    }

    /// A flush succeeded that was submitted when so many had been acknowledged.
    pub(crate) fn flush(&mut self, covers: u64) {
        for byte in &mut self.bytes {
            let last = byte.candidates.iter().rposition(|one| one.stamp <= covers);
            byte.candidates.drain(..last.unwrap_or(0));
        }
    }

    /// A flush told that what was acknowledged before the loss may be gone.
    pub(crate) fn tell(&mut self) {
        for byte in &mut self.bytes {
            let gone = byte.candidates.iter().filter(|one| one.stamp <= self.lost).count();
            if gone > 1 {
                let stamp = byte.candidates[gone - 1].stamp;
                byte.candidates.drain(..gone - 1);
                byte.candidates[0] = Candidate { value: None, stamp };
            }
        }
    }

    /// The first byte that cannot have been read. The glances are from when the read began.
    pub(crate) fn check_read(
        &mut self,
        at: usize,
        data: &[u8],
        glances: &[Glance],
    ) -> Option<usize> {
        let (keeps, crashed, sights) = (self.keeps, self.crashed, self.sights);
        let bytes = self.bytes[at..].iter_mut().zip(data).zip(glances);
        let mut wrong = bytes.enumerate().filter_map(|(index, ((byte, value), glance))| {
            let stable = byte.touched == glance.touched && !byte.hopeless;
            let allowed = !stable || byte.allows(*value, glance.is_seen(sights), keeps, crashed);
            (!allowed).then_some(at + index)
        });
        wrong.next()
    }

    /// The first byte of what a crash has left that cannot be, after a flush.
    pub(crate) fn check_remains(&self, disk: &[u8]) -> Option<usize> {
        let bytes = self.bytes.iter().zip(disk);
        bytes.enumerate().find_map(|(index, (byte, value))| {
            let settled = byte.writers == 0 && !byte.hopeless;
            (settled && !byte.is_candidate(*value, self.keeps)).then_some(index)
        })
    }
}

impl Glance {
    const fn is_seen(&self, sights: u64) -> bool {
        self.seen && self.sights == sights
    }
}

impl Byte {
    const fn end(&mut self) {
        self.writers -= 1;
        self.touched += 1;
        self.seen = false;
        self.coming = None;
    }

    fn is_candidate(&self, value: u8, only_last: bool) -> bool {
        let from = if only_last { self.candidates.len() - 1 } else { 0 };
        self.candidates[from..].iter().any(|one| one.value.is_none_or(|is| is == value))
    }

    fn allows(&mut self, value: u8, seen: bool, keeps: bool, crashed: u64) -> bool {
        let exact = keeps || self.candidates.last().is_some_and(|last| last.stamp > crashed);
        match (self.writers, self.coming) {
            (0, _) => self.is_candidate(value, exact),
            (1, Some(coming)) if coming == value => {
                self.seen = true;
                true
            }
            // Old, unless it was new before the read began.
            (1, Some(_)) => !seen && self.is_candidate(value, exact),
            // More than one change is under way.
            _ => true,
        }
    }
}
