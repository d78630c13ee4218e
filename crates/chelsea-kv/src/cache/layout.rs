//! What the heads of a cache hold, in numbers: for those who want to see a cache at work.

use super::SequenceCache;
use super::rewind::exact_tail;
use crate::{Head, LayerSpec};

/// Classes that clustered entries are counted in, by how many tokens one stands for: see [`LAYOUT_CLASSES`].
const CLASSES: usize = LAYOUT_CLASSES.len();

/// The most tokens that an entry of each class of [`HeadLayout::clustered`] stands for: 1; 2; 3 and 4; 5 to 8; and so on.
pub const LAYOUT_CLASSES: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, u32::MAX];

/// What one head of a layer that grows with the text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// The layer, from 0.
    pub layer: usize,
    /// The KV head of the layer, from 0.
    pub head: usize,
    /// Entries at its front that are never touched.
    pub sinks: usize,
    /// Entries between those and the recent ones, by how many tokens each stands for ([`LAYOUT_CLASSES`]). The first
    /// class are entries that were kept as they are.
    pub clustered: [usize; CLASSES],
    /// Entries at its end that stand for one token each, without a gap up to the last one.
    pub recent: usize,
}

impl HeadLayout {
    fn new(layer: usize, index: usize, head: &Head, tokens: usize, sinks: usize) -> HeadLayout {
        let sinks = sinks.min(head.len());
        let recent = exact_tail(head, tokens).min(head.len() - sinks);
        let mut clustered = [0; CLASSES];
        for i in sinks..head.len() - recent {
            // How often a count has to be halved, rounded up.
            let class = head.count(i).max(1).next_power_of_two().trailing_zeros() as usize;
            clustered[class.min(CLASSES - 1)] += 1;
        }
        HeadLayout { layer, head: index, sinks, clustered, recent }
    }
}

impl SequenceCache {
    /// What each head of the layers that grow with the text holds, layer by layer. Takes a look at every entry's count: a
    /// hundred thousand entries take a fraction of a millisecond.
    pub fn layout(&self) -> Vec<HeadLayout> {
        let heads = self.heads();
        let growing = |(_, (_, layer)): &(usize, (usize, &LayerSpec))| layer.grows();
        let of_heads = self.config.shape.layer_of_heads().enumerate().filter(growing);
        of_heads
            .map(|(g, (layer, _))| {
                let first = self.config.shape.heads_of(layer).start;
                HeadLayout::new(layer, g - first, &heads[g], self.layer_tokens[layer], self.config.sinks)
            })
            .collect()
    }
}
