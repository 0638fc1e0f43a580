//! What connections tell with feature `tracing`.
//!
//! A file of its own: the subscriber is that of the whole process.
#![cfg(feature = "tracing")]

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use nbd_client_blocking::proto::ClientConfig;
use nbd_client_blocking::{ConnectOptions, Options};
use nbd_sim::peer::Server;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down names of spans and messages of events.
#[derive(Clone, Default)]
struct Notes {
    text: Arc<Mutex<String>>,
}

impl Notes {
    fn read(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(self.0, "{}: {value:?}", field.name()).expect("text can be written to");
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nbd_session")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        span.record(&mut Line(&mut text));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        event.record(&mut Line(&mut text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_hears_name_options_and_commands() {
    let server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit starts");
    let notes = Notes::default();
    tracing::subscriber::set_global_default(notes.clone()).expect("there is no other");
    let config = ClientConfig::new().meta_context("base:allocation");
    let builder = ConnectOptions::new().config(config).name("left");
    let mut options = builder.uri(&server.uri()).and_then(Options::connect).expect("it greets");
    options.list().expect("it lists");
    let mut client = options.go().expect("it is there");
    client.read_exact_at(&mut [0; 512], 512).expect("it is read");
    let text = notes.read();
    for words in ["name: \"left\"", "granted", "connected", "submitted", "succeeded"] {
        assert!(text.contains(words), "{words} in {text}");
    }
}
