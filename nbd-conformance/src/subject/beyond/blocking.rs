//! The adapter for threads.

use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use nbd_client_blocking::{Client, Error, ExportFile};
use nbd_session::replay::Reconnect;

use super::{Beyond, File, Pool};
use crate::outcome::Outcome;
use crate::subject::How;
use crate::subject::blocking::Blocking;

impl Beyond for Blocking {
    fn pool(&self, how: &How, policy: Option<Reconnect>, size: usize) -> Outcome<Box<dyn Pool>> {
        Ok(Box::new(nbd_client_blocking::Pool::connect(how.options()?.reconnect(policy), size)?))
    }

    fn file(&self, how: &How) -> Outcome<Box<dyn File>> {
        Ok(Box::new(Some(ExportFile::new(Client::connect(how.options()?)?))))
    }

    fn extents(
        &self,
        how: &How,
        context: &str,
        range: Range<u64>,
    ) -> Outcome<Vec<(u64, u64, u64)>> {
        let mut client = Client::connect(how.options()?)?;
        let extents = client.extents(context, range)?;
        let placed = extents.map(|placed| {
            placed.map(|placed| (placed.offset, placed.extent.length, placed.extent.status))
        });
        Ok(placed.collect::<Result<_, _>>()?)
    }

    fn leave_extents(&self, how: &How, context: &str, after: usize) -> Outcome<Vec<u8>> {
        let mut client = Client::connect(how.options()?)?;
        for extent in client.extents(context, ..)?.take(after) {
            extent?;
        }
        let mut data = vec![0; 512];
        client.read_exact_at(&mut data, 0)?;
        Ok(data)
    }
}

impl Pool for nbd_client_blocking::Pool {
    fn alive(&self) -> usize {
        Self::alive(self)
    }

    fn read(&self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        let mut data = vec![0; length];
        self.read_exact_at(&mut data, offset)?;
        Ok(data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        Ok(self.write_all_at(data, offset)?)
    }

    fn flush(&self) -> Outcome {
        Ok(Self::flush(self)?)
    }

    fn disconnect(self: Box<Self>) -> Outcome {
        Ok(Self::disconnect(*self)?)
    }
}

impl File for Option<ExportFile<Client>> {
    fn seek(&mut self, position: u64) -> Outcome {
        let file = self.as_mut().expect("there is one");
        file.seek(SeekFrom::Start(position)).map_err(Error::from)?;
        Ok(())
    }

    fn read(&mut self, length: usize) -> Outcome<Vec<u8>> {
        let mut data = Vec::new();
        let file = self.as_mut().expect("there is one");
        file.take(length as u64).read_to_end(&mut data).map_err(Error::from)?;
        Ok(data)
    }

    fn write(&mut self, data: &[u8]) -> Outcome {
        let file = self.as_mut().expect("there is one");
        Ok(file.write_all(data).map_err(Error::from)?)
    }

    fn flush(&mut self) -> Outcome {
        let file = self.as_mut().expect("there is one");
        Ok(file.flush().map_err(Error::from)?)
    }

    fn write_lines(&mut self, lines: &[&str]) -> Outcome {
        let mut buffered = BufWriter::new(self.as_mut().expect("there is one"));
        for line in lines {
            writeln!(buffered, "{line}").map_err(Error::from)?;
        }
        Ok(buffered.flush().map_err(Error::from)?)
    }

    fn read_lines(&mut self, count: usize) -> Outcome<Vec<String>> {
        let buffered = BufReader::new(self.as_mut().expect("there is one"));
        let lines = buffered.lines().take(count);
        Ok(lines.collect::<Result<_, _>>().map_err(Error::from)?)
    }

    fn again(&mut self) {
        *self = self.take().map(|file| ExportFile::new(file.into_inner()));
    }
}
