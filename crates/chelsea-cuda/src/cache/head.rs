//! One KV head in a device's memory: which pages it has, how many entries are in them, and how pages are shared.

use super::slab::{Place, Slab};
use crate::device::{Device, DeviceError};
use crate::kernels::{NO_BALANCE, PageLayout, Run};
use chelsea_kv::{Dims, Head, Lease, PAGE, Page, Reservation};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A page and what it is charged with. Heads of forks share it until one of them writes to it.
#[derive(Debug)]
struct Held {
    place: Place,
    lease: Lease,
}

/// What keys are stored divided by, on both sides.
#[derive(Debug)]
struct Balance {
    sizes: Vec<f32>,
    /// A row of as many numbers in the slab.
    place: Place,
}

/// One KV head.
#[derive(Debug, Clone)]
pub(crate) struct DeviceHead {
    layout: PageLayout,
    pages: Vec<Arc<Held>>,
    len: usize,
    balance: Option<Arc<Balance>>,
    /// What nothing else has whose pages are others: lists of them need not be made anew while it stays.
    stamp: u64,
}

/// A stamp that nothing has.
fn new_stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What tokens that were given room are to become: for kernels that write them.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Pages that hold no entry from some slot on: `(layout, page, slot)`.
    pub clears: Vec<(PageLayout, u32, u32)>,
    /// Where tokens go.
    pub runs: Vec<Run>,
}

impl DeviceHead {
    /// A head without entries.
    pub fn new(layout: PageLayout) -> Self {
        DeviceHead { layout, pages: Vec::new(), len: 0, balance: None, stamp: new_stamp() }
    }

    /// Where everything lies in its pages.
    pub fn layout(&self) -> PageLayout {
        self.layout
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A number that changes whenever its pages become others. Forks have the same for as long as they have the same pages.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Numbers of its pages, in order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.pages.iter().map(|page| page.place.number())
    }

    /// What keys are stored divided by.
    pub fn sizes(&self) -> Option<&[f32]> {
        self.balance.as_ref().map(|balance| &balance.sizes[..])
    }

    /// The row of that in the slab, counted in rows of a key's numbers.
    pub fn balance_row(&self) -> u32 {
        self.balance.as_ref().map_or(NO_BALANCE, |balance| balance.place.number())
    }

    /// What a page is charged with: as much as one of the CPU's, which has the same parts.
    pub fn page_charge(&self) -> usize {
        Page::bytes(Dims::both(self.layout.dim), self.layout.ty.dtype())
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.page_charge()
    }

    /// The part of them that others own, too.
    pub fn shared_bytes(&self) -> usize {
        self.foreign(0) * self.page_charge()
    }

    /// Pages from `first` on that others own, too.
    fn foreign(&self, first: usize) -> usize {
        self.pages.iter().skip(first).filter(|page| Arc::strong_count(page) > 1).count()
    }

    /// Most bytes that adding `n` tokens takes.
    pub fn bytes_to_grow(&self, n: usize) -> usize {
        let made = (self.len + n).div_ceil(PAGE).saturating_sub(self.pages.len());
        // While keys are still weighed, all of them may be stored anew.
        let weighed = Head::weighs(self.layout.ty.dtype(), self.len);
        let first = if weighed { 0 } else { self.len / PAGE };
        if n == 0 { 0 } else { (made + self.foreign(first)) * self.page_charge() }
    }

    /// Most bytes that rewriting entries from `first` on takes.
    pub fn bytes_to_rewrite(&self, first: usize) -> usize {
        self.foreign(first / PAGE) * self.page_charge()
    }

    /// Most bytes that dropping the last `n` entries takes.
    pub fn bytes_to_truncate(&self, n: usize) -> usize {
        let len = self.len.saturating_sub(n);
        let cut = len < self.len && !len.is_multiple_of(PAGE);
        let shared = self.pages.get(len / PAGE).is_some_and(|page| Arc::strong_count(page) > 1);
        if cut && shared { self.page_charge() } else { 0 }
    }

    fn take(&self, slab: &Arc<Slab>, reserved: &Reservation) -> Result<Arc<Held>, DeviceError> {
        let place = slab.take(self.layout.bytes())?;
        Ok(Arc::new(Held { place, lease: reserved.take(self.page_charge()) }))
    }

    /// Makes page `i` its own, with what is in it.
    pub fn own(
        &mut self,
        i: usize,
        device: &dyn Device,
        slab: &Arc<Slab>,
        reserved: &Reservation,
    ) -> Result<(), DeviceError> {
        if Arc::strong_count(&self.pages[i]) > 1 {
            let copy = self.take(slab, reserved)?;
            device.copy(self.pages[i].place.at(), copy.place.at(), self.layout.bytes())?;
            self.pages[i] = copy;
            self.stamp = new_stamp();
        }
        Ok(())
    }

