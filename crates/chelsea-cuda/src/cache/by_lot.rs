//! Entries by lot, made in the device's memory: to measure a depth without reading so much text.

use super::head::{DeviceHead, Growth};
use super::store::CudaStore;
use super::{Staging, clear};
use crate::device::Buffer;
use crate::kernels::PageLayout;
use crate::twins::{Entry, write_entry};
use chelsea_kv::PAGE;
use chelsea_kv::backend::Room;

impl CudaStore {
    /// Fills the room that [`SequenceCache::make_room`](chelsea_kv::SequenceCache::make_room) asks for with entries by lot,
    /// the same in every page: for measuring. Stores of other backends are left alone.
    pub fn fill_by_lot(room: Room<'_>) {
        let Room { store, heads, n, first, reserved, .. } = room;
        let Some(store) = store.as_any_mut().downcast_mut::<CudaStore>() else { return };
        let mut growth = Growth::default();
        store.grow(heads.clone(), (0, n, first), reserved, &mut growth);
        // The heads of a layer are alike.
        let Some(layout) = store.heads_of(heads).first().map(DeviceHead::layout) else { return };
        store.run(|store| {
            let shared = store.shared().clone();
            let device = &*shared.device;
            let pattern = Buffer::with(&shared.device, &page(layout))?;
            let mut ends = Vec::new();
            for run in &growth.runs {
                let at = shared.slab.start() + u64::from(run.page) * layout.bytes() as u64;
                device.copy(pattern.at(), at, layout.bytes())?;
                let end = run.slot + run.count;
                if (end as usize) < PAGE {
                    ends.push((layout, run.page, end));
                }
            }
            let mut staging = shared.staging();
            let Staging { tables, .. } = &mut *staging;
            tables.begin();
            let clears = tables.clears(&ends);
            let base = tables.send(&shared.device)?;
            clear(device, shared.slab.start(), base, &clears)?;
            // The pattern is read before it is given back.
            device.synchronize()
        });
    }
}

/// A page of entries that stand for one token each.
fn page(layout: PageLayout) -> Vec<u8> {
    let mut bytes = vec![0; layout.bytes()];
    let row = |slot: usize, seed: usize| {
        (0..layout.dim).map(|d| ((slot * 37 + d * 101 + seed) % 211) as f32 / 105.0 - 1.0).collect()
    };
    for slot in 0..PAGE {
        let entry = Entry { key: row(slot, 3), value: row(slot, 71), count: 1, position: slot as f32 };
        write_entry(&mut bytes, layout, slot, &entry);
    }
    bytes
}
