//! One KV head of one layer: an ordered list of entries in pages.

use crate::{Dtype, PAGE, Page};
use std::sync::Arc;

/// The entries of one KV head, in sequence order. Cloning shares the pages; a shared page is copied
/// only when one of the owners writes to it.
#[derive(Debug, Clone)]
pub struct Head {
    pages: Vec<Arc<Page>>,
    len: usize,
    head_dim: usize,
    dtype: Dtype,
}

impl Head {
    /// A head without entries.
    pub fn new(head_dim: usize, dtype: Dtype) -> Self {
        Head { pages: Vec::new(), len: 0, head_dim, dtype }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the head holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers of a key, and of a value.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How numbers are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The pages; all but the last are full.
    pub fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, key: &[f32], value: &[f32], count: u32, position: f32) {
        assert!(key.len() == self.head_dim && value.len() == self.head_dim, "a key and a value have head_dim numbers");
        if self.len == self.pages.len() * PAGE {
            self.pages.push(Arc::new(Page::new(self.head_dim, self.dtype)));
        }
        let page = Arc::make_mut(&mut self.pages[self.len / PAGE]);
        page.set(self.len % PAGE, self.dtype, key, value, count, position);
        self.len += 1;
    }

    /// Drops entries `len..` and gives their pages back.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.pages.truncate(len.div_ceil(PAGE));
        if !len.is_multiple_of(PAGE)
            && let Some(last) = self.pages.last_mut()
        {
            Arc::make_mut(last).clear_from(len % PAGE);
        }
    }

    /// Tokens that entry `i` stands for.
    pub fn count(&self, i: usize) -> u32 {
        self.pages[i / PAGE].counts()[i % PAGE]
    }

    /// Mean position of the tokens that entry `i` stands for.
    pub fn position(&self, i: usize) -> f32 {
        self.pages[i / PAGE].positions()[i % PAGE]
    }

    /// Reads key `i`, after RoPE as it is stored.
    pub fn read_key(&self, i: usize, out: &mut [f32]) {
        self.pages[i / PAGE].read_key(i % PAGE, self.dtype, out);
    }

    /// Reads value `i`.
    pub fn read_value(&self, i: usize, out: &mut [f32]) {
        self.pages[i / PAGE].read_value(i % PAGE, self.dtype, out);
    }
}
