//! Tokens become entries of pages.

mod common;

use bytemuck::cast_slice;
use chelsea_cuda::Buffer;
use chelsea_cuda::kernels::rows::{Rope, ScaleHeads, rope, scale_heads};
use chelsea_cuda::kernels::{Append, Enter, NO_BALANCE, PageLayout, PageType, Run, append, enter};
use chelsea_cuda::twins::{Entry, read_entry, write_entry};
use chelsea_emulator::Schedule;
use chelsea_kv::{Dims, Head, PAGE};
use common::{Lots, Outcome, device, layouts, pool};

/// A page of the twin, empty.
fn empty(layout: PageLayout) -> Vec<u8> {
    let mut page = vec![0; layout.bytes()];
    for slot in 0..PAGE {
        page[layout.meta() + 4 * slot..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    }
    page
}

#[test]
fn tokens_are_written_as_the_twin_writes_them_bit_for_bit() -> Outcome {
    let mut lots = Lots::new(1);
    for (i, layout) in layouts().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let (dim, heads, tokens) = (layout.dim, 2, 70);
        let pool = pool(&device, layout, 4)?;
        let stride = heads * dim + 8;
        let (keys, values) = (lots.row(tokens * stride, 2.0), lots.row(tokens * stride, 0.1));
        let balances: Vec<f32> = (0..dim).map(|d| 0.5 + d as f32 / 7.0).collect();
        // Head 1 has balanced keys. Its entries begin in the middle of a page.
        let run = |page, slot, count, row, head| Run {
            page,
            slot,
            count,
            row,
            head,
            position: 1000 + row,
            balance: if head == 1 { 0 } else { NO_BALANCE },
        };
        let runs = [run(2, 0, 64, 0, 0), run(0, 0, 6, 64, 0), run(3, 37, 27, 0, 1), run(1, 0, 43, 27, 1)];
        let (runs_at, keys_at, values_at, balances_at) = (
            Buffer::with(&device, &runs)?,
            Buffer::with(&device, &keys)?,
            Buffer::with(&device, &values)?,
            Buffer::with(&device, &balances)?,
        );
        let arguments = Append {
            pool: pool.at(),
            runs: runs_at.at(),
            keys: keys_at.at(),
            values: values_at.at(),
            balances: balances_at.at(),
            dim: dim as u32,
            stride: stride as u32,
        };
        append(&*device, layout.ty, runs.len(), &arguments)?;
        let found: Vec<u8> = pool.values(4 * layout.bytes())?;
        let mut wanted: Vec<Vec<u8>> = (0..4).map(|_| empty(layout)).collect();
        for run in runs {
            for e in 0..run.count {
                let at = (run.row + e) as usize * stride + run.head as usize * dim;
                let mut key = keys[at..at + dim].to_vec();
                if run.balance != NO_BALANCE {
                    key.iter_mut().zip(&balances).for_each(|(x, size)| *x /= size);
                }
                let entry =
                    Entry { key, value: values[at..at + dim].to_vec(), count: 1, position: (run.position + e) as f32 };
                write_entry(&mut wanted[run.page as usize], layout, (run.slot + e) as usize, &entry);
            }
        }
        assert!(found == wanted.concat(), "{layout:?}");
    }
    Ok(())
}

