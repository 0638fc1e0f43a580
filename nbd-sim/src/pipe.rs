//! A connection in memory that delivers as badly as its schedule says.
//!
//! ```text
//!   client End ── write ─► Flow to_server ── read ─► server End
//!              ◄─ read ─── Flow to_client ◄─ write ─
//! ```
//!
//! Each direction has a schedule of its own. Faults strike between the writer and
//! the reader, so an [`End`]'s log tells what its owner really sent and saw.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::rc::Rc;

use crate::rng::Rng;

/// How one direction of a pipe behaves.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Most bytes of one read; at least 1.
    pub read_cap: usize,
    /// Most bytes of one write; at least 1.
    pub write_cap: usize,
    /// Bytes under way at once; at least 1.
    pub capacity: usize,
    /// One call in so many would block for no reason; 0 for none.
    pub block_one_in: usize,
    /// The reader sees the end after that many bytes, whatever was written.
    pub eof_at: Option<u64>,
    /// This byte reaches the reader with these bits flipped.
    pub flip: Option<(u64, u8)>,
}

impl Schedule {
    /// Nothing is cut, blocked, lost or changed.
    pub const SMOOTH: Self = Self {
        read_cap: usize::MAX,
        write_cap: usize::MAX,
        capacity: usize::MAX,
        block_one_in: 0,
        eof_at: None,
        flip: None,
    };

    /// Cuts and blocks by chance, without faults.
    pub fn random(rng: &mut Rng) -> Self {
        let caps = [usize::MAX, usize::MAX, 64 << 10, 4096, 100, 28, 7];
        Self {
            read_cap: rng.pick(&caps),
            write_cap: rng.pick(&caps),
            capacity: rng.pick(&[usize::MAX, usize::MAX, 64 << 10, 4096, 512, 64]),
            block_one_in: rng.pick(&[0, 0, 10, 3]),
            ..Self::SMOOTH
        }
    }
}

#[derive(Debug)]
struct Flow {
    schedule: Schedule,
    rng: Rng,
    bytes: VecDeque<u8>,
    delivered: u64,
    writer_left: bool,
    reader_left: bool,
}

impl Flow {
    fn new(schedule: Schedule, rng: Rng) -> Self {
        Self {
            schedule,
            rng,
            bytes: VecDeque::new(),
            delivered: 0,
            writer_left: false,
            reader_left: false,
        }
    }

    /// How much of `available` this call moves: all that is allowed, or less.
    fn amount(&mut self, available: usize, cap: usize) -> usize {
        let most = available.min(cap.max(1));
        if most == 0 || cap == usize::MAX || self.rng.one_in(2) {
            most
        } else {
            1 + self.rng.below(most)
        }
    }

    fn blocks(&mut self) -> bool {
        self.rng.one_in(self.schedule.block_one_in)
    }

    fn read(&mut self, bufs: &mut [&mut [u8]]) -> io::Result<usize> {
        let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.blocks() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before_end =
            self.schedule.eof_at.map_or(usize::MAX, |end| (end - self.delivered) as usize);
        let available = self.bytes.len().min(before_end);
        if available == 0 {
            return if before_end == 0 || self.writer_left {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let n = self.amount(available.min(wanted), self.schedule.read_cap);
        let mut moved = 0;
        for buf in bufs {
            let part = buf.len().min(n - moved);
            for (to, from) in buf[..part].iter_mut().zip(self.bytes.drain(..part)) {
                *to = from;
            }
            if let Some((at, bits)) = self.schedule.flip
                && let Some(index) = at.checked_sub(self.delivered)
                && let Some(byte) = buf[..part].get_mut(index as usize)
            {
                *byte ^= bits;
            }
            self.delivered += part as u64;
            moved += part;
        }
        Ok(n)
    }

    fn write(&mut self, bufs: &[&[u8]]) -> io::Result<usize> {
        if self.reader_left {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = self.schedule.capacity.max(1) - self.bytes.len().min(self.schedule.capacity);
        if room == 0 || self.blocks() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        let n = self.amount(offered.min(room), self.schedule.write_cap);
        let mut moved = 0;
        for buf in bufs {
            let part = buf.len().min(n - moved);
            self.bytes.extend(&buf[..part]);
            moved += part;
        }
        Ok(n)
    }
}

/// Which way bytes went, seen from one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The owner of the end wrote them.
    Sent,
    /// The owner of the end read them.
    Seen,
}

/// One end of a pipe: non-blocking [`Read`] and [`Write`]. Dropping it closes both
/// directions.
#[derive(Debug)]
pub struct End {
    inbound: Rc<RefCell<Flow>>,
    outbound: Rc<RefCell<Flow>>,
    log: Vec<(Way, Vec<u8>)>,
    calls: u64,
}

/// A fresh connection: the client's end and the server's.
pub fn pipe(rng: &mut Rng, to_server: Schedule, to_client: Schedule) -> (End, End) {
    let to_server = Rc::new(RefCell::new(Flow::new(to_server, rng.fork())));
    let to_client = Rc::new(RefCell::new(Flow::new(to_client, rng.fork())));
    let client = End::new(to_client.clone(), to_server.clone());
    (client, End::new(to_server, to_client))
}

impl End {
    const fn new(inbound: Rc<RefCell<Flow>>, outbound: Rc<RefCell<Flow>>) -> Self {
        Self { inbound, outbound, log: Vec::new(), calls: 0 }
    }

    /// Everything that passed this end, in order; neighbours that went the same way
    /// are one burst.
    pub fn log(&self) -> &[(Way, Vec<u8>)] {
        &self.log
    }

    /// Calls that moved bytes so far.
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Bytes that wait to be read here.
    pub fn waiting(&self) -> usize {
        self.flow().bytes.len()
    }

    /// Ends both directions. What was written before can still be read.
    pub fn close(&mut self) {
        self.inbound.borrow_mut().reader_left = true;
        self.outbound.borrow_mut().writer_left = true;
    }

    /// From now on a write blocks only for want of room.
    pub fn steady(&mut self) {
        self.outbound.borrow_mut().schedule.block_one_in = 0;
    }

    /// Ends both directions, and what is under way with them.
    pub fn cut(&mut self) {
        self.close();
        self.inbound.borrow_mut().bytes.clear();
        self.outbound.borrow_mut().bytes.clear();
    }

    fn flow(&self) -> Ref<'_, Flow> {
        self.inbound.borrow()
    }

    fn note<'a>(&mut self, way: Way, pieces: impl Iterator<Item = &'a [u8]>, n: usize) {
        self.calls += 1;
        if self.log.last().is_none_or(|(last, _)| *last != way) {
            self.log.push((way, Vec::new()));
        }
        let (_, burst) = self.log.last_mut().expect("a burst was just begun");
        let mut left = n;
        for piece in pieces {
            let part = piece.len().min(left);
            burst.extend_from_slice(&piece[..part]);
            left -= part;
        }
    }

