//! One allocation of a device's memory, from which pages of every size are taken.
//!
//! Kernels know a page by its number: page `n` of a size begins `n` times that size after the slab's start. Sizes share the
//! slab by *extents*: an extent belongs to one size for as long as any of its pages is in use, and its pages are those that
//! lie in it whole. An extent is zeroed when a size takes it, since attention multiplies what lies in slots without
//! entries by zero, which must be a number there.
//!
//! A page may be given back while kernels that read it are still waiting in the device's stream: whoever takes it next
//! writes it behind them.

use crate::device::{Address, Buffer, Device, DeviceError};
use crate::kernels::MOST_DIM;
use chelsea_kv::PAGE;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an extent: many pages of the largest size.
const EXTENT: usize = 2 << 20;

/// Memory for pages.
#[derive(Debug)]
pub(crate) struct Slab {
    buffer: Buffer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Extents that belong to no size.
    free: Vec<usize>,
    /// By size of pages: free pages of each extent that has some.
    open: HashMap<usize, BTreeMap<usize, Vec<u32>>>,
}

/// A page, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    slab: Arc<Slab>,
    number: u32,
    bytes: usize,
}

impl Slab {
    /// A slab of at most `bytes`, in whole extents.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Arc<Self>, DeviceError> {
        let extents = bytes / EXTENT;
        let buffer = Buffer::new(device, extents * EXTENT)?;
        let state = State { free: (0..extents).rev().collect(), open: HashMap::new() };
        Ok(Arc::new(Slab { buffer, state: Mutex::new(state) }))
    }

    /// Where it begins.
    pub fn start(&self) -> Address {
        self.buffer.at()
    }

    /// Bytes of pages that certainly fit, of any one size: an extent loses a part of a page at either end.
    pub fn room(&self) -> usize {
        const LARGEST: usize = 4 * MOST_DIM * PAGE + 3 * 4 * PAGE;
        self.buffer.bytes() / EXTENT * (EXTENT / LARGEST - 1) * LARGEST
    }

    /// A page of `bytes` bytes, which is zero or was a page of this size before; none where the slab is full.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Place, DeviceError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { free, open } = &mut *state;
        let open = open.entry(bytes).or_default();
        if open.is_empty() {
            let extent = free.pop().ok_or(DeviceError::Memory { bytes })?;
            if let Err(error) = self.buffer.device().zero(self.start() + (extent * EXTENT) as Address, EXTENT) {
                free.push(extent);
                return Err(error);
            }
            open.insert(extent, pages_of(extent, bytes).rev().collect());
        }
        let mut entry = open.first_entry().ok_or(DeviceError::Memory { bytes })?;
        let number = entry.get_mut().pop().ok_or(DeviceError::Memory { bytes })?;
        if entry.get().is_empty() {
            entry.remove();
        }
        Ok(Place { slab: Arc::clone(self), number, bytes })
    }

    fn give_back(&self, number: u32, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { free, open } = &mut *state;
        let extent = number as usize * bytes / EXTENT;
        let open = open.entry(bytes).or_default();
        let pages = open.entry(extent).or_default();
        pages.push(number);
        if pages.len() == pages_of(extent, bytes).len() {
            open.remove(&extent);
            free.push(extent);
        }
    }
}

/// Numbers of the pages of `bytes` bytes that lie in an extent whole.
fn pages_of(extent: usize, bytes: usize) -> std::ops::Range<u32> {
    let (first, end) = ((extent * EXTENT).div_ceil(bytes), (extent + 1) * EXTENT / bytes);
    first as u32..end as u32
}

impl Place {
    /// Its number among pages of its size.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where it lies.
    pub fn at(&self) -> Address {
        self.slab.start() + Address::from(self.number) * self.bytes as Address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slab.give_back(self.number, self.bytes);
    }
}