    /// Makes room for `n` tokens at positions `first..`, whose keys and values lie in rows `row..` of head `h` of a
    /// layer.
    #[allow(clippy::too_many_arguments, reason = "what a token is")]
    pub fn grow(
        &mut self,
        (h, row, n, first): (usize, usize, usize, usize),
        device: &dyn Device,
        slab: &Arc<Slab>,
        reserved: &Reservation,
        growth: &mut Growth,
    ) -> Result<(), DeviceError> {
        if Head::weighs(self.layout.ty.dtype(), first) {
            (0..self.pages.len()).try_for_each(|i| self.own(i, device, slab, reserved))?;
        } else if !self.len.is_multiple_of(PAGE) {
            self.own(self.len / PAGE, device, slab, reserved)?;
        }
        let mut t = 0;
        while t < n {
            let slot = self.len % PAGE;
            if slot == 0 {
                let page = self.take(slab, reserved)?;
                growth.clears.push((self.layout, page.place.number(), 0));
                self.pages.push(page);
                self.stamp = new_stamp();
            }
            let count = (PAGE - slot).min(n - t);
            growth.runs.push(Run {
                page: self.pages[self.len / PAGE].place.number(),
                slot: slot as u32,
                count: count as u32,
                row: (row + t) as u32,
                head: h as u32,
                position: (first + t) as u32,
                balance: self.balance_row(),
            });
            self.len += count;
            t += count;
        }
        Ok(())
    }

    /// Drops pages whose entries no later token sees, where a token sees `window` tokens, itself included.
    pub fn slide(&mut self, window: usize) {
        let unseen = self.len.saturating_sub(window - 1) / PAGE;
        if unseen > 0 {
            self.stamp = new_stamp();
        }
        self.pages.drain(..unseen);
        self.len -= unseen * PAGE;
    }

    /// Drops the last `n` entries.
    pub fn truncate(
        &mut self,
        n: usize,
        device: &dyn Device,
        slab: &Arc<Slab>,
        reserved: &Reservation,
        growth: &mut Growth,
    ) -> Result<(), DeviceError> {
        let len = self.len.saturating_sub(n);
        if len == self.len {
            return Ok(());
        }
        self.len = len;
        self.pages.truncate(len.div_ceil(PAGE));
        self.stamp = new_stamp();
        if !len.is_multiple_of(PAGE) {
            self.own(len / PAGE, device, slab, reserved)?;
            growth.clears.push((self.layout, self.pages[len / PAGE].place.number(), (len % PAGE) as u32));
        }
        if self.len == 0 {
            // How large keys are is found out anew.
            self.balance = None;
        }
        Ok(())
    }

    /// The bytes of pages `from..`, one after the other.
    pub fn read_pages(&self, from: usize, device: &dyn Device) -> Result<Vec<u8>, DeviceError> {
        let (size, pages) = (self.layout.bytes(), self.pages.get(from..).unwrap_or_default());
        let mut bytes = vec![0; pages.len() * size];
        let mut i = 0;
        while i < pages.len() {
            // Pages that follow one another are read together.
            let follow = |j: usize| pages[j].place.number() == pages[i].place.number() + (j - i) as u32;
            let run = (i + 1..pages.len()).take_while(|&j| follow(j)).count() + 1;
            device.read(pages[i].place.at(), &mut bytes[i * size..(i + run) * size])?;
            i += run;
        }
        Ok(bytes)
    }

    /// Replaces pages `from..` by these bytes, of which `len` entries in all are left.
    pub fn write_pages(
        &mut self,
        from: usize,
        bytes: &[u8],
        len: usize,
        device: &dyn Device,
        slab: &Arc<Slab>,
        reserved: &Reservation,
    ) -> Result<(), DeviceError> {
        let size = self.layout.bytes();
        self.pages.truncate(len.div_ceil(PAGE).max(from));
        self.stamp = new_stamp();
        self.len = len;
        for (i, bytes) in bytes.chunks_exact(size).enumerate().take(len.div_ceil(PAGE).saturating_sub(from)) {
            match self.pages.get(from + i) {
                Some(page) if Arc::strong_count(page) == 1 => {}
                Some(_) => self.pages[from + i] = self.take(slab, reserved)?,
                None => {
                    let page = self.take(slab, reserved)?;
                    self.pages.push(page);
                }
            }
            device.write(self.pages[from + i].place.at(), bytes)?;
        }
        Ok(())
    }

    /// As many pages as `len` entries take in all from page `first` on, which are to replace those that are there.
    pub fn fresh_pages(&self, first: usize, len: usize, slab: &Arc<Slab>) -> Result<Vec<Place>, DeviceError> {
        (first..len.div_ceil(PAGE)).map(|_| slab.take(self.layout.bytes())).collect()
    }

    /// Has `places`, with `len` entries in all, replace pages from `first` on. They are charged with what the old ones
    /// were, as far as those were this head's alone.
    pub fn replace_pages(&mut self, first: usize, places: Vec<Place>, len: usize, reserved: &Reservation) {
        let old = self.pages.split_off(first.min(self.pages.len()));
        self.stamp = new_stamp();
        let mut leases: Vec<Lease> = old.into_iter().filter_map(Arc::into_inner).map(|held| held.lease).collect();
        for place in places {
            let lease = leases.pop().unwrap_or_else(|| reserved.take(self.page_charge()));
            self.pages.push(Arc::new(Held { place, lease }));
        }
        self.len = len;
    }

    /// Writes page `i`, which is its own, anew.
    pub fn overwrite(&mut self, i: usize, bytes: &[u8], device: &dyn Device) -> Result<(), DeviceError> {
        device.write(self.pages[i].place.at(), bytes)
    }

    /// Has keys be stored divided by `sizes` from here on; entries are the caller's affair.
    pub fn set_sizes(&mut self, sizes: &[f32], device: &dyn Device, slab: &Arc<Slab>) -> Result<(), DeviceError> {
        let place = slab.take(size_of_val(sizes))?;
        device.write(place.at(), bytemuck::cast_slice(sizes))?;
        self.balance = Some(Arc::new(Balance { sizes: sizes.to_vec(), place }));
        Ok(())
    }
}
