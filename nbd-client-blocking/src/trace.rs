//! What is told with feature `tracing` by work that has a thread of its own.

/// Has work that is done in another thread tell whom this one tells, and where.
pub(crate) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    #[cfg(feature = "tracing")]
    {
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let span = tracing::Span::current();
        move || tracing::dispatcher::with_default(&subscriber, || span.in_scope(work))
    }
    #[cfg(not(feature = "tracing"))]
    work
}
