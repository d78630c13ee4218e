//! What a budget must know of a cache.

use super::LEAST_TOKENS;

/// What a budget must know of the cache it is for. Only heads of layers that grow with the text can give entries up; a
/// layer with a sliding window takes its bytes off the budget, whatever it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// KV heads over all layers that grow.
    pub heads: usize,
    /// Attention sinks of a head.
    pub sinks: usize,
    /// Recent window of a head, at least.
    pub window: usize,
    /// Of what is kept of a head beyond [`SPARSE`], the share that its recent window is at least, up to [`WIDEST_WINDOW`].
    pub recent_share: f64,
    /// Entries of a page.
    pub page: usize,
    /// Bytes of a page of a layer that grows, everything counted.
    pub page_bytes: usize,
    /// Bytes that do not depend on the number of entries.
    pub fixed_bytes: usize,
    /// Bytes of a token over all heads that grow in a full cache of 16-bit numbers.
    pub full_token_bytes: usize,
    /// The layers with a sliding window.
    pub sliding: Vec<Sliding>,
}

/// A layer with a sliding window, as far as a budget is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sliding {
    /// Tokens that it sees.
    pub window: usize,
    /// Bytes of one page for each of its heads, everything counted.
    pub page_bytes: usize,
    /// Bytes of a token over its heads in a full cache of 16-bit numbers.
    pub full_token_bytes: usize,
}

/// Where no more than this share of a text is kept, what lies further back needs every entry: no policy widens the recent
/// window there.
pub const SPARSE: f64 = 0.2;

/// A policy widens the recent window to so many entries at most: how much the next tokens look back falls with distance,
/// however long the text is.
pub const WIDEST_WINDOW: usize = 512;

impl Limits {
    /// Entries of a head that are never touched, at least.
    pub fn protected(&self) -> usize {
        self.sinks + self.window
    }

    /// Last entries of a head that are not touched where `kept` of `tokens` stay.
    pub fn recent_window(&self, kept: f64, tokens: usize) -> usize {
        let dense = (kept - SPARSE * tokens as f64).max(0.0);
        ((self.recent_share * dense) as usize).min(WIDEST_WINDOW).max(self.window)
    }

    /// Bytes that the layers with a sliding window hold of a text of `tokens`, between two steps. Their entries begin and
    /// end anywhere in a page.
    pub fn sliding_bytes(&self, tokens: usize) -> usize {
        let held = |layer: &Sliding| (layer.window.min(tokens).div_ceil(self.page) + 1) * layer.page_bytes;
        self.sliding.iter().map(held).sum()
    }

    /// Bytes of a full cache of 16-bit numbers, of `tokens` tokens.
    pub(super) fn full_bytes(&self, tokens: usize) -> usize {
        let sliding = self.sliding.iter().map(|layer| layer.window.min(tokens) * layer.full_token_bytes);
        tokens * self.full_token_bytes + sliding.sum::<usize>()
    }

    /// Entries over all heads that are sure to fit in `bytes`, of a text of `tokens`: each head may waste up to a page
    /// less one entry.
    pub(super) fn entries_in(&self, bytes: usize, tokens: usize) -> usize {
        let left = bytes.saturating_sub(self.fixed_bytes + self.sliding_bytes(tokens));
        let pages = left.checked_div(self.page_bytes).unwrap_or(0);
        (pages * self.page).saturating_sub(self.heads * (self.page - 1))
    }

    /// Share of the entries of `tokens` tokens that are sure to fit in `share` of the bytes of a full 16-bit cache.
    pub(super) fn ratio_in(&self, share: f32, tokens: usize) -> f64 {
        let bytes = f64::from(share) * self.full_bytes(tokens.max(LEAST_TOKENS)) as f64;
        let all = (tokens as f64 / self.page as f64).ceil() * (self.heads * self.page_bytes) as f64;
        if all + (self.fixed_bytes + self.sliding_bytes(tokens)) as f64 <= bytes {
            return 1.0;
        }
        (self.entries_in(bytes as usize, tokens) as f64 / (tokens as f64 * self.heads as f64)).min(1.0)
    }

    /// The least bytes in which `entries` a head are sure to fit.
    pub(super) fn bytes_for(&self, entries: usize) -> usize {
        let slots = self.heads * (entries + self.page - 1);
        slots.div_ceil(self.page) * self.page_bytes + self.fixed_bytes + self.sliding_bytes(usize::MAX)
    }
}
