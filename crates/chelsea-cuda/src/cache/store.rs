//! The entries of one sequence in a device's memory.
//!
//! None of a store's calls can fail, while a device can. So a store that met an error is *lost*: it does nothing any
//! more, and the next forward pass over it, or attention to it, says so ([`CudaStore::lost`]).

use super::head::{DeviceHead, Growth};
use super::{Shared, Staging};
use super::{cluster, entries, fold};
use crate::device::DeviceError;
use crate::kernels::{self, Append, PageLayout};
use chelsea_kv::backend::{Block, Change, Clustering, ScratchMeter, Store};
use chelsea_kv::{Head, LayerSpec, PoolFull, Reservation, Rotary};
use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A head by its number, and the members of every entry that is left of it.
pub type Clusters = (usize, Vec<Vec<u32>>);

/// The KV heads of all layers of one sequence.
#[derive(Debug)]
pub struct CudaStore {
    shared: Arc<Shared>,
    heads: Vec<DeviceHead>,
    /// What went wrong, if anything did.
    lost: Option<DeviceError>,
    /// The heads in host memory, for as long as nothing changes.
    exported: OnceLock<Vec<Head>>,
}

impl CudaStore {
    /// A store of these heads, copied from host memory.
    pub(super) fn import(shared: &Arc<Shared>, heads: &[Head], reserved: &Reservation) -> Self {
        let layout = |head: &Head| {
            // A cache asks for no other types: see `supports`.
            let ty = kernels::PageType::of(head.dtype()).unwrap_or(kernels::PageType::F16);
            PageLayout { dim: head.key_dim(), ty }
        };
        let own = heads.iter().map(|head| DeviceHead::new(layout(head))).collect();
        let mut store = CudaStore { shared: Arc::clone(shared), heads: own, lost: None, exported: OnceLock::new() };
        store.run(|store| {
            let Shared { device, slab, .. } = &*store.shared;
            for (own, head) in store.heads.iter_mut().zip(heads) {
                if let Some(sizes) = head.key_sizes() {
                    own.set_sizes(sizes, &**device, slab)?;
                }
                let pages = entries::from_head(own.layout(), head);
                own.write_pages(0, &pages, head.len(), &**device, slab, reserved)?;
            }
            Ok(())
        });
        store
    }

    /// What went wrong, if anything did.
    pub fn lost(&self) -> Option<&DeviceError> {
        self.lost.as_ref()
    }

