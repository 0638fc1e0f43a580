//! A view of an export as a file, against a disk in memory.

use std::collections::VecDeque;
use std::io::SeekFrom;

use bytes::{Bytes, BytesMut};
use nbd_proto::{BlockSizes, Command, CommandType, ExportInfo, TransmissionFlags};
use nbd_session::Error;
use nbd_session::file::{Blocks, FileView, Next, Send};
use proptest::collection::vec;
use proptest::prelude::*;

fn export(size: u64, block: u32) -> ExportInfo {
    let mut export = ExportInfo::new(size, TransmissionFlags::SEND_FLUSH);
    export.block_sizes = Some(BlockSizes { minimum: block, preferred: block, maximum: 1 << 25 });
    export
}

fn failure() -> Error {
    Error::check_payload(&Command::flush(), 1).unwrap_err()
}

/// Carries commands out, one at a time.
struct Disk {
    content: Vec<u8>,
    block: u64,
    flushes: usize,
    under_way: VecDeque<Send>,
    /// So many commands from now on, one fails.
    fails_in: Option<usize>,
    /// How many have.
    failures: usize,
}

impl Disk {
    fn new(size: usize, block: u64) -> Self {
        Self {
            content: vec![0; size],
            block,
            flushes: 0,
            under_way: VecDeque::new(),
            fails_in: None,
            failures: 0,
        }
    }

    fn send(&mut self, send: Send) {
        assert!(self.under_way.is_empty(), "one at a time");
        let Command { kind, offset, length, .. } = send.command;
        if kind != CommandType::Flush {
            let end = offset + length;
            assert!(length > 0 && end <= self.content.len() as u64);
            assert_eq!(offset % self.block, 0);
            assert!(end % self.block == 0 || end == self.content.len() as u64);
        }
        self.under_way.push_back(send);
    }

    /// Carries out what is under way, and whatever follows from it.
    fn finish(&mut self, view: &mut FileView) {
        while let Some(Send { command, payload, .. }) = self.under_way.pop_front() {
            let fails = self.fails_in == Some(0);
            self.fails_in = self.fails_in.map(|left| left.wrapping_sub(1));
            let at = command.offset as usize..(command.offset + command.length) as usize;
            let mut data = BytesMut::new();
            if fails {
                self.fails_in = None;
                self.failures += 1;
            } else {
                match command.kind {
                    CommandType::Read => data.extend_from_slice(&self.content[at]),
                    CommandType::Write => {
                        self.content[at].copy_from_slice(&payload.expect("it has data"));
                    }
                    CommandType::Flush => self.flushes += 1,
                    kind => panic!("{kind:?}"),
                }
            }
            let result = if fails { Err(failure()) } else { Ok(()) };
            if let Some(next) = view.completed(result, data) {
                self.send(next);
            }
        }
    }

    fn wait<T>(
        &mut self,
        view: &mut FileView,
        mut call: impl FnMut(&mut FileView) -> Result<Next<T>, Error>,
    ) -> Result<T, Error> {
        for _ in 0..4 {
            match call(view)? {
                Next::Ready(value) => return Ok(value),
                Next::Send(send) => {
                    self.send(send);
                    self.finish(view);
                }
                Next::Busy => self.finish(view),
                _ => unreachable!(),
            }
        }
        panic!("it never ends");
    }

    fn read(&mut self, view: &mut FileView, want: usize) -> Result<Vec<u8>, Error> {
        self.wait(view, |view| view.read(want))?;
        let data = view.ahead(want).to_vec();
        view.consume(data.len());
        Ok(data)
    }

    fn write(&mut self, view: &mut FileView, data: &[u8]) -> Result<usize, Error> {
        self.wait(view, |view| view.write(data))
    }

