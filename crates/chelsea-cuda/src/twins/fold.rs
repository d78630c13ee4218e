//! Clusters become entries.

use super::page::{Entry, copy_entry, read_entry, write_entry};
use crate::kernels::PageLayout;
use chelsea_kv::PAGE;

/// Writes clusters of entries of `old`, a head's pages, into slots of a new page from `slot` on. A cluster is its members,
/// ascending; one of a single member is copied bit for bit. Keys are stored divided by `balance`, where there is one.
///
/// # Panics
/// If a member is not in `old`, or the clusters do not fit the page.
pub fn fold(
    old: &[Vec<u8>],
    layout: PageLayout,
    clusters: &[Vec<u32>],
    balance: Option<&[f32]>,
    new: &mut [u8],
    slot: usize,
) {
    for (slot, members) in (slot..).zip(clusters) {
        let page = |member: u32| &old[member as usize / PAGE];
        if let [member] = members[..] {
            copy_entry(new, slot, page(member), member as usize % PAGE, layout);
            continue;
        }
        let mut mean = Entry { key: vec![0.0; layout.dim], value: vec![0.0; layout.dim], count: 0, position: 0.0 };
        let mut moment = 0.0;
        for &member in members {
            let entry = read_entry(page(member), layout, member as usize % PAGE);
            let weight = entry.count as f32;
            for (d, (sum, &x)) in mean.key.iter_mut().zip(&entry.key).enumerate() {
                *sum += weight * balance.map_or(x, |sizes| x * sizes[d]);
            }
            mean.value.iter_mut().zip(&entry.value).for_each(|(sum, &x)| *sum += weight * x);
            mean.count += entry.count;
            moment += f64::from(entry.count) * f64::from(entry.position);
        }
        let total = mean.count as f32;
        mean.key.iter_mut().chain(&mut mean.value).for_each(|x| *x /= total);
        if let Some(sizes) = balance {
            mean.key.iter_mut().zip(sizes).for_each(|(x, size)| *x /= size);
        }
        mean.position = (moment / f64::from(mean.count)) as f32;
        write_entry(new, layout, slot, &mean);
    }
}
