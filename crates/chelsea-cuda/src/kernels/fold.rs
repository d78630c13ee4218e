//! Clusters that become entries.

use super::launch;
use super::page::PageType;
use crate::device::{Address, Device, DeviceError};
use bytemuck::{NoUninit, Pod, Zeroable};

/// Survivors that go into one new page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FoldRun {
    /// Number of the new page.
    pub page: u32,
    /// Slot of the first survivor.
    pub slot: u32,
    /// Survivors; they fit the page.
    pub count: u32,
    /// Number of the first survivor.
    pub survivor: u32,
    /// Place of the head's first old page in the list of pages.
    pub pages: u32,
    /// Row of the balances that keys are stored divided by, or [`super::NO_BALANCE`].
    pub balance: u32,
}

/// Arguments of [`fold`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Fold {
    /// The pool of pages, old ones and new ones.
    pub pool: Address,
    /// [`FoldRun`]s.
    pub runs: Address,
    /// Where the members of each survivor begin, u32, and then the number of members.
    pub starts: Address,
    /// Members: entries of the head, u32, ascending within a survivor.
    pub members: Address,
    /// Numbers of old pages, u32: those of each head follow one another.
    pub pages: Address,
    /// What keys are divided by, f32, `[balances][dim]`.
    pub balances: Address,
    /// Head size.
    pub dim: u32,
    /// Nothing.
    pub unused: u32,
}

/// Writes survivors into new pages: the count-weighted mean of their members, or a member that is alone bit for bit. Counts
/// add up, positions are means. No page may be both old and new; runs of one new page of half bytes must come in launches of
/// their own, since they may share bytes.
///
/// # Errors
/// If the device fails.
pub fn fold(device: &dyn Device, ty: PageType, runs: usize, arguments: &Fold) -> Result<(), DeviceError> {
    let name = match ty {
        PageType::F16 => "fold_f16",
        PageType::Q8 => "fold_q8",
        PageType::K8V4 => "fold_k8v4",
    };
    let shared = (2 * arguments.dim as usize + 18) * 4;
    launch(device, name, [runs as u32, 1], 128, shared, arguments)
}
