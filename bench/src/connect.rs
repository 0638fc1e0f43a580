//! Connections that are made, and ask for nothing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nbd_client_blocking::Client;

use crate::Outcome;
use crate::load::Load;
use crate::measured::Stopwatch;

/// Makes as many as there are to be requests, one after the other, tells how long each has taken,
/// and keeps them until standard input ends.
pub(crate) fn one_by_one(load: &Load) -> Outcome<()> {
    let mut stopwatch = Stopwatch::start(load)?;
    let mut clients = Vec::with_capacity(load.count as usize);
    for _ in 0..load.count {
        let begin = stopwatch.now();
        clients.push(Client::connect(load.connection()?)?);
        stopwatch.record(stopwatch.now() - begin);
    }
    println!("{}", stopwatch.stop(load)?);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    for client in clients {
        client.disconnect()?;
    }
    Ok(())
}

/// As [`one_by_one`], but all at the same time.
pub(crate) fn at_once(load: &Load) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopwatch = Arc::new(Mutex::new(Stopwatch::start(load)?));
        let connect = || {
            let (load, stopwatch) = (load.clone(), Arc::clone(&stopwatch));
            async move {
                let now = || stopwatch.lock().unwrap_or_else(PoisonError::into_inner).now();
                let begin = now();
                let client = nbd_client_tokio::connect(load.connection()?).await?;
                let took = now() - begin;
                stopwatch.lock().unwrap_or_else(PoisonError::into_inner).record(took);
                Outcome::Ok(client)
            }
        };
        let tasks: Vec<_> = (0..load.count).map(|_| tokio::spawn(connect())).collect();
        let mut clients = Vec::with_capacity(tasks.len());
        for task in tasks {
            clients.push(task.await??);
        }
        let stopwatch = Arc::into_inner(stopwatch).ok_or("a task goes on")?;
        println!("{}", stopwatch.into_inner().unwrap_or_else(PoisonError::into_inner).stop(load)?);
        io::copy(&mut io::stdin(), &mut io::sink())?;
        for client in clients {
            client.disconnect().await?;
        }
        Ok(())
    })
}
