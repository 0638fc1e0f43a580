//! Exports whose work is done by futures, through either way to run them.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};

use nbd_server::{AsyncExport, BoxFuture, Bytes, ExportList, Opened, Server};
use nbd_sim::raw::{LIMIT, READ, Raw};

use super::support::{ending, start};

const SHORT: u64 = 1 << 10;
const LONG: u64 = 2 << 10;
const PANICS: u64 = 3 << 10;
const AWAITED: u64 = 4 << 10;

/// What it does depends on where it is asked.
#[derive(Default)]
struct Odd {
    lent: Arc<Lent>,
    gate: Gate,
}

/// How much of the memory of the export is in use.
#[derive(Default)]
struct Lent {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Lent {
    fn wait_for(&self, wanted: usize) {
        let count = self.count.lock().unwrap();
        let (_count, late) =
            self.changed.wait_timeout_while(count, LIMIT, |count| *count != wanted).unwrap();
        assert!(!late.timed_out(), "never so many: {wanted}");
    }
}

/// Memory that notices when it is needed no longer.
struct Page(Arc<Lent>, Vec<u8>);

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap() -= 1;
        self.0.changed.notify_all();
    }
}

/// Holds futures back until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, Vec<Waker>)>,
    arrived: Mutex<Option<Sender<()>>>,
    passed: AtomicUsize,
}

impl Gate {
    async fn pass(&self) {
        if let Some(arrived) = &*self.arrived.lock().unwrap() {
            arrived.send(()).unwrap();
        }
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.passed.fetch_add(1, Ordering::SeqCst);
    }

    fn open(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        state.1.drain(..).for_each(Waker::wake);
    }
}

impl Odd {
    fn page(&self, len: usize) -> Bytes {
        *self.lent.count.lock().unwrap() += 1;
        Bytes::from_owner(Page(Arc::clone(&self.lent), vec![7; len]))
    }
}

impl AsyncExport for Odd {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            match offset {
                SHORT => Ok(self.page(len - 1)),
                LONG => Ok(self.page(len + 1)),
                PANICS => panic!("as it was told"),
                AWAITED => {
                    self.gate.pass().await;
                    Ok(self.page(len))
                }
                _ => Ok(self.page(len)),
            }
        })
    }
}

fn serving(odd: &Arc<Odd>) -> Server {
    let export = Opened::new_async("", Arc::clone(odd) as Arc<dyn AsyncExport>);
    Server::with_exports(ExportList::new().opened(export))
}

#[test]
fn what_is_read_is_the_export_s_own_memory_until_it_has_left() {
    let odd = Arc::new(Odd::default());
    let (server, _endings) = start(serving(&odd));
    let mut client = Raw::established(&server);
    // More than the socket holds, so that it has not left.
    client.ask(READ, 1, 0, 8 << 20);
    assert_eq!(client.reply(), (0, 1));
    odd.lent.wait_for(1);
    assert_eq!(client.read(8 << 20), vec![7; 8 << 20]);
    odd.lent.wait_for(0);
}

#[test]
fn too_much_and_too_little_is_an_error_and_so_is_a_panic() {
    let odd = Arc::new(Odd::default());
    let (server, _endings) = start(serving(&odd));
    let mut client = Raw::established(&server);
    for (cookie, offset) in [SHORT, LONG, PANICS].into_iter().enumerate() {
        client.ask(READ, cookie as u64, offset, 512);
        assert_eq!(client.reply(), (5, cookie as u64), "at {offset}");
        assert_eq!(client.get(0, 512), [7; 512]);
    }
    odd.lent.wait_for(0);
}

/// A future is not dropped because its client has left.
#[test]
fn what_has_begun_runs_to_its_end() {
    let odd = Arc::new(Odd::default());
    let (arrived, arrivals) = channel();
    *odd.gate.arrived.lock().unwrap() = Some(arrived);
    let (server, endings) = start(serving(&odd));
    let mut client = Raw::established(&server);
    for cookie in 0..3 {
        client.ask(READ, cookie, AWAITED, 512);
        arrivals.recv_timeout(LIMIT).unwrap();
    }
    drop(client);
    odd.gate.open();
    assert!(ending(&endings).is_some());
    odd.lent.wait_for(0);
    let deadline = std::time::Instant::now() + LIMIT;
    while odd.gate.passed.load(Ordering::SeqCst) < 3 {
        assert!(std::time::Instant::now() < deadline, "dropped");
        std::thread::yield_now();
    }
}

/// 64 reads of one client wait for a store side by side.
#[test]
fn as_many_reads_are_under_way_as_were_asked_for() {
    let odd = Arc::new(Odd::default());
    let (arrived, arrivals) = channel();
    *odd.gate.arrived.lock().unwrap() = Some(arrived);
    let (server, _endings) = start(serving(&odd));
    let mut client = Raw::established(&server);
    for cookie in 0..64 {
        client.ask(READ, cookie, AWAITED, 512);
    }
    for _ in 0..64 {
        arrivals.recv_timeout(LIMIT).expect("one does not begin before another has ended");
    }
    odd.gate.open();
    for _ in 0..64 {
        assert_eq!(client.reply().0, 0);
        client.read(512);
    }
}
