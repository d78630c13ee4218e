//! Plans that are made where entries lie, by the recipe of `chelsea`.
//!
//! Candidates become rows, stretches of rows are clustered as far as they may be, the cheapest merges of all heads are
//! selected, and members of survivors are listed: all of that is enqueued at once. Then the host waits, once, for two
//! numbers of each head (how many candidates survive, and the scale of its values), which it keeps its books with and
//! takes new pages by; [`super::fold`] does the rest.
//!
//! # Memory
//!
//! Lists take 20 bytes a candidate, rows (of as many stretches as there is room for at a time) about two bytes a number of
//! keys and values. That is allocated for the while beside the slab, and charged to the cache's pool as if it lay there.

mod planning;

use super::fold::{self, Folded, Survivors};
use super::head::DeviceHead;
use super::store::Clusters;
use super::{Shared, Staging};
use crate::device::{Address, Buffer, DeviceError};
use crate::kernels::cluster::{
    self as kernels, Cluster, Features, Found, Members, PlannedHead, Select, Stretch, largest_number, row_stride,
};
use chelsea_kv::backend::{Clustering, Reserved, ScratchMeter};
use chelsea_kv::{PAGE, PoolFull, Reservation};
use planning::{Group, Planning};

/// Bytes of rows that are clustered at a time, where there is room: some hundred stretches, one for each multiprocessor.
const AT_ONCE: usize = 256 << 20;

/// Stretches of one launch at most: blocks in the second direction of a grid.
const MOST_STRETCHES: usize = 1 << 15;

/// What the parts of a buffer begin at multiples of.
const ALIGNMENT: usize = 256;

/// Why nothing was clustered.
#[derive(Debug)]
pub(super) enum Stopped {
    /// There is no room to plan in; nothing was changed.
    Full(PoolFull),
    /// The device failed.
    Device(DeviceError),
}

impl From<PoolFull> for Stopped {
    fn from(full: PoolFull) -> Self {
        Stopped::Full(full)
    }
}

impl From<DeviceError> for Stopped {
    fn from(error: DeviceError) -> Self {
        Stopped::Device(error)
    }
}

/// Places in one buffer, one behind the other.
#[derive(Default)]
struct Places(usize);

impl Places {
    fn next(&mut self, bytes: usize) -> usize {
        let at = self.0;
        self.0 = (at + bytes).next_multiple_of(ALIGNMENT);
        at
    }
}

/// Where lists lie in their buffer.
struct Listed {
    pairs: Address,
    prices: Address,
    counts: Address,
    taken: Address,
    places: Address,
    found: Address,
    centres: Address,
    starts: Address,
    members: Address,
}

impl Listed {
    /// For a buffer that begins at `at`; and its size.
    fn at(at: Address, planning: &Planning<'_>) -> (Self, usize) {
        let mut places = Places::default();
        let mut next = |numbers: usize| at + places.next(4 * numbers) as Address;
        let (candidates, stretches) = (planning.candidates, planning.stretches.len());
        let centres = planning.groups.iter().map(|group| group.heads.len() * group.layout.dim).sum();
        let listed = Listed {
            pairs: next(2 * candidates),
            prices: next(candidates),
            counts: next(stretches),
            taken: next(stretches),
            places: next(stretches),
            found: next(4 * planning.heads.len()),
            centres: next(centres),
            starts: next(planning.starts),
            members: next(planning.members),
        };
        (listed, places.0)
    }
}

/// Room for rows: as much as can be clustered at a time, or what the pool and the device have, if that is enough for the
/// largest stretch. How much it is changes no plan.
fn room_for_rows<'s>(
    shared: &Shared,
    planning: &Planning<'_>,
    scratch: &'s ScratchMeter,
) -> Result<(Buffer, Reserved<'s>), Stopped> {
    let (least, most) = planning.row_bytes();
    let mut bytes = most.min(AT_ONCE).max(least);
    loop {
        let room = scratch.reserve(bytes).map_err(Stopped::Full).and_then(|held| {
            let buffer = Buffer::new(&shared.device, bytes)?;
            Ok((buffer, held))
        });
        match room {
            Err(Stopped::Full(_) | Stopped::Device(DeviceError::Memory { .. })) if bytes > least => {
                bytes = (bytes / 2).max(least);
            }
            room => return room,
        }
    }
}

