//! What a server tells with feature `tracing`.
//!
//! A file of its own: the subscriber is that of the whole process.
#![cfg(feature = "tracing")]

use std::fmt::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};

use nbd_server::{Limits, MemoryExport, Server, ServerHandle};
use nbd_sim::raw::{LIMIT, Raw, Reach};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Passes on what is told, a line for each event.
struct Notes(Sender<String>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, ", {}: {value:?}", field.name()).expect("text can be written to");
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nbd_server") && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.send(line.0).expect("the test listens");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Serves one end of a pair.
struct Pairs(ServerHandle);

impl Reach for Pairs {
    fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        self.0.serve(theirs).expect("it is served");
        ours
    }
}

#[track_caller]
fn told(lines: &Receiver<String>, words: &[&str]) {
    let line = lines.recv_timeout(LIMIT).expect("nothing is told");
    assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line:?}");
}

#[test]
fn who_comes_chooses_is_refused_and_leaves() {
    let (notes, lines) = channel();
    tracing::subscriber::set_global_default(Notes(notes)).expect("there is no other");
    let mut limits = Limits::default();
    limits.max_connections = 1;
    let server = Server::new(MemoryExport::new(1 << 20)).limits(limits);
    let server = Pairs(server.start().expect("it starts"));

    let mut first = Raw::established(&server);
    told(&lines, &["DEBUG", "message: a client has connected", "peer: "]);
    told(&lines, &["INFO", "message: a client has chosen an export", "read_only: false"]);

    let mut second = Raw::negotiating(&server);
    told(&lines, &["DEBUG", "message: a client has connected"]);
    assert!(!second.choose(), "there is no room");
    told(&lines, &["WARN", "a client was refused, there are too many", "connections: 1"]);
    drop(second);
    told(&lines, &["DEBUG", "message: a client has left"]);

    first.write(&[0xff; 28]);
    told(&lines, &["WARN", "message: a connection has ended before its time", "error: "]);
    server.0.stop().expect("it stops");
}
