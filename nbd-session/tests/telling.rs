//! What a session tells with feature `tracing`, alone in its process: whether an event is wanted is
//! remembered for all threads, by whichever comes to it first.

#![cfg(feature = "tracing")]

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use nbd_proto::Command;
use nbd_session::replay::Reconnect;
use nbd_sim::memory_server::MemoryServer;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use nbd_sim::rig::{Rig, options};

/// Writes down names of spans, and messages of events with their spans.
#[derive(Clone, Default)]
struct Notes {
    text: Arc<Mutex<String>>,
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(self.0, "{}: {value:?}", field.name()).expect("text can be written to");
    }
}

impl Notes {
    fn write(&self, write: impl FnOnce(&mut String)) {
        write(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nbd_session")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.write(|text| span.record(&mut Line(text)));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        assert!(event.parent().is_some(), "each event has the connection's span");
        self.write(|text| {
            text.push_str(event.metadata().level().as_str());
            text.push(' ');
            event.record(&mut Line(text));
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn commands_losses_and_the_end_are_told_under_the_name() {
    let notes = Notes::default();
    tracing::subscriber::with_default(notes.clone(), || {
        let mut rig = Rig::ready(options().name("left").reconnect(Reconnect::new()));
        assert_eq!(rig.session.name(), "left");
        rig.submit(Command::read(0, 512));
        rig.turn();
        rig.completions();
        rig.server(MemoryServer::hang_up);
        rig.sleep(1.0);
        rig.session.stop(nbd_session::Error::stopped(), rig.now);
    });
    let text = notes.text.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut rest = &*text;
    for words in [
        "name: \"left\"",
        "DEBUG message: connected",
        "TRACE message: #0.0 submitted",
        "TRACE message: #0.0 succeeded",
        "WARN message: connection lost",
        "INFO message: connected again",
        "DEBUG message: connection ended",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words} in\n{text}"));
        rest = &rest[at..];
    }
}
