//! nbd-client-blocking
