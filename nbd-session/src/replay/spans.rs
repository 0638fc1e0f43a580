//! Which bytes are being changed.

use nbd_proto::Command;

/// Ranges of bytes that have none in common, in order. What a command without length would
/// change is not among them.
#[derive(Clone, Debug)]
pub(super) struct Spans(Vec<Span>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
}

impl Spans {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether one of them shares a byte with what a command is about.
    pub(super) fn overlap(&self, command: &Command) -> bool {
        let Some(Span { start, end }) = span(command) else { return false };
        // The first that ends behind the start: those before it lie before the command.
        let at = self.0.partition_point(|span| span.end <= start);
        self.0.get(at).is_some_and(|span| span.start < end)
    }

    /// Adds what a command is about, which [overlaps](Self::overlap) none of them.
    pub(super) fn insert(&mut self, command: &Command) {
        debug_assert!(!self.overlap(command), "{command:?}");
        if let Some(new) = span(command) {
            self.0.insert(self.at(new), new);
        }
    }

    /// Takes out what was added for a command.
    pub(super) fn remove(&mut self, command: &Command) {
        let Some(old) = span(command) else { return };
        let at = self.at(old);
        debug_assert_eq!(self.0.get(at), Some(&old), "{command:?}");
        if self.0.get(at) == Some(&old) {
            self.0.remove(at);
        }
    }

    fn at(&self, span: Span) -> usize {
        self.0.partition_point(|other| other.start < span.start)
    }
}

fn span(command: &Command) -> Option<Span> {
    let (start, end) = (command.offset, command.offset.saturating_add(command.length));
    (start < end).then_some(Span { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As a list would say that is looked through.
        #[test]
        fn what_overlaps_is_found(
            steps in prop::collection::vec((0u64..60, 0u32..12, any::<prop::sample::Index>()), 0..100),
        ) {
            let (mut spans, mut list) = (Spans::new(), Vec::<Command>::new());
            for (offset, length, gone) in steps {
                let command = Command::write(offset, length);
                let shares = |other: &Command| {
                    length > 0 && other.length > 0
                        && offset < other.offset + other.length
                        && other.offset < offset + u64::from(length)
                };
                let overlap = list.iter().any(shares);
                prop_assert_eq!(spans.overlap(&command), overlap);
                if !overlap {
                    spans.insert(&command);
                    list.push(command);
                } else {
                    let gone = list.swap_remove(gone.index(list.len()));
                    spans.remove(&gone);
                }
            }
        }
    }
}