/// A plan that lies in the device's memory, and what came back of it.
struct Made<'c, 's> {
    planning: Planning<'c>,
    listed: Listed,
    found: Vec<Found>,
    /// What lists lie in, and what they are charged with.
    _lists: (Buffer, Reserved<'s>),
}

impl<'c, 's> Made<'c, 's> {
    /// Makes a plan; none where there are no candidates.
    fn new(
        shared: &Shared,
        heads: &[DeviceHead],
        clustering: &'c Clustering<'_>,
        scratch: &'s ScratchMeter,
    ) -> Result<Option<Self>, Stopped> {
        let mut planning = Planning::of(clustering, heads);
        if planning.stretches.is_empty() {
            return Ok(None);
        }
        let (_, bytes) = Listed::at(0, &planning);
        let held = scratch.reserve(bytes + table_bytes(&planning))?;
        let lists = Buffer::new(&shared.device, bytes)?;
        let (rows, _held) = room_for_rows(shared, &planning, scratch)?;
        planning.cut_batches(rows.bytes());
        let (listed, _) = Listed::at(lists.at(), &planning);
        enqueue(shared, clustering, &planning, &listed, rows.at())?;
        let mut found = vec![Found { unit: 0.0, value_factor: 0.0, value_scale: 0.0, left: 0 }; planning.heads.len()];
        // All that comes back.
        shared.device.read(listed.found, bytemuck::cast_slice_mut(&mut found))?;
        Ok(Some(Made { planning, listed, found, _lists: (lists, held) }))
    }

    /// What is to become of the heads that change.
    fn folded(&self) -> impl Iterator<Item = Folded> + '_ {
        let Planning { heads, places, .. } = &self.planning;
        let changed = heads.iter().zip(places).zip(&self.found).filter(|((head, _), found)| found.left < head.count);
        changed.map(|((head, &place), found)| Folded {
            head: place,
            first: head.first as usize / PAGE,
            left: head.first as usize % PAGE + (found.left + head.len - head.first - head.count) as usize,
            survivors: Survivors::Listed { start: head.start },
            places: Vec::new(),
        })
    }
}

/// Clusters the candidates of some heads; answers the scale of the values of each.
pub(super) fn cluster(
    shared: &Shared,
    heads: &mut [DeviceHead],
    clustering: &Clustering<'_>,
    scratch: &ScratchMeter,
    reserved: &Reservation,
) -> Result<Vec<Option<f32>>, Stopped> {
    let mut scales: Vec<Option<f32>> = clustering.heads.iter().map(|head| head.value_scale).collect();
    let Some(made) = Made::new(shared, heads, clustering, scratch)? else { return Ok(scales) };
    let members = made.planning.groups.iter().flat_map(|group| &group.members);
    if clustering.recipe.value_weight != 0.0 {
        members.zip(&made.found).for_each(|(&i, found)| scales[i] = Some(found.value_scale));
    }
    let Listed { starts, members, .. } = made.listed;
    fold::carry_out(shared, heads, made.folded(), Some((starts, members)), reserved)?;
    Ok(scales)
}

/// What [`cluster`] would make of each head that changes: its number, and the members of each entry that is left, from the
/// page of the first candidate on.
pub(super) fn clusters(
    shared: &Shared,
    heads: &[DeviceHead],
    clustering: &Clustering<'_>,
) -> Result<Vec<Clusters>, Stopped> {
    let scratch = ScratchMeter::default();
    let Some(made) = Made::new(shared, heads, clustering, &scratch)? else { return Ok(Vec::new()) };
    let Listed { starts, members, .. } = made.listed;
    let told = |folded: Folded| {
        let head = folded.head;
        Ok((head, fold::told(shared, folded, Some((starts, members)))?))
    };
    made.folded().map(told).collect()
}

/// Bytes of the lists that are sent: those of queries' statistics, too.
fn table_bytes(planning: &Planning<'_>) -> usize {
    let of_group =
        |group: &Group<'_>| group.heads.len() * group.layout.dim * 4 + group.rotary.inv_freq.len() * 4 + 2 * ALIGNMENT;
    size_of_val(&planning.heads[..])
        + size_of_val(&planning.stretches[..])
        + size_of_val(&planning.pages[..])
        + 3 * ALIGNMENT
        + planning.groups.iter().map(of_group).sum::<usize>()
}

