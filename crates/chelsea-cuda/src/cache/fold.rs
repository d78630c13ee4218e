//! Plans carried out: clusters become entries of new pages, by a kernel.
//!
//! Heads are taken some at a time. Their survivors are written into fresh pages, which then replace the old ones, so that
//! for a while the slab holds both; what pools are charged with passes from the old page to the new one. A slab that has no
//! fresh pages left has every head done by itself, page by page over the host.

use super::head::DeviceHead;
use super::slab::Place;
use super::{Shared, Staging, Tables, clear, entries};
use crate::device::{Address, DeviceError};
use crate::kernels::{self, Fold, FoldRun, PageLayout};
use crate::twins::Entry;
use chelsea_kv::backend::Change;
use chelsea_kv::{PAGE, Reservation, policy};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of fresh pages that are taken at once.
const AT_ONCE: usize = 16 << 20;

/// What the entries are made of that are left of a head.
pub(super) enum Survivors {
    /// For each of them the entries that it is made of.
    Told(Vec<Vec<u32>>),
    /// That is listed in the device's memory: where the starts of their members begin.
    Listed { start: u32 },
}

/// What becomes of one head.
pub(super) struct Folded {
    /// The head.
    pub head: usize,
    /// Its first page that changes.
    pub first: usize,
    /// Entries from there on that are left.
    pub left: usize,
    /// What they are made of.
    pub survivors: Survivors,
    /// Pages for them, once they were taken.
    pub places: Vec<Place>,
}

impl Folded {
    /// Entries of the head afterwards.
    fn len(&self) -> usize {
        self.first * PAGE + self.left
    }
}

/// Where starts and members of all survivors lie that are listed in the device's memory.
type Listed = Option<(Address, Address)>;