    fn flush(&mut self, view: &mut FileView) -> Result<(), Error> {
        self.wait(view, FileView::flush)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize),
    Write(usize, u8),
    Flush,
    Seek(u64),
    /// Begins to read, or to write, and goes away.
    LeaveRead(usize),
    LeaveWrite(usize, u8),
    /// One command fails, so many from now on.
    Fail(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..9000_usize).prop_map(Step::Read),
        4 => (0..9000_usize, any::<u8>()).prop_map(|(length, fill)| Step::Write(length, fill)),
        2 => Just(Step::Flush),
        2 => (0..40_000_u64).prop_map(Step::Seek),
        1 => (0..9000_usize).prop_map(Step::LeaveRead),
        1 => (0..9000_usize, any::<u8>()).prop_map(|(length, fill)| Step::LeaveWrite(length, fill)),
        1 => (0..3_usize).prop_map(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// What a file would do, in spite of blocks, of ends that are no blocks, of callers that go
    /// away and of commands that fail.
    #[test]
    fn it_is_a_file(
        block in prop_oneof![Just(1_u32), Just(512), Just(4096)],
        size in 1..40_000_usize,
        most in 4096..20_000_usize,
        steps in vec(steps(), 1..60),
    ) {
        let mut disk = Disk::new(size, u64::from(block));
        let mut view = FileView::new(export(size as u64, block), most);
        let (mut model, mut position) = (vec![0; size], 0_usize);
        let mut told = 0;
        // A write that nobody waited for.
        let mut left: Option<(usize, Vec<u8>)> = None;
        for step in steps {
            // It is over by the time of the next one, and has taken place or not.
            if let Some((at, data)) = left.take() {
                disk.finish(&mut view);
                let there = &disk.content[at..at + data.len()];
                prop_assert!(there == data || there == &model[at..at + data.len()]);
                model.copy_from_slice(&disk.content);
            }
            let room = size.saturating_sub(position);
            match step {
                Step::Read(want) => match disk.read(&mut view, want) {
                    Ok(data) => {
                        prop_assert!(data.len() <= want.min(room));
                        prop_assert!(!data.is_empty() || want.min(room) == 0);
                        prop_assert_eq!(&data, &model[position.min(size)..][..data.len()]);
                        position += data.len();
                    }
                    Err(_) => told += 1,
                },
                Step::Write(length, fill) => {
                    let data = vec![fill; length];
                    match disk.write(&mut view, &data) {
                        Ok(n) => {
                            prop_assert!(n <= length.min(room) && (n > 0 || length.min(room) == 0));
                            model[position.min(size)..][..n].fill(fill);
                            position += n;
                        }
                        Err(_) => told += 1,
                    }
                }
                Step::Flush => told += usize::from(disk.flush(&mut view).is_err()),
                Step::Seek(to) => {
                    view.seek(SeekFrom::Start(to)).unwrap();
                    position = to as usize;
                    if view.take_stale() {
                        disk.under_way.clear();
                    }
                }
                Step::LeaveRead(want) => match view.read(want) {
                    Ok(Next::Send(send)) => disk.send(send),
                    Ok(_) => {}
                    Err(_) => told += 1,
                },
                Step::LeaveWrite(length, fill) => {
                    let data = vec![fill; length];
                    match view.write(&data) {
                        Ok(Next::Send(send)) => {
                            let export = export(size as u64, block);
                            let blocks = Blocks::around(&export, most, position as u64, length);
                            left = Some((position, data[..blocks.length()].to_vec()));
                            disk.send(send);
                        }
                        // The same as the one that was left before.
                        Ok(Next::Ready(n)) => {
                            model[position.min(size)..][..n].fill(fill);
                            position += n;
                        }
                        Ok(_) => {}
                        Err(_) => told += 1,
                    }
                }
                Step::Fail(after) => disk.fails_in = Some(after),
            }
            prop_assert!(told <= disk.failures, "each failure is told once, if at all");
            prop_assert_eq!(view.position(), position as u64);
            if left.is_none() && disk.under_way.is_empty() {
                prop_assert!(disk.content == model);
            }
        }
    }

    /// Whole blocks that hold the range, and no more of them than it takes.
    #[test]
    fn blocks_are_around(
        block in prop_oneof![Just(1_u32), Just(512), Just(4096), Just(32_768)],
        size in 0..100_000_u64,
        most in 4096..50_000_usize,
        offset in 0..110_000_u64,
        length in 0..100_000_usize,
    ) {
        let blocks = Blocks::around(&export(size, block), most, offset, length);
        let room = size.saturating_sub(offset) as usize;
        prop_assert!(blocks.length() <= length.min(room));
        prop_assert!(blocks.length() > 0 || length.min(room) == 0);
        prop_assert!(blocks.whole() <= most.max(block as usize));
        if blocks.length() > 0 {
            prop_assert_eq!(blocks.start() + blocks.range().start as u64, offset);
            prop_assert_eq!(blocks.range().len(), blocks.length());
            let end = blocks.start() + blocks.whole() as u64;
            prop_assert!(blocks.start().is_multiple_of(u64::from(block)) && end <= size);
            prop_assert!(end.is_multiple_of(u64::from(block)) || end == size);
            prop_assert!(blocks.range().start < block as usize);
            prop_assert!(blocks.whole() - blocks.range().end < block as usize);
        }
    }
}

#[test]
fn a_clean_view_is_flushed_at_once() {
    let mut disk = Disk::new(8192, 512);
    let mut view = FileView::new(export(8192, 512), 1 << 20);
    // Others may have written before.
    disk.flush(&mut view).unwrap();
    disk.flush(&mut view).unwrap();
    disk.read(&mut view, 10).unwrap();
    disk.flush(&mut view).unwrap();
    assert_eq!(disk.flushes, 1);
    disk.write(&mut view, &[1; 10]).unwrap();
    disk.fails_in = Some(0);
    disk.flush(&mut view).unwrap_err();
    disk.flush(&mut view).unwrap();
    disk.flush(&mut view).unwrap();
    assert_eq!(disk.flushes, 2);
    let mut flags = export(8192, 512);
    flags.flags = TransmissionFlags::empty();
    let mut view = FileView::new(flags, 1 << 20);
    assert!(matches!(view.flush(), Ok(Next::Ready(()))), "the server knows no flush");
}

#[test]
fn both_halves_wait_for_the_one_command() {
    let mut view = FileView::new(export(8192, 512), 1 << 20);
    let Ok(Next::Send(send)) = view.write(&[7; 512]) else { panic!("it is to be written") };
    assert_eq!(send.payload, Some(Bytes::from_static(&[7; 512])));
    assert!(matches!(view.read(10), Ok(Next::Busy)));
    assert!(matches!(view.flush(), Ok(Next::Busy)));
    assert!(matches!(view.write(&[7; 512]), Ok(Next::Busy)));
    assert_eq!(view.completed(Ok(()), BytesMut::new()), None);
    // Whoever comes first, each finds its own.
    let Ok(Next::Send(_)) = view.read(10) else { panic!("it is to be read") };
    assert!(matches!(view.write(&[7; 512]), Ok(Next::Busy)));
    view.completed(Err(failure()), BytesMut::new());
    assert!(matches!(view.write(&[7; 512]), Ok(Next::Ready(512))));
    assert_eq!(view.position(), 512);
    assert!(view.read(10).is_err());
}

#[test]
fn the_outcome_of_a_write_is_for_those_bytes_at_that_place() {
    for other in [&[1; 256][..], &[2; 512]] {
        let mut disk = Disk::new(8192, 1);
        let mut view = FileView::new(export(8192, 1), 1 << 20);
        let Ok(Next::Send(send)) = view.write(&[1; 512]) else { panic!("it is to be written") };
        disk.send(send);
        disk.finish(&mut view);
        assert_eq!(disk.write(&mut view, other).unwrap(), other.len());
        assert_eq!(disk.content[..other.len()], *other);
        assert_eq!(view.position(), other.len() as u64);
    }
    let mut disk = Disk::new(8192, 1);
    let mut view = FileView::new(export(8192, 1), 1 << 20);
    let Ok(Next::Send(send)) = view.write(&[1; 512]) else { panic!("it is to be written") };
    disk.send(send);
    view.seek(SeekFrom::Start(1024)).unwrap();
    assert!(!view.take_stale(), "a write is not stale");
    assert_eq!(disk.write(&mut view, &[1; 512]).unwrap(), 512);
    assert_eq!(disk.content[1024..1536], [1; 512]);
}

#[test]
fn seeks_lead_where_they_say() {
    let mut view = FileView::new(export(8192, 512), 1 << 20);
    assert_eq!(view.seek(SeekFrom::End(-2)).unwrap(), 8190);
    assert_eq!(view.seek(SeekFrom::Current(10)).unwrap(), 8200);
    assert!(matches!(view.read(1), Ok(Next::Ready(()))) && view.ahead(1).is_empty());
    assert!(matches!(view.write(&[1]), Ok(Next::Ready(0))));
    assert!(view.seek(SeekFrom::Current(-8201)).is_err());
    assert!(view.seek(SeekFrom::Current(i64::MAX)).is_ok());
    assert!(view.seek(SeekFrom::Current(i64::MAX)).is_err(), "beyond all numbers");
    assert_eq!(view.seek(SeekFrom::Start(0)).unwrap(), 0);
}
