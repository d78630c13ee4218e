//! One KV head of one layer: an ordered list of entries in pages.

use crate::form::{Form, rotate};
use crate::page::pieces;
use crate::pool::Reservation;
use crate::{Dims, Dtype, PAGE, Page, Rotary, TILE};

/// The entries of one KV head, in sequence order. Cloning shares the pages; a shared page is copied
/// only when one of the owners writes to it.
#[derive(Debug)]
pub struct Head {
    pages: Vec<Page>,
    /// Pages that were given up and wait for the next entries. Returned to the system's allocator they would come back
    /// to the heap of the thread that had asked for them, and the next thread's would grow instead.
    idle: Vec<Page>,
    /// How many may wait.
    idle_limit: u32,
    len: usize,
    dims: Dims,
    dtype: Dtype,
    /// How keys are stored; nothing where they are stored as they are.
    form: Option<Box<Form>>,
}

impl Clone for Head {
    /// Shares the pages that hold entries; those that wait for some stay here.
    fn clone(&self) -> Self {
        let Head { pages, len, dims, dtype, form, .. } = self;
        Head { form: form.clone(), ..Head::from_pages(pages.clone(), *len, *dims, *dtype) }
    }
}

impl Head {
    /// A head without entries.
    pub fn new(dims: impl Into<Dims>, dtype: Dtype) -> Self {
        Head::from_pages(Vec::new(), 0, dims.into(), dtype)
    }

