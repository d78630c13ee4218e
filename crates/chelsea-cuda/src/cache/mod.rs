//! Caches whose entries lie in a device's memory.

mod attend;
mod by_lot;
mod cluster;
mod entries;
mod fold;
mod head;
mod slab;
mod store;
mod tables;

pub(crate) use attend::{Plan, Row, reaches};
pub(crate) use head::Growth;
pub use store::{Clusters, CudaStore};
pub(crate) use tables::{Clears, Growing, Tables};

use crate::device::{Address, Device, DeviceError};
use crate::kernels::{self, Clear, MOST_DIM, MOST_GROUP, PageType};
use chelsea_kv::backend::{Asked, Attention, Store};
use chelsea_kv::{Backend, Cpu, Dims, Dtype, Head, PAGE, Page, Pool, Reservation};
use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all caches of a device share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub device: Arc<dyn Device>,
    pub slab: Arc<Slab>,
    staging: Mutex<Staging>,
    /// What went wrong where nobody could be told.
    failed: Mutex<Option<DeviceError>>,
}

/// Room for what goes to the device and back, kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    pub tables: Tables,
    sums: Growing,
    out: Growing,
}

impl Shared {
    pub fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an error for the next who can be told.
    pub fn note(&self, error: DeviceError) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// An error that was kept.
    pub fn failed(&self) -> Option<DeviceError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Entries in pages of a device's memory, attention by its kernels.
#[derive(Debug, Clone)]
pub struct CudaBackend {
    shared: Arc<Shared>,
    pool: Pool,
}

impl CudaBackend {
    /// A backend whose caches take at most `bytes` of the device's memory together, which is taken at once.
    ///
    /// # Errors
    /// If the device has no room for that.
    pub fn new(device: Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        let slab = Slab::new(&device, bytes)?;
        let pool = Pool::with_limit(slab.room());
        let shared = Shared { device, slab, staging: Mutex::default(), failed: Mutex::default() };
        Ok(CudaBackend { shared: Arc::new(shared), pool })
    }

    /// Whether there are kernels for heads of this size, shared by `group` query heads each.
    pub fn has_kernels(head_dim: usize, group: usize) -> bool {
        head_dim.is_multiple_of(16) && (16..=MOST_DIM).contains(&head_dim) && (1..=MOST_GROUP).contains(&group)
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Has the slots of `clears` hold no entry. Their tables were sent to `base`.
pub(crate) fn clear(device: &dyn Device, pool: Address, base: Address, clears: &[Clears]) -> Result<(), DeviceError> {
    clears.iter().try_for_each(|clears| {
        let arguments = Clear::of(clears.layout, pool, base + clears.pages, base + clears.firsts);
        kernels::clear_slots(device, clears.count, &arguments)
    })
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn supports(&self, dtype: Dtype) -> bool {
        PageType::of(dtype).is_some()
    }

    fn pool(&self) -> Option<Pool> {
        Some(self.pool.clone())
    }

    fn has_kernels_for(&self, dims: Dims, group: usize) -> bool {
        dims.key == dims.value && CudaBackend::has_kernels(dims.key, group)
    }

    fn bytes_to_import(&self, heads: &[Head]) -> usize {
        heads.iter().map(|head| head.len().div_ceil(PAGE) * Page::bytes(head.dims(), head.dtype())).sum()
    }

    fn import(&self, heads: Vec<Head>, reserved: &Reservation) -> Box<dyn Store> {
        Box::new(CudaStore::import(&self.shared, &heads, reserved))
    }

    fn attend(&self, asked: &mut [Asked<'_>], attention: &Attention<'_>) {
        let stores = asked.iter().map(|one| one.store.as_any().downcast_ref::<CudaStore>());
        let stores: Option<Vec<&CudaStore>> = stores.collect();
        let answered = match stores {
            Some(stores) => attend::attend(&self.shared, &stores, asked, attention),
            // What lies elsewhere is attended to on this side.
            None => {
                Cpu.attend(asked, attention);
                Ok(())
            }
        };
        let lost = |one: &Asked<'_>| one.store.as_any().downcast_ref::<CudaStore>().is_some_and(|s| s.lost().is_some());
        for one in asked.iter_mut() {
            if answered.is_err() || lost(one) {
                // Numbers that are none are found by whoever looks at logits.
                one.out.fill(f32::NAN);
            }
        }
        if let Err(error) = answered {
            self.shared.note(error);
        }
    }
}
