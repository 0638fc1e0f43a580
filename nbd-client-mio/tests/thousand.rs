//! A thousand connections in one thread, on a mio loop and on a runtime of tokio: all work,
//! and what they cost while they are idle.

use std::alloc::System;
use std::future::Future;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::proto::CommandFlags;
use nbd_client_mio::{Connection, Limit, State};
use nbd_client_tokio::Client;
use nbd_sim::peer::{Server, nbd_program};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COUNT: usize = 1000;
const LENGTH: usize = 4096;

/// The most that an idle connection may cost, in bytes.
const MOST: usize = 100 << 10;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(120);

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_thousand_connections_in_one_thread() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = 4 * COUNT as u64;
    if current.is_some_and(|current| current < wanted) {
        // As many as are allowed at all.
        let limit = Rlimit { current: maximum, maximum };
        setrlimit(Resource::Nofile, limit).expect("descriptors for a thousand connections");
    }
    let server = || {
        let program = nbd_program().unwrap();
        let args = ["serve", "--memory", "16M", "--unix", "{socket}"];
        Server::command(program.to_str().unwrap(), &args).start().expect("nbd serve")
    };
    on_mio(&server());
    on_tokio(&server());
}

/// Bytes that tell one connection's place from another's.
fn mark(index: usize) -> Vec<u8> {
    (0..LENGTH).map(|at| (index * 31 + at) as u8).collect()
}

/// Whose place a connection reads: another one's.
const fn neighbour(index: usize) -> usize {
    (index + 1) % COUNT
}

fn offset(index: usize) -> u64 {
    (index * LENGTH) as u64
}

/// Bytes in use on the heap since the region began.
fn heap(region: &Region<'_, System>) -> usize {
    let stats = region.change();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Bytes of memory a process occupies.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// What the connections cost; judged by the heap, which does not depend on what the
/// process did before.
struct Cost<'a> {
    name: &'a str,
    server: &'a Server,
    region: Region<'static, System>,
    ours: usize,
    theirs: usize,
}

impl<'a> Cost<'a> {
    fn begin(name: &'a str, server: &'a Server) -> Self {
        let (ours, theirs) = (resident(std::process::id()), resident(server.pid()));
        Self { name, server, region: Region::new(ALLOCATOR), ours, theirs }
    }

    fn check(&self, when: &str) {
        let heap = heap(&self.region) / COUNT;
        let resident = |pid, before| resident(pid).saturating_sub(before) / COUNT;
        println!(
            "{}, {when}: {} KiB of heap a connection, {} KiB resident; {} KiB in the server",
            self.name,
            heap >> 10,
            resident(std::process::id(), self.ours) >> 10,
            resident(self.server.pid(), self.theirs) >> 10,
        );
        assert!(heap <= MOST, "{}, {when}: {heap} bytes a connection", self.name);
    }
}

type Disk = Connection<Vec<u8>>;

/// A loop whose turns cost what happens, however many connections there are.
struct Loop {
    poll: Poll,
    events: Events,
    disks: Vec<Disk>,
    /// Connections to be driven.
    due: Vec<usize>,
}

impl Loop {
    /// Drives until `done` has been told so of all connections.
    fn all(&mut self, mut done: impl FnMut(usize, &mut Disk) -> bool) {
        let end = Instant::now() + LONG;
        let mut left: Vec<_> = vec![true; self.disks.len()];
        self.due = (0..self.disks.len()).collect();
        while left.contains(&true) {
            assert!(Instant::now() < end, "{} are missing", left.iter().filter(|l| **l).count());
            for index in std::mem::take(&mut self.due) {
                let disk = &mut self.disks[index];
                disk.drive(self.poll.registry()).unwrap();
                left[index] &= !done(index, disk);
                if disk.needs_drive() {
                    self.due.push(index);
                }
            }
            let idle = self.due.is_empty() && left.contains(&true);
            let wait = if idle { LONG } else { Duration::ZERO };
            match self.poll.poll(&mut self.events, Some(wait)) {
                // A process that was stopped and goes on sees its calls interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.unwrap(),
            }
            for event in &self.events {
                self.disks[event.token().0].handle_event(event);
                self.due.push(event.token().0);
            }
        }
    }
}

fn on_mio(server: &Server) {
    let poll = Poll::new().unwrap();
    let mut this =
        Loop { poll, events: Events::with_capacity(256), disks: Vec::new(), due: Vec::new() };
    let cost = Cost::begin("mio", server);
    for index in 0..COUNT {
        let mut disk: Disk = Connection::connect(server.uri()).unwrap();
        let (token, interest) = (Token(index), Interest::READABLE);
        this.poll.registry().register(&mut disk, token, interest).unwrap();
        this.disks.push(disk);
    }
    this.all(|_, disk| disk.state() == State::Ready);
    cost.check("connected");
    for (index, disk) in this.disks.iter_mut().enumerate() {
        disk.write(mark(index), offset(index), CommandFlags::empty()).unwrap();
    }
    this.all(|_, disk| disk.next_completion().map(|done| done.result.unwrap()).is_some());
    for (index, disk) in this.disks.iter_mut().enumerate() {
        disk.read(vec![0; LENGTH], offset(neighbour(index))).unwrap();
    }
    this.all(|index, disk| {
        let Some(done) = disk.next_completion() else { return false };
        done.result.unwrap();
        assert!(done.buffer.unwrap() == mark(neighbour(index)), "connection {index}");
        true
    });
    cost.check("after use");
    this.disks.iter_mut().for_each(|disk| disk.disconnect(Limit::Default));
    this.all(|_, disk| disk.state() == State::Closed);
}

fn on_tokio(server: &Server) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cost = Cost::begin("tokio", server);
        let mut clients = Vec::new();
        for _ in 0..COUNT {
            clients.push(nbd_client_tokio::connect(&server.uri()).await.unwrap());
        }
        cost.check("connected");
        all(&clients, |index, client| async move {
            client.write_all_at(mark(index), offset(index)).await.unwrap();
        })
        .await;
        all(&clients, |index, client| async move {
            let data = client.read(offset(neighbour(index)), LENGTH).await.unwrap();
            assert!(data == mark(neighbour(index)), "connection {index}");
        })
        .await;
        cost.check("after use");
        all(&clients, |_, client| async move { client.disconnect().await.unwrap() }).await;
    });
}

/// Does the same on all connections at once.
async fn all<F>(clients: &[Client], work: impl Fn(usize, Client) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let each = clients.iter().cloned().enumerate();
    let tasks: Vec<_> = each.map(|(index, client)| tokio::spawn(work(index, client))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}
