//! Plans carried out: clusters become entries of new pages, by a kernel.
//!
//! Heads are taken some at a time. Their survivors are written into fresh pages, which then replace the old ones, so that
//! for a while the slab holds both; what pools are charged with passes from the old page to the new one. A slab that has no
//! fresh pages left has every head done by itself, page by page over the host.

use super::head::DeviceHead;
use super::slab::Place;
use super::{Shared, Staging, Tables, clear, entries};
use crate::device::DeviceError;
use crate::kernels::{self, Fold, FoldRun, PageLayout};
use crate::twins::Entry;
use chelsea_kv::backend::Change;
use chelsea_kv::{PAGE, Reservation, policy};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of fresh pages that are taken at once.
const AT_ONCE: usize = 16 << 20;

/// What becomes of one head.
struct Folded {
    head: usize,
    /// Its first page that changes.
    first: usize,
    /// For each entry from there on that is left, the entries that it is made of.
    survivors: Vec<Vec<u32>>,
    /// Pages for them.
    places: Vec<Place>,
}

impl Folded {
    /// Entries of the head afterwards.
    fn len(&self) -> usize {
        self.first * PAGE + self.survivors.len()
    }
}

/// Carries out changes of some heads.
pub(super) fn apply(
    shared: &Shared,
    heads: &mut [DeviceHead],
    changes: &[Change<'_>],
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let mut left: &[Change<'_>] = changes;
    while let Some(first) = left.first() {
        let layout = heads[first.head].layout();
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(change) = left.first() {
            let head = &heads[change.head];
            if head.layout() != layout || bytes > AT_ONCE {
                break;
            }
            let (first, survivors) = survivors(head.len(), &change.range, change.roots);
            let mut folded = Folded { head: change.head, first, survivors, places: Vec::new() };
            match head.fresh_pages(first, folded.len(), &shared.slab) {
                Ok(places) => folded.places = places,
                Err(DeviceError::Memory { .. }) if !some.is_empty() => break,
                Err(DeviceError::Memory { .. }) => {
                    on_host(shared, &mut heads[change.head], &folded, reserved)?;
                    left = &left[1..];
                    continue;
                }
                Err(error) => return Err(error),
            }
            bytes += folded.places.len() * layout.bytes();
            some.push(folded);
            left = &left[1..];
        }
        if !some.is_empty() {
            fold(shared, heads, layout, some, reserved)?;
        }
    }
    Ok(())
}

/// The first page of a head of `len` entries that `roots` over `range` change, and for each entry from there on that is
/// left, those that it is made of.
fn survivors(len: usize, range: &Range<usize>, roots: &[u32]) -> (usize, Vec<Vec<u32>>) {
    let first = range.start / PAGE;
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (i, &root) in roots.iter().enumerate().filter(|&(_, &root)| root != policy::EVICT) {
        members.entry(root).or_default().push((range.start + i) as u32);
    }
    let alone = |entries: Range<usize>| entries.map(|i| vec![i as u32]);
    (first, alone(first * PAGE..range.start).chain(members.into_values()).chain(alone(range.end..len)).collect())
}

fn fold(
    shared: &Shared,
    heads: &mut [DeviceHead],
    layout: PageLayout,
    some: Vec<Folded>,
    reserved: &Reservation,
) -> Result<(), DeviceError> {
    let (mut runs, mut starts, mut members, mut pages, mut clears) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for folded in &some {
        let head = &heads[folded.head];
        let place = pages.len() as u32;
        pages.extend(head.pages());
        for (page, survivors) in folded.places.iter().zip(folded.survivors.chunks(PAGE)) {
            let (page, count) = (page.number(), survivors.len() as u32);
            let survivor = starts.len() as u32;
            runs.push(FoldRun { page, slot: 0, count, survivor, pages: place, balance: head.balance_row() });
            for survivor in survivors {
                starts.push(members.len() as u32);
                members.extend_from_slice(survivor);
            }
            if survivors.len() < PAGE {
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
    let arguments = Fold {
        pool,
        runs: base + runs_at,
        starts: base + starts,
        members: base + members,
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

/// The same for one head, in host memory.
fn on_host(shared: &Shared, head: &mut DeviceHead, folded: &Folded, reserved: &Reservation) -> Result<(), DeviceError> {
    let (layout, device) = (head.layout(), &*shared.device);
    let size = layout.bytes();
    let before = head.read_pages(folded.first, device)?;
    let entry = |i: u32| {
        let i = i as usize - folded.first * PAGE;
        (&before[i / PAGE * size..][..size], i % PAGE)
    };
    let mut after = vec![0; folded.survivors.len().div_ceil(PAGE) * size];
    for (page, survivors) in after.chunks_exact_mut(size).zip(folded.survivors.chunks(PAGE)) {
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
    head.write_pages(folded.first, &after, folded.len(), device, &shared.slab, reserved)
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