    fn take(&mut self, bufs: &mut [&mut [u8]]) -> io::Result<usize> {
        let n = self.inbound.borrow_mut().read(bufs)?;
        self.note(Way::Seen, bufs.iter().map(|buf| &**buf), n);
        Ok(n)
    }

    fn give(&mut self, bufs: &[&[u8]]) -> io::Result<usize> {
        let n = self.outbound.borrow_mut().write(bufs)?;
        self.note(Way::Sent, bufs.iter().copied(), n);
        Ok(n)
    }
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.take(&mut [buf])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut bufs: Vec<&mut [u8]> = bufs.iter_mut().map(|buf| &mut **buf).collect();
        self.take(&mut bufs)
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.give(&[buf])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bufs: Vec<&[u8]> = bufs.iter().map(|buf| &**buf).collect();
        self.give(&bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(to_server: Schedule, sent: &[u8]) -> Vec<u8> {
        let (mut client, mut server) = pipe(&mut Rng::new(5), to_server, Schedule::SMOOTH);
        let (mut seen, mut at) = (Vec::new(), 0);
        loop {
            if at < sent.len() {
                match client.write(&sent[at..]) {
                    Ok(n) => at += n,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            } else {
                client.close();
            }
            let mut halves = [[0; 3], [0; 3]];
            let [a, b] = &mut halves;
            match server.read_vectored(&mut [IoSliceMut::new(a), IoSliceMut::new(b)]) {
                Ok(0) => return seen,
                Ok(n) => seen.extend_from_slice(&halves.concat()[..n]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn whatever_the_cuts_the_bytes_arrive() {
        let sent: Vec<u8> = (0..=255).collect();
        assert_eq!(run(Schedule::SMOOTH, &sent), sent);
        for seed in 0..50 {
            assert_eq!(run(Schedule::random(&mut Rng::new(seed)), &sent), sent);
        }
    }

    #[test]
    fn faults_strike_where_they_are_told_to() {
        let end = Schedule { eof_at: Some(3), ..Schedule::SMOOTH };
        assert_eq!(run(end, &[1, 2, 3, 4]), [1, 2, 3]);
        let flip = Schedule { flip: Some((2, 0x80)), ..Schedule::SMOOTH };
        assert_eq!(run(flip, &[1, 2, 3, 4]), [1, 2, 0x83, 4]);
    }

    #[test]
    fn a_closed_end_is_told_to_the_other() {
        let (client, mut server) = pipe(&mut Rng::new(0), Schedule::SMOOTH, Schedule::SMOOTH);
        let blocked = server.read(&mut [0]).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        let broken = server.write(&[0]).unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_log_tells_both_ways_in_order() {
        let (mut client, mut server) = pipe(&mut Rng::new(0), Schedule::SMOOTH, Schedule::SMOOTH);
        client.write_all(&[1]).unwrap();
        client.write_all(&[2]).unwrap();
        server.write_all(&[3]).unwrap();
        assert_eq!(client.waiting(), 1);
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(client.log(), [(Way::Sent, vec![1, 2]), (Way::Seen, vec![3])]);
        assert_eq!(client.calls(), 3);
    }
}
