//! What several tests share.
#![allow(dead_code)]

pub mod mixed;

use chelsea_kv::policy::PolicyInfo;
use chelsea_kv::{CacheShape, Policy, PolicyError, Rotary};
use std::sync::Arc;

/// As [`chelsea_kv::policy`], with the baselines registered: what holds for any policy is held to by them too.
pub fn policy(spec: &str) -> Result<Arc<dyn Policy>, PolicyError> {
    chelsea_baselines::register();
    chelsea_kv::policy(spec)
}

/// As [`chelsea_kv::registry`], with the baselines registered.
pub fn registry() -> Vec<PolicyInfo> {
    chelsea_baselines::register();
    chelsea_kv::registry()
}

/// Layers that are all alike.
#[derive(Debug, Clone, Copy)]
pub struct Uniform {
    pub layers: usize,
    pub kv_heads: usize,
    pub q_heads: usize,
    pub head_dim: usize,
}

impl Uniform {
    /// KV heads over all layers.
    pub const fn heads(self) -> usize {
        self.layers * self.kv_heads
    }

    /// Query heads that share one KV head.
    pub const fn group(self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// The shape of a cache for them, with plain RoPE.
    pub fn shape(self) -> CacheShape {
        self.turned_by(Rotary::plain(self.head_dim, 10_000.0))
    }

    /// The shape of a cache for them, with this RoPE.
    pub fn turned_by(self, rotary: Rotary) -> CacheShape {
        CacheShape::uniform(self.layers, self.q_heads, self.kv_heads, self.head_dim, rotary).expect("sizes of a cache")
    }
}
