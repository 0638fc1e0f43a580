//! Connections that are made, and ask for nothing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nbd_client_blocking::Client;

use crate::Outcome;
use crate::load::Load;
use crate::measured::Watch;

/// Makes as many as there are to be requests, one after the other, tells how long each has taken,
/// and keeps them until standard input ends.
pub(crate) fn one_by_one(load: &Load) -> Outcome<()> {
    let mut watch = Watch::start(load)?;
    let mut clients = Vec::with_capacity(load.count as usize);
    for _ in 0..load.count {
        let begin = watch.now();
        clients.push(Client::connect(load.connection()?)?);
        watch.record(watch.now() - begin);
    }
    println!("{}", watch.stop(load)?);
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
        let watch = Arc::new(Mutex::new(Watch::start(load)?));
        let connect = || {
            let (load, watch) = (load.clone(), Arc::clone(&watch));
            async move {
                let now = || watch.lock().unwrap_or_else(PoisonError::into_inner).now();
                let begin = now();
                let client = nbd_client_tokio::connect(load.connection()?).await?;
                let took = now() - begin;
                watch.lock().unwrap_or_else(PoisonError::into_inner).record(took);
                Outcome::Ok(client)
            }
        };
        let tasks: Vec<_> = (0..load.count).map(|_| tokio::spawn(connect())).collect();
        let mut clients = Vec::with_capacity(tasks.len());
        for task in tasks {
            clients.push(task.await??);
        }
        let watch = Arc::into_inner(watch).ok_or("a task goes on")?;
        println!("{}", watch.into_inner().unwrap_or_else(PoisonError::into_inner).stop(load)?);
        io::copy(&mut io::stdin(), &mut io::sink())?;
        for client in clients {
            client.disconnect().await?;
        }
        Ok(())
    })
}
