//! Pages of entries in a device's memory, and tokens that become entries.

use super::launch;
use crate::device::{Address, Device, DeviceError};
use bytemuck::{NoUninit, Pod, Zeroable};
use chelsea_kv::{Dtype, PAGE};

/// The largest head size that kernels take; all are multiples of 16.
pub const MOST_DIM: usize = 256;

/// How keys and values are stored in a device's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageType {
    /// Halves.
    F16,
    /// Bytes with a scale for each row.
    Q8,
    /// Keys of bytes, values of half bytes, with a scale for each row.
    K8V4,
}

impl PageType {
    /// All of them.
    pub const ALL: [PageType; 3] = [PageType::F16, PageType::Q8, PageType::K8V4];

    /// The type that means what the cache's type means, if there is one.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F16 => Some(PageType::F16),
            Dtype::Q8 => Some(PageType::Q8),
            Dtype::K8V4 => Some(PageType::K8V4),
            Dtype::F32 | Dtype::Bf16 | Dtype::K5V4 => None,
        }
    }

    /// The cache's type.
    pub fn dtype(self) -> Dtype {
        match self {
            PageType::F16 => Dtype::F16,
            PageType::Q8 => Dtype::Q8,
            PageType::K8V4 => Dtype::K8V4,
        }
    }
}

/// Where everything lies in a page (`kernels/page.cuh`); offsets are in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    /// Numbers of a key, and of a value.
    pub dim: usize,
    /// How they are stored.
    pub ty: PageType,
}

impl PageLayout {
    /// Bytes of a key.
    pub fn key_row(self) -> usize {
        if self.ty == PageType::F16 { 2 * self.dim } else { self.dim }
    }

    /// Bytes of one dimension of all values.
    pub fn value_row(self) -> usize {
        match self.ty {
            PageType::F16 => 2 * PAGE,
            PageType::Q8 => PAGE,
            PageType::K8V4 => PAGE / 2,
        }
    }

    /// Where values begin.
    pub fn values(self) -> usize {
        PAGE * self.key_row()
    }

    /// Where scales begin: those of keys, then those of values. Pages of halves have none.
    pub fn scales(self) -> usize {
        self.values() + self.dim * self.value_row()
    }

    /// Where `ln count` of each slot begins; counts and positions follow.
    pub fn meta(self) -> usize {
        self.scales() + if self.ty == PageType::F16 { 0 } else { 2 * PAGE * 4 }
    }

    /// Bytes of a page: a multiple of 256.
    pub fn bytes(self) -> usize {
        self.meta() + 3 * PAGE * 4
    }
}

/// Tokens that become entries of one page of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Run {
    /// Number of the page in its pool.
    pub page: u32,
    /// Slot of the first entry.
    pub slot: u32,
    /// Entries; they fit the page.
    pub count: u32,
    /// Row of the first token.
    pub row: u32,
    /// The head, in its layer.
    pub head: u32,
    /// Position of the first token.
    pub position: u32,
    /// Row of the balances that keys are stored divided by, or [`NO_BALANCE`].
    pub balance: u32,
}

/// Keys are stored as they are.
pub const NO_BALANCE: u32 = u32::MAX;

/// Arguments of [`append`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Append {
    /// The pool of pages.
    pub pool: Address,
    /// [`Run`]s.
    pub runs: Address,
    /// Keys after RoPE, f32, `[rows][stride]`.
    pub keys: Address,
    /// Values, f32, `[rows][stride]`.
    pub values: Address,
    /// What keys are divided by, f32, `[balances][dim]`.
    pub balances: Address,
    /// Head size.
    pub dim: u32,
    /// Numbers from one token to the next.
    pub stride: u32,
}

/// Writes tokens into pages, each standing for itself. Several runs may share a page, but no slots; runs of one page of half
/// bytes must come in launches of their own, since they may share bytes.
///
/// # Errors
/// If the device fails.
pub fn append(device: &dyn Device, ty: PageType, runs: usize, arguments: &Append) -> Result<(), DeviceError> {
    let name = match ty {
        PageType::F16 => "append_f16",
        PageType::Q8 => "append_q8",
        PageType::K8V4 => "append_k8v4",
    };
    launch(device, name, [runs as u32, 1], 128, PAGE * 9 * 4, arguments)
}

/// Arguments of [`clear_slots`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Clear {
    /// The pool of pages.
    pub pool: Address,
    /// Numbers of the pages, u32.
    pub pages: Address,
    /// The first slot to clear of each, u32.
    pub firsts: Address,
    /// [`PageLayout::scales`]; the same as `meta` in pages that have none.
    pub scales: u32,
    /// [`PageLayout::meta`].
    pub meta: u32,
    /// [`PageLayout::bytes`].
    pub bytes: u32,
    /// Nothing.
    pub unused: u32,
}

impl Clear {
    /// For pages of this layout in `pool`, whose numbers and first slots lie at these addresses.
    pub fn of(layout: PageLayout, pool: Address, pages: Address, firsts: Address) -> Self {
        let [scales, meta, bytes] = [layout.scales(), layout.meta(), layout.bytes()].map(|at| at as u32);
        Clear { pool, pages, firsts, scales, meta, bytes, unused: 0 }
    }
}

/// Has slots of some pages hold no entry, and scales of nothing. Every page has to go through this once before entries are
/// appended, and its pool has to be zeroed when it is made: attention multiplies what lies in slots without entries by zero.
///
/// # Errors
/// If the device fails.
pub fn clear_slots(device: &dyn Device, pages: usize, arguments: &Clear) -> Result<(), DeviceError> {
    launch(device, "clear_slots", [pages as u32, 1], PAGE as u32, 0, arguments)
}
