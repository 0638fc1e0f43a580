//! The adapters for tasks.

use std::io::SeekFrom;
use std::ops::Range;

use nbd_client_async::{Client, Connector, Error, ExportFile};
use nbd_session::replay::Reconnect;
use smol::future::try_zip;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter, split};
use smol::stream::StreamExt;

use super::{Beyond, File, Pool};
use crate::outcome::Outcome;
use crate::subject::How;
use crate::subject::asynchronous::Asynchronous;
use crate::subject::host::{Host, LastTurns, pause};

impl<H: Host> Beyond for Asynchronous<H> {
    fn pool(&self, how: &How, policy: Option<Reconnect>, size: usize) -> Outcome<Box<dyn Pool>> {
        let connector = Connector::<H::Runtime>::new(how.options()?.reconnect(policy));
        let pool = self.0.block_on(connector.connect_pool(size))?;
        let host = self.0.clone();
        Ok(Box::new(Pooled { pool, _turns: LastTurns(host.clone()), host }))
    }

    fn file(&self, how: &How) -> Outcome<Box<dyn File>> {
        let client = self.0.block_on(self.connector(how)?.connect())?;
        let file = ExportFile::new(client.clone());
        let host = self.0.clone();
        Ok(Box::new(Viewed { client, file, _turns: LastTurns(host.clone()), host }))
    }

    fn extents(
        &self,
        how: &How,
        context: &str,
        range: Range<u64>,
    ) -> Outcome<Vec<(u64, u64, u64)>> {
        let _turns = LastTurns(self.0.clone());
        let client = self.0.block_on(self.connector(how)?.connect())?;
        let mut extents = client.extents(context, range)?;
        let mut all = Vec::new();
        while let Some(placed) = self.0.block_on(extents.next()) {
            let placed = placed?;
            all.push((placed.offset, placed.extent.length, placed.extent.status));
        }
        Ok(all)
    }

    fn leave_extents(&self, how: &How, context: &str, after: usize) -> Outcome<Vec<u8>> {
        let _turns = LastTurns(self.0.clone());
        let client = self.0.block_on(self.connector(how)?.connect())?;
        let mut extents = client.extents(context, ..)?;
        for _ in 0..after {
            self.0.block_on(extents.next()).transpose()?;
        }
        drop(extents);
        Ok(self.0.block_on(client.read(0, 512))?.into())
    }
}

struct Pooled<H: Host> {
    host: H,
    pool: nbd_client_async::Pool,
    _turns: LastTurns<H>,
}

impl<H: Host> Pool for Pooled<H> {
    fn alive(&self) -> usize {
        // What makes the others needs its turn.
        self.host.block_on(pause());
        self.pool.clients().iter().filter(|client| !client.is_closed()).count()
    }

    fn read(&self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        Ok(self.host.block_on(self.pool.read(offset, length))?.into())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        Ok(self.host.block_on(self.pool.write_all_at(data.to_vec(), offset))?)
    }

    fn flush(&self) -> Outcome {
        Ok(self.host.block_on(self.pool.flush())?)
    }

    fn disconnect(self: Box<Self>) -> Outcome {
        Ok(self.host.block_on(self.pool.disconnect())?)
    }
}

struct Viewed<H: Host> {
    host: H,
    client: Client,
    file: ExportFile,
    _turns: LastTurns<H>,
}

impl<H: Host> File for Viewed<H> {
    fn seek(&mut self, position: u64) -> Outcome {
        self.host.block_on(self.file.seek(SeekFrom::Start(position))).map_err(Error::from)?;
        Ok(())
    }

    fn read(&mut self, length: usize) -> Outcome<Vec<u8>> {
        let Self { host, file, .. } = self;
        let mut data = Vec::new();
        let mut part = file.take(length as u64);
        host.block_on(part.read_to_end(&mut data)).map_err(Error::from)?;
        Ok(data)
    }

    fn write(&mut self, data: &[u8]) -> Outcome {
        Ok(self.host.block_on(self.file.write_all(data)).map_err(Error::from)?)
    }

    fn flush(&mut self) -> Outcome {
        Ok(self.host.block_on(self.file.flush()).map_err(Error::from)?)
    }

    fn write_lines(&mut self, lines: &[&str]) -> Outcome {
        let mut buffered = BufWriter::new(&mut self.file);
        let all = async {
            for line in lines {
                buffered.write_all(line.as_bytes()).await?;
                buffered.write_all(b"\n").await?;
            }
            buffered.close().await
        };
        Ok(self.host.block_on(all).map_err(Error::from)?)
    }

    fn read_lines(&mut self, count: usize) -> Outcome<Vec<String>> {
        let lines = (&mut self.file).lines().take(count).try_collect();
        Ok(self.host.block_on(lines).map_err(Error::from)?)
    }

    fn read_beside_write(&mut self, data: &[u8]) -> Outcome {
        let (mut reader, mut writer) = split(&mut self.file);
        let mut back = vec![0; data.len()];
        let read = async {
            for piece in back.chunks_mut(1024) {
                reader.read_exact(piece).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let write = async {
            for piece in data.chunks(1024) {
                writer.write_all(piece).await?;
            }
            Ok(())
        };
        Ok(self.host.block_on(try_zip(read, write)).map(drop).map_err(Error::from)?)
    }

    fn again(&mut self) {
        self.file = ExportFile::new(self.client.clone());
    }
}
