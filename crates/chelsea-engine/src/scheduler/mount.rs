//! Saved caches that belong to the server: documents that were read by another process and lie in a file.
//!
//! A mounted cache is read from the map of its file and never given up. Any request may go on from it whose prompt has
//! exactly its tokens for a first piece, whosever it is, and whose cache is kept in the same way (number type, sinks,
//! window); budget and policy are the request's own from there on.

use crate::{EngineError, Sequence, SessionOptions};
use chelsea_kv::snapshot::{self, Expected, SnapshotError};
use chelsea_kv::{CacheConfig, Pool, SequenceCache};
use chelsea_model::Model;
use std::path::Path;
use std::sync::Arc;

/// What is to be known of a mounted cache in order to go on from it.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The tokens that it has seen: the first piece of a prompt that is to go on from it.
    pub tokens: Arc<[u32]>,
    /// How it is kept.
    pub config: CacheConfig,
    /// What was noted when it was saved.
    pub note: String,
    /// Bytes of keys and values that are read from the file.
    pub mapped: usize,
}

impl Mounted {
    /// Whether a prompt of these pieces can go on from it. One that ends with it cannot: a file holds no logits.
    pub(super) fn begins(&self, pieces: &[Arc<[u32]>], config: &CacheConfig) -> bool {
        let own = &self.config;
        let alike = (own.dtype, own.sinks, own.window) == (config.dtype, config.sinks, config.window);
        alike && pieces.len() > 1 && pieces[0] == self.tokens
    }
}

pub(super) struct Mount {
    pub(super) about: Mounted,
    /// Sets apart what goes on from it: another cache of the same tokens may have been compressed otherwise.
    pub(super) label: String,
    cache: SequenceCache,
}

impl Mount {
    pub(super) fn load(path: &Path, label: String, pool: &Pool, model: &Model) -> Result<Mount, SnapshotError> {
        let expected = Expected { fingerprint: model.fingerprint(), shape: model.cache_shape() };
        let before = pool.mapped();
        let (cache, info) = snapshot::load_in(pool.clone(), path, Some(&expected), None)?;
        let mapped = pool.mapped() - before;
        let (tokens, config) = (info.tokens.into(), cache.config().clone());
        Ok(Mount { about: Mounted { tokens, config, note: info.note, mapped }, label, cache })
    }

    pub(super) fn begins(&self, pieces: &[Arc<[u32]>], config: &CacheConfig) -> bool {
        self.about.begins(pieces, config)
    }

    /// A sequence that goes on from it.
    pub(super) fn go_on(&self, model: &Arc<Model>, options: &SessionOptions) -> Result<Sequence, EngineError> {
        let mut cache = self.cache.fork()?;
        let config = cache.config();
        if config.budget != options.budget || config.policy.spec() != options.policy.spec() {
            cache.reconfigure(options.policy.clone(), options.budget)?;
        }
        Sequence::with_cache(model.clone(), options, cache, self.about.tokens.to_vec())
    }
}
