//! Sequences, sampling and generation over clustered caches.
