//! Policies that Chelsea is held against: the published methods that drop or merge entries of a KV cache, each in a file
//! of its own, written with nothing but what [`chelsea_kv`] gives to any policy ([`View`](chelsea_kv::policy::View)). What
//! they need to know of queries the cache gathers for whoever asks ([`Needs`](chelsea_kv::policy::Needs)).
//!
//! [`register`] adds them to the registry, so that [`chelsea_kv::policy()`] makes them by name:
//!
//! ```
//! chelsea_baselines::register();
//! assert_eq!(chelsea_kv::policy("snapkv:window=32")?.name(), "snapkv");
//! # Ok::<(), chelsea_kv::PolicyError>(())
//! ```

mod d2o;
mod expected_attention;
mod h2o;
mod keydiff;
mod knorm;
mod lagkv;
mod leverage;
mod pool;
mod pyramidkv;
mod random;
mod snapkv;
mod tova;
mod vectors;

pub use d2o::D2o;
pub use expected_attention::ExpectedAttention;
pub use h2o::H2o;
pub use keydiff::KeyDiff;
pub use knorm::Knorm;
pub use lagkv::LagKv;
pub use leverage::Leverage;
pub use pool::Pooling;
pub use pyramidkv::PyramidKv;
pub use random::Random;
pub use snapkv::{Smooth, SnapKv};
pub use tova::Tova;

use chelsea_kv::policy::PolicyInfo;

/// All policies of this crate.
pub const BASELINES: &[PolicyInfo] = &[
    random::INFO,
    pool::INFO,
    knorm::INFO,
    keydiff::INFO,
    lagkv::INFO,
    leverage::INFO,
    snapkv::INFO,
    pyramidkv::INFO,
    tova::INFO,
    h2o::INFO,
    d2o::INFO,
    expected_attention::INFO,
];

/// Adds [`BASELINES`] to the registry of [`chelsea_kv`]: at the start of a program. To call it again changes nothing.
pub fn register() {
    chelsea_kv::policy::register(BASELINES);
}
