//! Attention of single tokens over ragged heads.

mod common;

use chelsea_cuda::kernels::{Decode, Join, PageLayout, PageType, Part, decode, join, part_numbers};
use chelsea_cuda::twins::{Entry, Head, attend, read_entry};
use chelsea_cuda::{Buffer, Device, DeviceError};
use chelsea_emulator::Schedule;
use common::{Lots, Outcome, device, difference, fill, pool};
use std::sync::Arc;

/// Heads of several lengths in pages in any order, with what queries see of them.
struct Case {
    layout: PageLayout,
    group: usize,
    lens: Vec<usize>,
    /// Entries that are seen at the end of each head.
    window: usize,
    sinks: bool,
    /// Pages of a part.
    split: usize,
    /// How large queries and values are.
    sizes: (f32, f32),
}

impl Case {
    fn new(layout: PageLayout, group: usize, lens: &[usize]) -> Self {
        Case { layout, group, lens: lens.to_vec(), window: usize::MAX, sinks: false, split: 5, sizes: (1.0, 1.0) }
    }

    /// What the kernels answer, and what the twin does.
    fn run(&self, device: &Arc<dyn Device>, lots: &mut Lots) -> Result<(Vec<f32>, Vec<f64>), DeviceError> {
        let Case { layout, group, .. } = *self;
        let dim = layout.dim;
        let total: usize = self.lens.iter().map(|len| len.div_ceil(64)).sum();
        let pool = pool(device, layout, total)?;
        let pages = lots.order(total);
        let queries = lots.row(self.lens.len() * group * dim, self.sizes.0);
        let sinks = lots.row(self.lens.len() * group, 2.0);
        let (mut at, mut parts, mut firsts, mut wanted) = (0, Vec::new(), vec![0u32], Vec::new());
        let scale = (dim as f32).sqrt().recip();
        for (h, &len) in self.lens.iter().enumerate() {
            let mut entries: Vec<Entry> = (0..len).map(|i| lots.entry(dim, i)).collect();
            for entry in &mut entries {
                entry.value.iter_mut().for_each(|x| *x *= self.sizes.1);
            }
            let own = &pages[at..at + len.div_ceil(64)];
            fill(device, &pool, layout, own, &entries)?;
            let hidden = len.saturating_sub(self.window);
            for first in (hidden / 64..own.len()).step_by(self.split) {
                let part = Part {
                    query: (h * group) as u32,
                    first: (at + first) as u32,
                    count: self.split.min(own.len() - first) as u32,
                    hidden: hidden.saturating_sub(first * 64) as u32,
                };
                parts.push(part);
            }
            firsts.push(parts.len() as u32);
            at += own.len();
            let stored: Vec<Entry> = entries.iter().map(|entry| rounded(layout, entry)).collect();
            for r in 0..group {
                let query = &queries[(h * group + r) * dim..][..dim];
                let head = Head { entries: &stored, first: hidden, end: len };
                wanted.extend(attend(query, head, scale, self.sinks.then(|| sinks[h * group + r])));
            }
        }
        let q_heads = self.lens.len() * group;
        let (pages_at, parts_at) = (Buffer::with(device, &pages)?, Buffer::with(device, &parts)?);
        let (queries_at, firsts_at) = (Buffer::with(device, &queries)?, Buffer::with(device, &firsts)?);
        let sinks_at = Buffer::with(device, &sinks)?;
        let sums = Buffer::new(device, parts.len() * part_numbers(dim) * 4)?;
        let out = Buffer::new(device, q_heads * dim * 4)?;
        let arguments = Decode {
            pool: pool.at(),
            pages: pages_at.at(),
            parts: parts_at.at(),
            queries: queries_at.at(),
            sums: sums.at(),
            dim: dim as u32,
            group: group as u32,
            scale,
            unused: 0,
        };
        decode(&**device, layout.ty, parts.len(), &arguments)?;
        let arguments = Join {
            sums: sums.at(),
            firsts: firsts_at.at(),
            sinks: if self.sinks { sinks_at.at() } else { 0 },
            out: out.at(),
            bytes: 0,
            scales: 0,
            dim: dim as u32,
            group: group as u32,
            q_heads: q_heads as u32,
            unused: 0,
        };
        join(&**device, q_heads, &arguments)?;
        let found = out.values(q_heads * dim)?;
        let (bytes, scales) = (Buffer::new(device, q_heads * dim)?, Buffer::new(device, q_heads * dim / 2)?);
        let arguments = Join { bytes: bytes.at(), scales: scales.at(), ..arguments };
        let rounded = join(&**device, q_heads, &arguments);
        if dim.is_multiple_of(32) {
            rounded?;
            let twin = chelsea_cuda::twins::linear::quantize(&found);
            assert!(bytes.values::<i8>(q_heads * dim)? == twin.bytes, "{layout:?}");
            assert!(scales.values::<f32>(q_heads * dim / 8)? == twin.scales, "{layout:?}");
        } else {
            assert!(rounded.is_err(), "heads of {dim} numbers are not rounded");
        }
        Ok((found, wanted))
    }

