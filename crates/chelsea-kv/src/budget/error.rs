//! What is wrong with a budget.

use thiserror::Error;

/// A budget that cannot be held.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BudgetError {
    /// A keep ratio outside (0, 1].
    #[error("keep ratio {0} is out of range: it must be above 0 and at most 1")]
    Ratio(f32),
    /// A share of the bytes outside (0, 1].
    #[error("a budget of {}% is out of range: it must be above 0% and at most 100%", .0 * 100.0)]
    ByteFraction(f32),
    /// Sinks, window and one page do not fit.
    #[error(
        "a budget of {entries} entries per head is too small: {sinks} sinks, a recent window of {window} and one page \
         of {page} entries need {needed}"
    )]
    Entries {
        /// What was asked for.
        entries: usize,
        /// Attention sinks of a head.
        sinks: usize,
        /// Recent window of a head.
        window: usize,
        /// Entries of a page.
        page: usize,
        /// The least that works.
        needed: usize,
    },
    /// Sinks, window and one page do not fit.
    #[error(
        "a budget of {bytes} bytes is too small: {sinks} sinks, a recent window of {window} and one page of entries \
         over {heads} KV heads need {needed} bytes"
    )]
    Bytes {
        /// What was asked for.
        bytes: usize,
        /// Attention sinks of a head.
        sinks: usize,
        /// Recent window of a head.
        window: usize,
        /// KV heads over all layers.
        heads: usize,
        /// The least that works.
        needed: usize,
    },
    /// The layers with a sliding window alone take more.
    #[error(
        "a budget of {bytes} bytes is too small: the layers with a sliding window take {needed} bytes, and no policy can \
         make them smaller"
    )]
    Sliding {
        /// What was asked for.
        bytes: usize,
        /// What those layers take.
        needed: usize,
    },
    /// Text that is no budget.
    #[error("`{0}` is not a budget: write a share like 25%, entries per head like 20000, or bytes like 512MiB")]
    Unreadable(String),
}
