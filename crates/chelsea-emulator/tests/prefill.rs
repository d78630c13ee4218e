//! Attention of many tokens of a sequence.

mod common;

use chelsea_cuda::kernels::{PageLayout, PageType, Prefill, Reach, prefill};
use chelsea_cuda::twins::{Entry, Head, attend, read_entry, write_entry};
use chelsea_cuda::{Buffer, Device, DeviceError};
use chelsea_emulator::Schedule;
use common::{Lots, Outcome, device, difference, fill, pool};
use std::sync::Arc;

/// Some tokens of a sequence, at the end of heads that have clusters before them.
struct Case {
    layout: PageLayout,
    group: usize,
    tokens: usize,
    /// Entries before the tokens, of each head.
    before: Vec<usize>,
    window: usize,
    sinks: bool,
}

impl Case {
    fn new(layout: PageLayout, group: usize, tokens: usize, before: &[usize]) -> Self {
        Case { layout, group, tokens, before: before.to_vec(), window: 0, sinks: false }
    }

    fn run(&self, device: &Arc<dyn Device>, lots: &mut Lots) -> Result<(Vec<f32>, Vec<f64>), DeviceError> {
        let Case { layout, group, tokens, window, .. } = *self;
        let (dim, heads) = (layout.dim, self.before.len());
        let page_count = |before: &usize| (before + tokens).div_ceil(64);
        let total: usize = self.before.iter().map(page_count).sum();
        let pool = pool(device, layout, total)?;
        let pages = lots.order(total);
        let (stride, out_stride) = (heads * group * dim + 3, heads * group * dim + 1);
        let (queries, sinks) = (lots.row(tokens * stride, 1.5), lots.row(heads * group, 2.0));
        let scale = (dim as f32).sqrt().recip();
        let (mut at, mut reaches) = (0, Vec::new());
        let mut wanted = vec![0.0; tokens * out_stride];
        for (h, before) in self.before.iter().enumerate() {
            let len = before + tokens;
            let entry = |i| Entry { count: if i < *before { 1 + i as u32 % 7 } else { 1 }, ..lots.entry(dim, i) };
            let entries: Vec<Entry> = (0..len).map(entry).collect();
            fill(device, &pool, layout, &pages[at..at + len.div_ceil(64)], &entries)?;
            reaches.push(Reach { first: at as u32, entries: len as u32 });
            at += len.div_ceil(64);
            let stored: Vec<Entry> = entries.iter().map(|entry| rounded(layout, entry)).collect();
            for token in 0..tokens {
                let end = before + token + 1;
                let first = if window == 0 { 0 } else { end.saturating_sub(window) };
                for r in 0..group {
                    let q_head = h * group + r;
                    let query = &queries[token * stride + q_head * dim..][..dim];
                    let sink = self.sinks.then(|| sinks[q_head]);
                    let answer = attend(query, Head { entries: &stored, first, end }, scale, sink);
                    wanted[token * out_stride + q_head * dim..][..dim].copy_from_slice(&answer);
                }
            }
        }
        let (pages_at, reaches_at) = (Buffer::with(device, &pages)?, Buffer::with(device, &reaches)?);
        let (queries_at, sinks_at) = (Buffer::with(device, &queries)?, Buffer::with(device, &sinks)?);
        // What lies between rows has to stay.
        let out = Buffer::with(device, &vec![0f32; tokens * out_stride])?;
        let arguments = Prefill {
            pool: pool.at(),
            pages: pages_at.at(),
            reaches: reaches_at.at(),
            queries: queries_at.at(),
            sinks: if self.sinks { sinks_at.at() } else { 0 },
            out: out.at(),
            dim: dim as u32,
            group: group as u32,
            tokens: tokens as u32,
            stride: stride as u32,
            out_stride: out_stride as u32,
            window: window as u32,
            scale,
            unused: 0,
        };
        prefill(&**device, layout.ty, heads, &arguments)?;
        Ok((out.values(tokens * out_stride)?, wanted))
    }

    fn assert_right(&self, device: &Arc<dyn Device>, lots: &mut Lots) -> Outcome {
        let (found, wanted) = self.run(device, lots)?;
        let off = difference(&found, &wanted);
        let Case { layout, group, tokens, before, .. } = self;
        assert!(off < 1e-3, "{layout:?}, group {group}, {tokens} tokens after {before:?}: off by {off}");
        Ok(())
    }
}

/// An entry as a page holds it.
fn rounded(layout: PageLayout, entry: &Entry) -> Entry {
    let mut page = vec![0; layout.bytes()];
    write_entry(&mut page, layout, 0, entry);
    read_entry(&page, layout, 0)
}

#[test]
fn tokens_see_what_is_before_them_in_every_type_and_size() -> Outcome {
    let mut lots = Lots::new(31);
    for (i, layout) in common::layouts().enumerate() {
        let group = 1 + i % 8;
        let case = Case::new(layout, group, 7, &[0, 61, 130]);
        case.assert_right(&device(Schedule::ALL[i % 3]), &mut lots)?;
    }
    Ok(())
}

#[test]
fn many_rows_take_several_blocks() -> Outcome {
    let mut lots = Lots::new(32);
    for (i, (group, tokens)) in [(1, 65), (3, 50), (8, 20)].into_iter().enumerate() {
        let layout = PageLayout { dim: 64, ty: PageType::ALL[i] };
        Case::new(layout, group, tokens, &[64, 3]).assert_right(&device(Schedule::ALL[i]), &mut lots)?;
    }
    Ok(())
}

#[test]
fn windows_and_sinks_are_kept_to() -> Outcome {
    let mut lots = Lots::new(33);
    for (i, window) in [1, 10, 64, 100].into_iter().enumerate() {
        let layout = PageLayout { dim: 64, ty: PageType::ALL[i % 3] };
        let case = Case { window, sinks: true, ..Case::new(layout, 2, 20, &[150, 5]) };
        case.assert_right(&device(Schedule::ALL[i % 3]), &mut lots)?;
    }
    Ok(())
}

#[test]
fn one_token_is_a_step_like_any_other() -> Outcome {
    let layout = PageLayout { dim: 128, ty: PageType::Q8 };
    Case::new(layout, 5, 1, &[63, 64, 0]).assert_right(&device(Schedule::Reversed), &mut Lots::new(34))
}

#[test]
fn schedules_change_no_bit() -> Outcome {
    let [a, b, c] = Schedule::ALL.map(|schedule| {
        let case = Case::new(PageLayout { dim: 64, ty: PageType::K8V4 }, 3, 30, &[100]);
        case.run(&device(schedule), &mut Lots::new(35)).map(|(found, _)| found)
    });
    let a = a?;
    assert!(a == b? && a == c?);
    Ok(())
}
