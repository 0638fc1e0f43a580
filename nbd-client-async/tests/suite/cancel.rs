//! Futures that are dropped, and handles that outlive their connection.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Host, nbdkit, on_every_runtime, once};
use bytes::Bytes;
use nbd_client_async::ConnectOptions;
use nbd_client_async::transport::{CommandSpec, Endpoint};
use nbd_sim::peer::Scratch;
use nbd_sim::rng::noise;

on_every_runtime! {
    dropped_futures_harm_nobody,
    dropped_writes_leave_whole_data,
    calls_after_the_end_fail,
    connecting_for_nobody_is_given_up,
}

/// Drops thousands of reads at random points while others check every byte they get.
async fn dropped_futures_harm_nobody<H: Host>() {
    let server = nbdkit(&["memory", "16M"]);
    let client = H::connect(&server).await;
    let data = Bytes::from(noise(16 << 20, 3));
    client.write_all_at(data.clone(), 0).await.unwrap();
    let workers: Vec<_> = (0..8u64)
        .map(|worker| {
            let (client, data) = (client.clone(), data.clone());
            H::spawn(async move {
                let mut chance = worker * 7919 + 1;
                for _ in 0..1500 {
                    chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let length = [512, 4096, 65536, 300][(chance >> 40) as usize % 4];
                    let at = (chance >> 20) as usize % (data.len() - length);
                    let mut read = Box::pin(client.read(at as u64, length));
                    // A call is polled never, once, some times, or to its end.
                    let polls = (chance >> 60) as usize;
                    if polls < 8 {
                        for _ in 0..polls {
                            if once(&mut read).await.is_ready() {
                                break;
                            }
                            if polls.is_multiple_of(2) {
                                H::pause(Duration::from_micros(50)).await;
                            }
                        }
                        continue;
                    }
                    let got = read.await.unwrap();
                    assert!(got == data.slice(at..at + length), "{length} bytes at {at}");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    assert_eq!(client.in_flight(), 0);
    assert_eq!(client.stats().wire.anomalies, 0);
    let last = client.read(0, 4096).await.unwrap();
    assert!(last == data.slice(..4096));
    client.disconnect().await.unwrap();
}

/// The data of a write, and whether it is still there.
struct Counted {
    data: Vec<u8>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Buffers of writes that were dropped and may still be kept.
const MOST: usize = 4;

async fn dropped_writes_leave_whole_data<H: Host>() {
    // One thread does the writes in order, those that were dropped too.
    let server = nbdkit(&["-t", "1", "memory", "32M"]);
    let client = H::connect(&server).await;
    // A handle for each buffer that is still there.
    let alive = Arc::new(());
    for round in 0..120u8 {
        // Far more than the socket takes: it is cut while a part of it has been sent.
        let buffer = Counted { data: vec![round; 8 << 20], _alive: Arc::clone(&alive) };
        let mut write = Box::pin(client.write_all_at(Bytes::from_owner(buffer), 0));
        assert!(once(&mut write).await.is_pending() || round > 0);
        drop(write);
        if round % 10 == 0 {
            // One of the dropped ones may have won; a mixture would be a torn request.
            client.write_all_at(vec![round; 4096], 16 << 20).await.unwrap();
            assert_eq!(client.read(16 << 20, 4096).await.unwrap(), vec![round; 4096]);
        }
        // One is sent to its end, and one may have begun meanwhile.
        assert!(Arc::strong_count(&alive) <= 1 + MOST, "{} buffers", Arc::strong_count(&alive));
    }
    client.write_all_at(vec![255; 8 << 20], 0).await.unwrap();
    assert!(client.read(0, 8 << 20).await.unwrap() == vec![255; 8 << 20]);
    H::until(|| Arc::strong_count(&alive) == 1).await;
    client.disconnect().await.unwrap();
}

async fn calls_after_the_end_fail<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = H::connect(&server).await;
    let other = client.clone();
    other.disconnect().await.unwrap();
    assert!(client.is_closed());
    assert_eq!(client.read(0, 512).await.unwrap_err().errno(), 107);
    let (result, buffer) = client.read_exact_at(vec![5; 512], 0).await;
    assert!(result.is_err() && buffer == [5; 512]);
    client.disconnect().await.unwrap();
}

/// No thread waits for a server that does not greet, and when the future is dropped, what it
/// has started is told to end.
async fn connecting_for_nobody_is_given_up<H: Host>() {
    let scratch = Scratch::new().unwrap();
    let pid_file = scratch.join("pid");
    let name = pid_file.display();
    let text = format!("echo $$ >{name}.new; mv {name}.new {name}; exec sleep 100");
    let program = Endpoint::Command(CommandSpec::new("sh", ["-c", &text]));
    let connector = H::on(ConnectOptions::new().endpoint(program));
    let mut connecting = Box::pin(connector.connect());
    assert!(once(&mut connecting).await.is_pending());
    H::until(|| pid_file.exists()).await;
    assert!(once(&mut connecting).await.is_pending());
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    let ours: Vec<_> = names.filter(|name| name.starts_with("nbd-")).collect();
    // What starts programs and what buries them lasts longer than any connection.
    let lasting = |name: &String| matches!(name.trim(), "nbd-spawn" | "nbd-reaper" | "nbd-stderr");
    assert!(ours.iter().all(lasting), "{ours:?}");
    drop(connecting);
    let pid = fs::read_to_string(&pid_file).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    H::until(|| !process.exists()).await;
}
