//! The clients of runtimes: one task for each request in flight.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_client_async::Client;

use crate::Outcome;
use crate::load::{Load, Places};

type Work = Pin<Box<dyn Future<Output = Outcome<()>> + Send>>;

pub(crate) fn tokio(load: &Load, builder: &mut tokio::runtime::Builder) -> Outcome<Duration> {
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        let client = nbd_client_tokio::connect(&load.uri).await?;
        measure(load, client, |work| {
            let task = tokio::spawn(work);
            Box::pin(async move { task.await? })
        })
        .await
    })
}

pub(crate) fn smol(load: &Load) -> Outcome<Duration> {
    smol::block_on(async {
        let client = nbd_client_futures::smol::connect(&load.uri).await?;
        measure(load, client, |work| Box::pin(smol::spawn(work))).await
    })
}

async fn measure(load: &Load, client: Client, spawn: impl Fn(Work) -> Work) -> Outcome<Duration> {
    let places = Arc::new(Mutex::new(Places::new(load, client.size())?));
    let start = Instant::now();
    let tasks: Vec<_> = (0..load.depth)
        .map(|_| {
            let (client, places) = (client.clone(), Arc::clone(&places));
            let buffer = vec![1; load.length];
            spawn(if load.write {
                Box::pin(write(client, places, buffer.into()))
            } else {
                Box::pin(read(client, places, buffer))
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let took = start.elapsed();
    client.disconnect().await?;
    Ok(took)
}

async fn read(client: Client, places: Arc<Mutex<Places>>, mut buffer: Vec<u8>) -> Outcome<()> {
    while let Some(at) = next(&places) {
        let result;
        (result, buffer) = client.read_exact_at(buffer, at).await;
        result?;
    }
    Ok(())
}

async fn write(client: Client, places: Arc<Mutex<Places>>, data: Bytes) -> Outcome<()> {
    while let Some(at) = next(&places) {
        client.write_all_at(data.clone(), at).await?;
    }
    Ok(())
}

fn next(places: &Mutex<Places>) -> Option<u64> {
    places.lock().unwrap_or_else(PoisonError::into_inner).next()
}