/// Sends lists, and enqueues all kernels from entries to lists of members.
fn enqueue(
    shared: &Shared,
    clustering: &Clustering<'_>,
    planning: &Planning<'_>,
    listed: &Listed,
    rows: Address,
) -> Result<(), DeviceError> {
    let device = &*shared.device;
    let Clustering { recipe, target, .. } = clustering;
    let mut staging = shared.staging();
    let Staging { tables, .. } = &mut *staging;
    tables.begin();
    let (heads, stretches) = (tables.put(&planning.heads), tables.put(&planning.stretches));
    let pages = tables.put(&planning.pages);
    let of_groups: Vec<(Address, Address)> = planning
        .groups
        .iter()
        .map(|group| {
            let scales = group.members.iter().flat_map(|&i| clustering.heads[i].key_scales(group.layout.dim));
            (tables.put(&scales.collect::<Vec<f32>>()), tables.put(&group.rotary.inv_freq))
        })
        .collect();
    let base = tables.send(&shared.device)?;
    let (heads, stretches) = (base + heads, base + stretches);
    let of_head = |first: usize| (heads + bytes_of::<PlannedHead>(first), listed.found + bytes_of::<Found>(first));
    let of_stretch = |list: Address, first: usize| list + bytes_of::<u32>(first);
    let mut centres = listed.centres;
    for (group, &(scales, frequencies)) in planning.groups.iter().zip(&of_groups) {
        let (dim, stride) = (group.layout.dim, row_stride(group.numbers));
        let (own_heads, found) = of_head(group.heads.start);
        for (number, batch) in group.batches.iter().enumerate() {
            let own = &planning.stretches[batch.clone()];
            let count: usize = own.iter().map(|stretch| stretch.count as usize).sum();
            let mut places = Places::default();
            let mut next = |bytes: usize| rows + places.next(bytes) as Address;
            let (rows, weights, lengths) = (next(count * 2 * stride), next(count * 4), next(count * 4));
            let stretches = stretches + bytes_of::<Stretch>(batch.start);
            let features = Features {
                pool: shared.slab.start(),
                heads: own_heads,
                pages: base + pages,
                balances: shared.slab.start(),
                frequencies: base + frequencies,
                scales: base + scales,
                centres,
                found,
                stretches,
                rows,
                weights,
                value_weight: recipe.value_weight,
                dim: dim as u32,
                pairs: group.rotary.inv_freq.len() as u32,
                stride: stride as u32,
                most: largest_number(group.numbers),
            };
            if number == 0 {
                kernels::measure(device, group.layout.ty, group.heads.len(), &features)?;
            }
            let longest = own.iter().map(|stretch| stretch.count as usize).max().unwrap_or(0);
            kernels::features(device, group.layout.ty, own.len(), longest, &features)?;
            let cluster = Cluster {
                stretches,
                found,
                rows,
                weights,
                lengths,
                pairs: listed.pairs,
                prices: listed.prices,
                counts: of_stretch(listed.counts, batch.start),
                share: recipe.round_share.of(*target, planning.candidates),
                stride: stride as u32,
                unused: 0,
            };
            kernels::cluster(device, own.len(), &cluster)?;
        }
        centres += bytes_of::<f32>(group.heads.len() * dim);
    }
    let select = Select {
        stretches,
        heads,
        found: listed.found,
        prices: listed.prices,
        counts: listed.counts,
        taken: listed.taken,
        places: listed.places,
        count: planning.stretches.len() as u32,
        head_count: planning.heads.len() as u32,
        wanted: (planning.candidates - target) as u32,
        unused: 0,
    };
    kernels::select(device, &select)?;
    planning.groups.iter().try_for_each(|group| {
        let (heads, found) = of_head(group.heads.start);
        let members = Members {
            stretches: stretches + bytes_of::<Stretch>(group.stretches.start),
            heads,
            found,
            taken: of_stretch(listed.taken, group.stretches.start),
            places: of_stretch(listed.places, group.stretches.start),
            pairs: listed.pairs,
            starts: listed.starts,
            members: listed.members,
        };
        kernels::list_members(device, group.stretches.len(), &members)
    })
}

fn bytes_of<T>(count: usize) -> Address {
    (count * size_of::<T>()) as Address
}