    /// A head of `len` entries in `pages`, of which all but the last are full.
    pub(crate) fn from_pages(pages: Vec<Page>, len: usize, dims: Dims, dtype: Dtype) -> Self {
        debug_assert_eq!(pages.len(), len.div_ceil(PAGE));
        Head { pages, idle: Vec::new(), idle_limit: 0, len, dims, dtype, form: None }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the head holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers of a key.
    pub fn key_dim(&self) -> usize {
        self.dims.key
    }

    /// Numbers of a value.
    pub fn value_dim(&self) -> usize {
        self.dims.value
    }

    /// Numbers of a key, where values have as many.
    pub fn head_dim(&self) -> usize {
        self.dims.key
    }

    /// Numbers of a key and of a value.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// How numbers are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The pages; all but the last are full.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Pages that are held: those with entries, and those that wait for the next ones.
    pub(crate) fn pages_held(&self) -> usize {
        self.pages.len() + self.idle.len()
    }

    /// Has at most `limit` pages wait for the next entries from now on, of those that entries leave.
    pub(crate) fn limit_idle_pages(&mut self, limit: usize) {
        self.idle_limit = limit as u32;
        self.idle.truncate(limit);
    }

    /// What keys are stored divided by, number by number, where they are: queries must be multiplied by it.
    pub fn key_sizes(&self) -> Option<&[f32]> {
        self.form().map(Form::sizes)
    }

    /// The same head without entries, whose keys are going to be stored divided by `sizes`.
    ///
    /// # Panics
    /// If there are not as many as a key has numbers, or the head has entries.
    pub fn with_key_sizes(mut self, sizes: &[f32]) -> Self {
        assert!(self.is_empty() && sizes.len() == self.dims.key, "one size for each number of a key");
        self.form = Form::from_parts(sizes.into(), None).map(Box::new);
        self
    }

    /// Whether a head of this type finds out how large keys are from tokens at position `first`, before it stores them
    /// ([`Head::weigh`]).
    pub fn weighs(dtype: Dtype, first: usize) -> bool {
        dtype.scaled() && first < Form::SETTLED
    }

    /// How keys are stored, so that queries must be made ones for it.
    pub(crate) fn form(&self) -> Option<&Form> {
        self.form.as_deref()
    }

    /// Has keys be stored in `form`, all from the first on.
    pub(crate) fn set_form(&mut self, form: Option<Form>) {
        debug_assert!(self.is_empty() || self.form.is_none());
        self.form = form.map(Box::new);
    }

    /// Looks how large the keys are of a head that is still short, with `n` that come next at positions `first..first + n`,
    /// and states its own anew where that tells more than before. Key `t` of these is `keys[t * stride..][..key_dim]`.
    pub fn weigh(
        &mut self,
        keys: &[f32],
        stride: usize,
        n: usize,
        first: usize,
        rotary: &Rotary,
        reserved: &Reservation,
    ) {
        let (dim, held) = (self.dims.key, self.len);
        // What a few keys have in common may be little of what all have, so it is looked for again whenever they have doubled.
        let doubled = self.dtype.rotated() && (held + n).max(1).ilog2() > held.max(1).ilog2();
        if n == 0 || (self.form.is_some() && held + n < Form::SETTLED && !doubled) {
            return;
        }
        let mut all = vec![0.0; (held + n) * dim];
        let (own, next) = all.split_at_mut(held * dim);
        own.chunks_exact_mut(dim).enumerate().for_each(|(i, key)| self.read_key(i, key));
        next.chunks_exact_mut(dim).enumerate().for_each(|(t, key)| key.copy_from_slice(&keys[t * stride..][..dim]));
        let form = if self.dtype.rotated() {
            let next = (first..first + n).map(|position| position as f32);
            let positions: Vec<f32> = (0..held).map(|i| self.position(i)).chain(next).collect();
            Form::rotated(&all, &positions, dim, rotary)
        } else {
            Form::balanced(&all, dim, rotary)
        };
        let Some(form) = form else { return };
        self.form = Some(Box::new(form));
        let mut value = vec![0.0; self.dims.value];
        for (i, key) in all.chunks_exact(dim).take(held).enumerate() {
            self.read_value(i, &mut value);
            self.set(i, key, &value, self.count(i), self.position(i), reserved);
        }
    }

    fn add_page(&mut self, reserved: &Reservation) {
        let page = self.idle.pop().unwrap_or_else(|| Page::reserved(self.dims, self.dtype, reserved));
        self.pages.push(page);
    }

    /// Bytes of a page of this head.
    pub(crate) fn page_bytes(&self) -> usize {
        Page::bytes(self.dims, self.dtype)
    }

    /// Bytes that are to be reserved before `n` tokens are added: those of pages that are to be made, and of those that
    /// must be copied because others own them, too.
    pub(crate) fn bytes_to_extend(&self, n: usize) -> usize {
        let made = (self.len + n).div_ceil(PAGE).saturating_sub(self.pages_held());
        // While keys are still weighed, all of them may be stored anew.
        let first = if self.dtype.scaled() && self.len < Form::SETTLED { 0 } else { self.len / PAGE };
        (if n == 0 { 0 } else { made + self.foreign_pages(first) }) * self.page_bytes()
    }

    /// Bytes that are to be reserved before entries from `first` on are moved or written.
    pub(crate) fn bytes_to_rewrite(&self, first: usize) -> usize {
        self.foreign_pages(first / PAGE) * self.page_bytes()
    }

    /// Bytes that are to be reserved before entries `len..` are dropped: of the page that is cut, if it must be copied.
    pub(crate) fn bytes_to_truncate(&self, len: usize) -> usize {
        let cut = len < self.len && !len.is_multiple_of(PAGE) && !self.pages[len / PAGE].is_own();
        if cut { self.page_bytes() } else { 0 }
    }

    /// Pages from `first` on that are to be copied before they are written to.
    fn foreign_pages(&self, first: usize) -> usize {
        self.pages.iter().skip(first).filter(|page| !page.is_own()).count()
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, key: &[f32], value: &[f32], count: u32, position: f32) {
        self.push_from(key, value, count, position, &Reservation::unbound());
    }

    /// [`Head::push`], with a page that is charged to `reserved`.
    pub(crate) fn push_from(&mut self, key: &[f32], value: &[f32], count: u32, position: f32, reserved: &Reservation) {
        assert!(key.len() == self.dims.key && value.len() == self.dims.value, "a key and a value of the head's sizes");
        if self.len == self.pages.len() * PAGE {
            self.add_page(reserved);
        }
        self.len += 1;
        self.set(self.len - 1, key, value, count, position, reserved);
    }

    /// Adds an entry that another device stored, as it was stored there: its key divided by [`Head::key_sizes`], with these
    /// scales of key and value.
    ///
    /// # Panics
    /// If key and value have other sizes than the head's.
    pub fn push_stored(&mut self, key: &[f32], value: &[f32], scales: (f32, f32), count: u32, position: f32) {
        assert!(key.len() == self.dims.key && value.len() == self.dims.value, "a key and a value of the head's sizes");
        let reserved = Reservation::unbound();
        if self.len == self.pages.len() * PAGE {
            self.add_page(&reserved);
        }
        let (slot, dtype) = (self.len % PAGE, self.dtype);
        let mut page = self.pages[self.len / PAGE].to_mut(&reserved);
        page.set_scaled(slot, dtype, (key, value), Some(scales), count, position);
        self.len += 1;
    }

    /// Reads entry `i` as it is stored, for another device: its key divided by [`Head::key_sizes`]. Returns the scales of key
    /// and value.
    pub fn read_stored(&self, i: usize, key: &mut [f32], value: &mut [f32]) -> (f32, f32) {
        let page = &self.pages[i / PAGE];
        page.read_key(i % PAGE, self.dtype, key);
        page.read_value(i % PAGE, self.dtype, value);
        page.scales_of(i % PAGE, self.dtype)
    }

    /// Adds `n` tokens at the end, at positions `first..first + n`. Key and value of token `t` are
    /// `keys[t * strides.key..][..key_dim]` and `values[t * strides.value..][..value_dim]`.
    pub fn extend(&mut self, keys: &[f32], values: &[f32], strides: Dims, n: usize, first: usize) {
        self.extend_from(keys, values, strides, n, first, &Reservation::unbound());
    }

    /// [`Head::extend`], with pages that are charged to `reserved`.
    pub(crate) fn extend_from(
        &mut self,
        keys: &[f32],
        values: &[f32],
        strides: Dims,
        n: usize,
        first: usize,
        reserved: &Reservation,
    ) {
        let dims = self.dims;
        let mut t = 0;
        while t < n {
            if self.len == self.pages.len() * PAGE {
                self.add_page(reserved);
            }
            let slot = self.len % PAGE;
            let here = (PAGE - slot).min(n - t);
            let mut page = self.pages[self.len / PAGE].to_mut(reserved);
            for i in 0..here {
                let position = (first + t + i) as f32;
                let key = stored(&mut self.form, &keys[(t + i) * strides.key..][..dims.key], position);
                let value = &values[(t + i) * strides.value..][..dims.value];
                stored_value(self.dtype, value, |value| page.set(slot + i, self.dtype, key, value, 1, position));
            }
            self.len += here;
            t += here;
        }
    }

    /// Overwrites entry `i`.
    pub(crate) fn set(
        &mut self,
        i: usize,
        key: &[f32],
        value: &[f32],
        count: u32,
        position: f32,
        reserved: &Reservation,
    ) {
        debug_assert!(i < self.len);
        let key = stored(&mut self.form, key, position);
        let mut page = self.pages[i / PAGE].to_mut(reserved);
        stored_value(self.dtype, value, |value| page.set(i % PAGE, self.dtype, key, value, count, position));
    }

    /// Copies the `len` entries from `from` on over those from the earlier entry `to` on, bit for bit.
    pub(crate) fn move_down(&mut self, to: usize, from: usize, len: usize, reserved: &Reservation) {
        debug_assert!(to <= from && from + len <= self.len);
        if to == from {
            return;
        }
        for (to, from, run) in pieces(to, from, len, PAGE) {
            let (front, back) = self.pages.split_at_mut(from / PAGE);
            let (page, source) = match front.get_mut(to / PAGE) {
                Some(page) => (page, Some(&back[0])),
                None => (&mut back[0], None),
            };
            page.to_mut(reserved).copy_run(to % PAGE, source, from % PAGE, run, self.dtype);
        }
    }

    /// Drops entries `len..` and gives their pages back, but for those that may wait for the next entries.
    pub fn truncate(&mut self, len: usize) {
        self.truncate_from(len, &Reservation::unbound());
    }

    /// [`Head::truncate`]; a page that is cut and that others own, too, is copied at the cost of `reserved`.
    pub(crate) fn truncate_from(&mut self, len: usize, reserved: &Reservation) {
        if len >= self.len {
            return;
        }
        self.len = len;
        for mut page in self.pages.drain(len.div_ceil(PAGE)..) {
            if self.idle.len() < self.idle_limit as usize && page.is_own() {
                page.to_mut(reserved).clear();
                self.idle.push(page);
            }
        }
        if !len.is_multiple_of(PAGE)
            && let Some(last) = self.pages.last_mut()
        {
            last.to_mut(reserved).clear_from(len % PAGE);
        }
    }

    /// Gives pages back whose entries no later token sees, where a token sees `window` tokens, itself included. A page of
    /// which one entry is still seen stays whole: attention leaves out the others.
    pub(crate) fn slide(&mut self, window: usize) {
        let unseen = self.len.saturating_sub(window - 1) / PAGE;
        self.pages.drain(..unseen);
        self.len -= unseen * PAGE;
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
        if let Some(form) = &self.form {
            form.restore(out, self.position(i));
        }
    }

    /// Reads the tile of keys that entry `i` is in, after RoPE as they are stored, into `out`, `[key_dim][TILE]`.
    /// Lanes past the head's length hold finite numbers that mean nothing.
    pub(crate) fn read_key_tile(&self, i: usize, out: &mut [f32]) {
        self.pages[i / PAGE].read_key_tile(i % PAGE / TILE, self.dtype, out);
        if let Some(form) = &self.form {
            let positions = self.pages[i / PAGE].positions()[i % PAGE / TILE * TILE..].first_chunk::<TILE>();
            form.restore_tile(out, positions.expect("a page is whole tiles"));
        }
    }

    /// Reads value `i`.
    pub fn read_value(&self, i: usize, out: &mut [f32]) {
        self.pages[i / PAGE].read_value(i % PAGE, self.dtype, out);
        if self.dtype.rotated() {
            rotate(out);
        }
    }
}

/// Calls `put` with the value as it is stored.
fn stored_value(dtype: Dtype, value: &[f32], put: impl FnOnce(&[f32])) {
    const MOST: usize = 512;
    match value.len() {
        _ if !dtype.rotated() => put(value),
        0..=MOST => {
            let mut room = [0.0; MOST];
            let rotated = &mut room[..value.len()];
            rotated.copy_from_slice(value);
            rotate(rotated);
            put(rotated);
        }
        _ => {
            let mut rotated = value.to_vec();
            rotate(&mut rotated);
            put(&rotated);
        }
    }
}

/// The key `key` at `position` as a head with this form stores it.
fn stored<'a>(form: &'a mut Option<Box<Form>>, key: &'a [f32], position: f32) -> &'a [f32] {
    match form {
        Some(form) => form.store(key, position),
        None => key,
    }
}

#[cfg(test)]
mod tests;
