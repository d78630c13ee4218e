//! Sequences, sampling and generation over clustered caches.

pub mod sampler;
pub mod stop;
