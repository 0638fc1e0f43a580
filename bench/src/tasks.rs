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
        .map(|_| spawn(Box::pin(serve(client.clone(), load.clone(), Arc::clone(&places)))))
        .collect();
    for task in tasks {
        task.await?;
    }
    let took = start.elapsed();
    client.disconnect().await?;
    Ok(took)
}

async fn serve(client: Client, load: Load, places: Arc<Mutex<Places>>) -> Outcome<()> {
    let data = Bytes::from(vec![1; load.length]);
    let mut buffer = vec![0; load.length];
    loop {
        let place = places.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(at) = place else { return Ok(()) };
        if load.write {
            client.write_at(at, data.clone()).await?;
        } else {
            let result;
            (result, buffer) = client.read_into(at, buffer).await;
            result?;
        }
    }
}