    /// What [`Store::cluster`] would make of each head that it would change: the head's number, and of every entry that is left,
    /// from the page of the first candidate on, the entries that it would be made of. For tests and tools.
    ///
    /// # Errors
    /// If the device fails, or has no room for a plan.
    pub fn clusters(&self, clustering: &Clustering<'_>) -> Result<Vec<Clusters>, DeviceError> {
        cluster::clusters(&self.shared, &self.heads, clustering).map_err(|stopped| match stopped {
            cluster::Stopped::Device(error) => error,
            cluster::Stopped::Full(full) => DeviceError::Memory { bytes: full.needed },
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn heads_of(&self, heads: Range<usize>) -> &[DeviceHead] {
        self.heads.get(heads).unwrap_or_default()
    }

    /// Changes the store, unless it is lost.
    pub(super) fn run(&mut self, change: impl FnOnce(&mut Self) -> Result<(), DeviceError>) {
        self.exported.take();
        if self.lost.is_none()
            && let Err(error) = change(self)
        {
            self.lost = Some(error);
        }
    }

    /// Makes room for tokens whose keys and values lie in rows `row..` of the device's buffers.
    pub(crate) fn grow(
        &mut self,
        heads: Range<usize>,
        (row, n, first): (usize, usize, usize),
        reserved: &Reservation,
        growth: &mut Growth,
    ) {
        self.run(|store| {
            let Shared { device, slab, .. } = &*store.shared;
            let mut heads = store.heads[heads].iter_mut().enumerate();
            heads.try_for_each(|(h, head)| head.grow((h, row, n, first), &**device, slab, reserved, growth))
        });
    }

    /// Looks how large the keys of a layer are whose first tokens these are, before they are written: `keys` is
    /// `[n, kv_heads, key_dim]`, of the last `n` entries of `heads`. Entries before them are stored anew where that
    /// tells more.
    pub(crate) fn weigh(&mut self, heads: Range<usize>, keys: &[f32], n: usize, rotary: &Rotary) {
        self.run(|store| {
            let Shared { device, slab, .. } = &*store.shared;
            let count = heads.len();
            for (h, head) in store.heads[heads].iter_mut().enumerate() {
                let (layout, held) = (head.layout(), head.len() - n);
                let stride = count * layout.dim;
                let bytes = if held > 0 { head.read_pages(0, &**device)? } else { Vec::new() };
                let mut weighed = entries::to_head(layout, &bytes, held, head.sizes());
                let before = head.sizes().map(<[f32]>::to_vec);
                weighed.weigh(&keys[h * layout.dim..], stride, n, held, rotary, &Reservation::unbound());
                let Some(sizes) = weighed.key_sizes().filter(|sizes| before.as_deref() != Some(sizes)) else {
                    continue;
                };
                head.set_sizes(sizes, &**device, slab)?;
                let pages = entries::from_head(layout, &weighed);
                for (i, page) in pages.chunks_exact(layout.bytes()).enumerate() {
                    head.overwrite(i, page, &**device)?;
                }
            }
            Ok(())
        });
    }
}

impl Store for CudaStore {
    fn heads(&self) -> usize {
        self.heads.len()
    }

    fn len(&self, g: usize) -> usize {
        self.heads[g].len()
    }

    fn bytes(&self, g: usize) -> usize {
        self.heads[g].bytes()
    }

    fn shared_bytes(&self, g: usize) -> usize {
        self.heads[g].shared_bytes()
    }

    fn bytes_to_append(&self, heads: Range<usize>, n: usize) -> usize {
        self.heads[heads].iter().map(|head| head.bytes_to_grow(n)).sum()
    }

    fn append(&mut self, heads: Range<usize>, layer: &LayerSpec, block: Block<'_>, reserved: &Reservation) {
        let Block { k, v, n, first } = block;
        let Some(layout) = self.heads.get(heads.start).map(DeviceHead::layout) else { return };
        let mut growth = Growth::default();
        self.grow(heads.clone(), (0, n, first), reserved, &mut growth);
        if Head::weighs(layout.ty.dtype(), first) {
            self.weigh(heads.clone(), k, n, &layer.rotary);
            growth
                .runs
                .iter_mut()
                .for_each(|run| run.balance = self.heads[heads.start + run.head as usize].balance_row());
        }
        self.run(|store| {
            let mut staging = store.shared.staging();
            let Staging { tables, .. } = &mut *staging;
            let device = &*store.shared.device;
            let pool = store.shared.slab.start();
            tables.begin();
            let clears = tables.clears(&growth.clears);
            let (runs, keys, values) = (tables.put(&growth.runs), tables.put(k), tables.put(v));
            let base = tables.send(&store.shared.device)?;
            super::clear(device, pool, base, &clears)?;
            let arguments = Append {
                pool,
                runs: base + runs,
                keys: base + keys,
                values: base + values,
                balances: pool,
                dim: layout.dim as u32,
                stride: layer.key_width() as u32,
            };
            kernels::append(device, layout.ty, growth.runs.len(), &arguments)
        });
    }

    fn slide(&mut self, heads: Range<usize>, window: usize) {
        self.run(|store| {
            store.heads[heads].iter_mut().for_each(|head| head.slide(window));
            Ok(())
        });
    }

    fn bytes_to_change(&self, g: usize, from: usize, _candidates: usize) -> (usize, usize) {
        // Sums of clusters are taken in host memory, which the pool does not count.
        (self.heads[g].bytes_to_rewrite(from), 0)
    }

    fn apply(&mut self, changes: &[Change<'_>], _idle: usize, _scratch: &ScratchMeter, reserved: &Reservation) {
        self.run(|store| fold::apply(&store.shared, &mut store.heads, changes, reserved));
    }

    fn cluster(
        &mut self,
        clustering: &Clustering<'_>,
        scratch: &ScratchMeter,
        reserved: &Reservation,
    ) -> Result<Option<Vec<Option<f32>>>, PoolFull> {
        if clustering.recipe.chunk != kernels::cluster::CHUNK_ROWS {
            return Ok(None);
        }
        let mut found = Ok(clustering.heads.iter().map(|head| head.value_scale).collect());
        self.run(|store| {
            match cluster::cluster(&store.shared, &mut store.heads, clustering, scratch, reserved) {
                Ok(scales) => found = Ok(scales),
                Err(cluster::Stopped::Full(full)) => found = Err(full),
                Err(cluster::Stopped::Device(error)) => return Err(error),
            }
            Ok(())
        });
        found.map(Some)
    }

    fn bytes_to_truncate(&self, n: usize) -> usize {
        self.heads.iter().map(|head| head.bytes_to_truncate(n)).sum()
    }

    fn truncate(&mut self, n: usize, reserved: &Reservation) {
        self.run(|store| {
            let Shared { device, slab, .. } = &*store.shared;
            let mut growth = Growth::default();
            for head in &mut store.heads {
                head.truncate(n, &**device, slab, reserved, &mut growth)?;
            }
            let mut staging = store.shared.staging();
            let Staging { tables, .. } = &mut *staging;
            tables.begin();
            let clears = tables.clears(&growth.clears);
            let base = tables.send(device)?;
            super::clear(&**device, slab.start(), base, &clears)
        });
    }

    fn fork(&self) -> Box<dyn Store> {
        Box::new(CudaStore {
            shared: Arc::clone(&self.shared),
            heads: self.heads.clone(),
            lost: self.lost.clone(),
            exported: OnceLock::new(),
        })
    }

    fn export(&self) -> Cow<'_, [Head]> {
        let exported = self.exported.get_or_init(|| {
            let device = &*self.shared.device;
            let export = |head: &DeviceHead| {
                let layout = head.layout();
                // A store that cannot be read is lost at its next change; until then it has entries of zeros.
                let bytes = head.read_pages(0, device).unwrap_or_else(|error| {
                    self.shared.note(error);
                    vec![0; head.pages().len() * layout.bytes()]
                });
                entries::to_head(layout, &bytes, head.len(), head.sizes())
            };
            self.heads.iter().map(export).collect()
        });
        Cow::Borrowed(exported)
    }

    fn bytes_to_export(&self) -> usize {
        self.heads.iter().map(DeviceHead::bytes).sum()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