    fn assert_right(&self, device: &Arc<dyn Device>, lots: &mut Lots) -> Outcome {
        let (found, wanted) = self.run(device, lots)?;
        let off = difference(&found, &wanted);
        let Case { layout, group, lens, .. } = self;
        assert!(off < 1e-3, "{layout:?}, group {group}, lengths {lens:?}: off by {off}");
        Ok(())
    }
}

/// An entry as a page holds it.
fn rounded(layout: PageLayout, entry: &Entry) -> Entry {
    let mut page = vec![0; layout.bytes()];
    chelsea_cuda::twins::write_entry(&mut page, layout, 0, entry);
    read_entry(&page, layout, 0)
}

#[test]
fn heads_of_any_length_are_attended_in_every_type_and_size() -> Outcome {
    let mut lots = Lots::new(3);
    for (i, layout) in common::layouts().enumerate() {
        let group = 1 + i % 8;
        Case::new(layout, group, &[1, 63, 64, 65, 130]).assert_right(&device(Schedule::ALL[i % 3]), &mut lots)?;
    }
    Ok(())
}

#[test]
fn every_group_up_to_eight_is_attended() -> Outcome {
    let mut lots = Lots::new(4);
    for group in 1..=8 {
        let layout = PageLayout { dim: 64, ty: PageType::Q8 };
        Case::new(layout, group, &[70, 3]).assert_right(&device(Schedule::InOrder), &mut lots)?;
    }
    Ok(())
}

#[test]
fn parts_of_a_long_head_are_joined_with_a_sink() -> Outcome {
    let mut lots = Lots::new(5);
    for (i, ty) in PageType::ALL.into_iter().enumerate() {
        let layout = PageLayout { dim: 64, ty };
        let case = Case { sinks: true, split: 3, ..Case::new(layout, 3, &[700, 65, 1]) };
        case.assert_right(&device(Schedule::ALL[i]), &mut lots)?;
    }
    Ok(())
}

#[test]
fn entries_before_the_window_are_not_seen() -> Outcome {
    let mut lots = Lots::new(6);
    for window in [1, 64, 100] {
        let layout = PageLayout { dim: 64, ty: PageType::F16 };
        let case = Case { window, split: 1, ..Case::new(layout, 2, &[64, 65, 200, 10]) };
        case.assert_right(&device(Schedule::Reversed), &mut lots)?;
    }
    Ok(())
}

#[test]
fn the_size_of_queries_and_values_costs_no_digits() -> Outcome {
    let mut lots = Lots::new(7);
    for sizes in [(1e-20, 1.0), (3.0, 1e-6), (1.0, 1e5)] {
        for ty in [PageType::Q8, PageType::K8V4] {
            let case = Case { sizes, ..Case::new(PageLayout { dim: 64, ty }, 4, &[150]) };
            case.assert_right(&device(Schedule::InOrder), &mut lots)?;
        }
    }
    Ok(())
}

#[test]
fn schedules_change_no_bit() -> Outcome {
    let answers = Schedule::ALL.map(|schedule| {
        let case = Case::new(PageLayout { dim: 128, ty: PageType::K8V4 }, 5, &[300, 64]);
        case.run(&device(schedule), &mut Lots::new(8)).map(|(found, _)| found)
    });
    let [a, b, c] = answers;
    let a = a?;
    assert!(a == b? && a == c?);
    Ok(())
}

#[test]
fn shapes_that_kernels_do_not_take_are_refused() {
    let device = device(Schedule::InOrder);
    let arguments =
        Decode { pool: 0, pages: 0, parts: 0, queries: 0, sums: 0, dim: 72, group: 1, scale: 1.0, unused: 0 };
    for (dim, group) in [(72, 1), (0, 1), (272, 1), (64, 0), (64, 9)] {
        let refused = decode(&*device, PageType::F16, 1, &Decode { dim, group, ..arguments });
        assert!(matches!(refused, Err(DeviceError::Failed { doing: "attend", .. })), "{refused:?}");
    }
}