/// Carries out changes of some heads.
pub(super) fn apply(
    shared: &Shared,
    heads: &mut [DeviceHead],
    changes: &[Change<'_>],
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let lens: Vec<usize> = heads.iter().map(DeviceHead::len).collect();
    let folded = changes.iter().map(|change| {
        let survivors = survivors(lens[change.head], &change.range, change.roots);
        let (head, first, left) = (change.head, change.range.start / PAGE, survivors.len());
        Folded { head, first, left, survivors: Survivors::Told(survivors), places: Vec::new() }
    });
    carry_out(shared, heads, folded, None, reserved)
}

/// Carries out what is to become of some heads: all told, or all listed.
pub(super) fn carry_out(
    shared: &Shared,
    heads: &mut [DeviceHead],
    mut folded: impl Iterator<Item = Folded>,
    listed: Listed,
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let mut next = folded.next();
    while let Some(first) = &next {
        let layout = heads[first.head].layout();
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(mut one) = next.take() {
            let head = &mut heads[one.head];
            if head.layout() != layout || bytes > AT_ONCE {
                next = Some(one);
                break;
            }
            match head.fresh_pages(one.first, one.len(), &shared.slab) {
                Ok(places) => {
                    bytes += places.len() * layout.bytes();
                    one.places = places;
                    some.push(one);
                }
                Err(DeviceError::Memory { .. }) if !some.is_empty() => {
                    next = Some(one);
                    break;
                }
                Err(DeviceError::Memory { .. }) => on_host(shared, head, one, listed, reserved)?,
                Err(error) => return Err(error),
            }
            next = folded.next();
        }
        if !some.is_empty() {
            fold(shared, heads, layout, some, listed, reserved)?;
        }
    }
    Ok(())
}

/// For each entry that is left of a head of `len` entries, from the first page on that `roots` over `range` change, those that
/// it is made of.
fn survivors(len: usize, range: &Range<usize>, roots: &[u32]) -> Vec<Vec<u32>> {
    let first = range.start / PAGE;
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (i, &root) in roots.iter().enumerate().filter(|&(_, &root)| root != policy::EVICT) {
        members.entry(root).or_default().push((range.start + i) as u32);
    }
    let alone = |entries: Range<usize>| entries.map(|i| vec![i as u32]);
    alone(first * PAGE..range.start).chain(members.into_values()).chain(alone(range.end..len)).collect()
}

fn fold(
    shared: &Shared,
    heads: &mut [DeviceHead],
    layout: PageLayout,
    some: Vec<Folded>,
    listed: Listed,
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let (mut runs, mut starts, mut members, mut pages, mut clears) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for folded in &some {
        let head = &heads[folded.head];
        let place = pages.len() as u32;
        pages.extend(head.pages());
        let start = match &folded.survivors {
            Survivors::Listed { start } => *start,
            Survivors::Told(survivors) => {
                let start = starts.len() as u32;
                for survivor in survivors {
                    starts.push(members.len() as u32);
                    members.extend_from_slice(survivor);
                }
                start
            }
        };
        for (page, first) in folded.places.iter().zip((0..folded.left).step_by(PAGE)) {
            let (page, count) = (page.number(), (folded.left - first).min(PAGE) as u32);
            let survivor = start + first as u32;
            runs.push(FoldRun { page, slot: 0, count, survivor, pages: place, balance: head.balance_row() });
            if (count as usize) < PAGE {
                clears.push((layout, page, count));
            }
        }
    }
    starts.push(members.len() as u32);
    let mut staging = shared.staging();
    let Staging { tables, .. } = &mut *staging;
    tables.begin();
    let put = |tables: &mut Tables, list: &[u32]| tables.put(list);
    let runs_at = tables.put(&runs);
    let (starts, members, pages) = (put(tables, &starts), put(tables, &members), put(tables, &pages));
    let clears = tables.clears(&clears);
    let base = tables.send(&shared.device)?;
    let pool = shared.slab.start();
    clear(&*shared.device, pool, base, &clears)?;
    let (starts, members) = listed.unwrap_or((base + starts, base + members));
    let arguments = Fold {
        pool,
        runs: base + runs_at,
        starts,
        members,
        pages: base + pages,
        balances: pool,
        dim: layout.dim as u32,
        unused: 0,
    };
    kernels::fold(&*shared.device, layout.ty, runs.len(), &arguments)?;
    for folded in some {
        let len = folded.len();
        heads[folded.head].replace_pages(folded.first, folded.places, len, reserved);
    }
    Ok(())
}

/// What the entries are made of that are left of a head, wherever that is known.
pub(super) fn told(shared: &Shared, folded: Folded, listed: Listed) -> Result<Vec<Vec<u32>>, DeviceError> {
    let (start, (starts_at, members_at)) = match (folded.survivors, listed) {
        (Survivors::Told(survivors), _) => return Ok(survivors),
        (Survivors::Listed { start }, Some(listed)) => (start, listed),
        (Survivors::Listed { .. }, None) => return Ok(Vec::new()),
    };
    let read = |at: Address, first: u32, count: usize| {
        let mut list = vec![0u32; count];
        shared.device.read(at + Address::from(first) * 4, bytemuck::cast_slice_mut(&mut list)).map(|()| list)
    };
    let starts = read(starts_at, start, folded.left + 1)?;
    let first = starts[0];
    let members = read(members_at, first, (starts[folded.left] - first) as usize)?;
    let of = |ends: &[u32]| members[(ends[0] - first) as usize..(ends[1] - first) as usize].to_vec();
    Ok(starts.windows(2).map(of).collect())
}

/// The same for one head, in host memory.
fn on_host(
    shared: &Shared,
    head: &mut DeviceHead,
    folded: Folded,
    listed: Listed,
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let (layout, device, first, len) = (head.layout(), &*shared.device, folded.first, folded.len());
    let size = layout.bytes();
    let before = head.read_pages(first, device)?;
    let survivors = told(shared, folded, listed)?;
    let entry = |i: u32| {
        let i = i as usize - first * PAGE;
        (&before[i / PAGE * size..][..size], i % PAGE)
    };
    let mut after = vec![0; survivors.len().div_ceil(PAGE) * size];
    for (page, survivors) in after.chunks_exact_mut(size).zip(survivors.chunks(PAGE)) {
        for (slot, members) in survivors.iter().enumerate() {
            match &members[..] {
                [one] => {
                    let (source, from) = entry(*one);
                    entries::copy_entry(layout, page, slot, source, from);
                }
                many => {
                    let read = |&i: &u32| {
                        let (source, from) = entry(i);
                        entries::read(layout, source, from, head.sizes())
                    };
                    entries::write(layout, page, slot, mean(many.iter().map(read), layout.dim), head.sizes());
                }
            }
        }
        entries::clear_from(layout, page, survivors.len());
    }
    head.write_pages(first, &after, len, device, &shared.slab, reserved)
}

/// The mean of entries, weighted by their counts: sums in the order of the entries.
fn mean(members: impl Iterator<Item = Entry>, dim: usize) -> Entry {
    let mut sum = Entry { key: vec![0.0; dim], value: vec![0.0; dim], count: 0, position: 0.0 };
    let mut moment = 0.0f64;
    for Entry { key, value, count, position } in members {
        sum.key.iter_mut().zip(&key).for_each(|(sum, x)| *sum += count as f32 * x);
        sum.value.iter_mut().zip(&value).for_each(|(sum, x)| *sum += count as f32 * x);
        sum.count += count;
        moment += f64::from(count) * f64::from(position);
    }
    let total = sum.count as f32;
    sum.key.iter_mut().chain(&mut sum.value).for_each(|x| *x /= total);
    sum.position = (moment / f64::from(sum.count)) as f32;
    sum
}