#[test]
fn tokens_that_are_turned_on_the_way_have_the_bits_of_those_that_were_turned_before() -> Outcome {
    let mut lots = Lots::new(3);
    for (i, layout) in layouts().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        // Of every second shape, a part of each head is turned.
        let (dim, heads, group, tokens) = (layout.dim, 2, 3, 20);
        let pairs = if i % 2 == 0 { dim / 2 } else { dim / 4 };
        let (stride, q_width) = (heads * dim, heads * group * dim);
        let (keys, values) = (lots.row(tokens * stride, 2.0), lots.row(tokens * stride, 0.1));
        let queries = lots.row(tokens * q_width, 1.0);
        let balances: Vec<f32> = (0..dim).map(|d| 0.5 + d as f32 / 7.0).collect();
        let (cosines, sines) = (lots.row(tokens * pairs, 1.0), lots.row(tokens * pairs, 1.0));
        let run = |page, head| Run {
            page,
            slot: 5,
            count: tokens as u32,
            row: 0,
            head,
            position: 77,
            balance: if head == 1 { 0 } else { NO_BALANCE },
        };
        let which: Vec<u32> = [NO_BALANCE, 0].repeat(tokens);
        let with = |numbers: &[f32]| Buffer::with(&device, numbers);
        let (values_at, balances_at) = (with(&values)?, with(&balances)?);
        let (cosines_at, sines_at, which_at) = (with(&cosines)?, with(&sines)?, Buffer::with(&device, &which)?);
        let runs_at = Buffer::with(&device, &[run(0, 0), run(1, 1)])?;
        let noted_at = Buffer::new(&device, tokens * q_width * 4)?;
        let mut turned_queries = Vec::new();
        let mut found = Vec::new();
        for fused in [false, true] {
            let pool = pool(&device, layout, 2)?;
            let (keys_at, queries_at) = (with(&keys)?, with(&queries)?);
            let append_all = Append {
                pool: pool.at(),
                runs: runs_at.at(),
                keys: keys_at.at(),
                values: values_at.at(),
                balances: balances_at.at(),
                dim: dim as u32,
                stride: stride as u32,
            };
            if fused {
                let arguments = Enter {
                    append: append_all,
                    queries: queries_at.at(),
                    cosines: cosines_at.at(),
                    sines: sines_at.at(),
                    noted: if i % 3 == 0 { noted_at.at() } else { 0 },
                    which: which_at.at(),
                    pairs: pairs as u32,
                    runs: 2,
                    rows: tokens as u32,
                    q_heads: (heads * group) as u32,
                    group: group as u32,
                    unused: 0,
                };
                enter(&*device, layout.ty, &arguments)?;
            } else {
                for (x, heads) in [(&keys_at, heads), (&queries_at, heads * group)] {
                    let turned = Rope {
                        x: x.at(),
                        cosines: cosines_at.at(),
                        sines: sines_at.at(),
                        tokens: tokens as u32,
                        heads: heads as u32,
                        dim: dim as u32,
                        pairs: pairs as u32,
                        stride: (heads * dim) as u32,
                        unused: 0,
                    };
                    rope(&*device, &turned)?;
                }
                turned_queries = queries_at.values::<u32>(tokens * q_width)?;
                append(&*device, layout.ty, 2, &append_all)?;
                let scaled = ScaleHeads {
                    x: queries_at.at(),
                    factors: balances_at.at(),
                    which: which_at.at(),
                    rows: tokens as u32,
                    kv_heads: heads as u32,
                    group: group as u32,
                    dim: dim as u32,
                    stride: q_width as u32,
                    unused: 0,
                };
                scale_heads(&*device, &scaled)?;
            }
            found.push((pool.values::<u8>(2 * layout.bytes())?, queries_at.values::<u32>(tokens * q_width)?));
        }
        assert!(found[0] == found[1], "{layout:?}");
        assert_eq!(noted_at.values::<u32>(tokens * q_width)? == turned_queries, i % 3 == 0, "{layout:?}");
        assert!(found[0].1 != cast_slice::<f32, u32>(&queries), "queries are turned");
    }
    Ok(())
}

#[test]
fn a_page_holds_the_numbers_that_the_cpus_page_holds() {
    let mut lots = Lots::new(2);
    for layout in layouts() {
        let dim = layout.dim;
        let mut head = Head::new(Dims::both(dim), layout.ty.dtype());
        let mut page = empty(layout);
        for slot in 0..PAGE {
            let mut entry = lots.entry(dim, slot);
            match slot {
                7 => entry.value.fill(0.0),
                8 => entry.key.fill(1e-42),
                9 => entry.value[3] = 1000.0,
                _ => {}
            }
            head.push(&entry.key, &entry.value, entry.count, entry.position);
            write_entry(&mut page, layout, slot, &entry);
        }
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        for slot in 0..PAGE {
            head.read_key(slot, &mut key);
            head.read_value(slot, &mut value);
            let read = read_entry(&page, layout, slot);
            let same = |a: &[f32], b: &[f32]| cast_slice::<f32, u32>(a) == cast_slice::<f32, u32>(b);
            assert!(same(&read.key, &key) && same(&read.value, &value), "{layout:?}, entry {slot}");
            assert_eq!((read.count, read.position), (head.count(slot), head.position(slot)));
        }
    }
}

#[test]
fn bytes_of_a_page_are_whole_lines() {
    for layout in layouts() {
        assert!(layout.bytes().is_multiple_of(256) && layout.values().is_multiple_of(64), "{layout:?}");
        assert!(layout.ty != PageType::K8V4 || layout.bytes() < PageLayout { ty: PageType::Q8, ..layout }.bytes());
    }
}
