//! The clients of runtimes: one task for each request in flight.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nbd_client_async::Client;

use crate::Outcome;
use crate::load::{Load, Offsets};
use crate::measured::{Measured, Stopwatch};

type Work = Pin<Box<dyn Future<Output = Outcome<()>> + Send>>;

pub(crate) fn tokio(load: &Load, builder: &mut tokio::runtime::Builder) -> Outcome<Measured> {
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        let client = nbd_client_tokio::connect(load.connection()?).await?;
        measure(load, client, |work| {
            let task = tokio::spawn(work);
            Box::pin(async move { task.await? })
        })
        .await
    })
}

pub(crate) fn smol(load: &Load) -> Outcome<Measured> {
    smol::block_on(async {
        let client = nbd_client_futures::smol::connect(load.connection()?).await?;
        measure(load, client, |work| Box::pin(smol::spawn(work))).await
    })
}

/// What all tasks share.
struct Shared {
    offsets: Offsets,
    stopwatch: Stopwatch,
}

/// One of the tasks.
struct Task {
    load: Load,
    client: Client,
    shared: Arc<Mutex<Shared>>,
}

async fn measure(load: &Load, client: Client, spawn: impl Fn(Work) -> Work) -> Outcome<Measured> {
    let offsets = Offsets::new(load, client.size())?;
    let buffers: Vec<_> = (0..load.depth).map(|_| load.buffer()).collect();
    let shared = Arc::new(Mutex::new(Shared { offsets, stopwatch: Stopwatch::start(load)? }));
    let tasks: Vec<_> = buffers
        .into_iter()
        .map(|buffer| {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            let task = Task { load: load.clone(), client, shared };
            spawn(if load.write {
                Box::pin(task.write(buffer))
            } else {
                Box::pin(task.read(buffer))
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let shared = Arc::into_inner(shared).ok_or("a task goes on")?;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let measured = shared.stopwatch.stop(load)?;
    client.disconnect().await?;
    Ok(measured)
}

impl Task {
    async fn read(self, mut buffer: Vec<u8>) -> Outcome<()> {
        let mut done = None;
        while let Some((start, at)) = self.next(done) {
            let result;
            (result, buffer) = self.client.read_exact_at(buffer, at).await;
            result?;
            self.load.check(&buffer, at)?;
            done = Some(start);
        }
        Ok(())
    }

    async fn write(self, buffer: Vec<u8>) -> Outcome<()> {
        let mut data = Bytes::from(buffer);
        let mut done = None;
        while let Some((start, at)) = self.next(done) {
            if self.load.check {
                data = Load::pattern(at).take(self.load.length).collect();
            }
            self.client.write_all_at(data.clone(), at).await?;
            done = Some(start);
        }
        Ok(())
    }

    /// Takes note of a request that is done, by when it began, and has the next one: when it
    /// begins, and where.
    fn next(&self, done: Option<u64>) -> Option<(u64, u64)> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let now = shared.stopwatch.now();
        if let Some(start) = done {
            shared.stopwatch.record(now - start);
        }
        Some((now, shared.offsets.next()?))
    }
}
