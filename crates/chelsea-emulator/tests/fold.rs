//! Clusters become entries of new pages.

mod common;

use chelsea_cuda::Buffer;
use chelsea_cuda::kernels::{Fold, FoldRun, NO_BALANCE, fold};
use chelsea_cuda::twins::{self, Entry, read_entry};
use chelsea_emulator::Schedule;
use chelsea_kv::merge::{merge_head, survivors};
use chelsea_kv::{Dims, Head, PAGE, backend::ScratchMeter};
use common::{Lots, Outcome, device, fill, layouts, pool};

/// Roots by lot: about half of the entries join one before or after them.
fn roots(lots: &mut Lots, len: usize) -> Vec<u32> {
    let alone: Vec<u32> = (0..len as u32).filter(|&i| i == 0 || lots.below(2) == 0).collect();
    let mut root = |i| if alone.contains(&i) { i } else { alone[lots.below(alone.len())] };
    (0..len as u32).map(&mut root).collect()
}

/// The members of each survivor, in order.
fn clusters(roots: &[u32]) -> Vec<Vec<u32>> {
    let members = |root: u32| (0..roots.len() as u32).filter(|&i| roots[i as usize] == root).collect();
    (0..roots.len() as u32).filter(|&i| roots[i as usize] == i).map(members).collect()
}

#[test]
fn survivors_are_written_as_the_twin_writes_them() -> Outcome {
    let mut lots = Lots::new(41);
    for (i, layout) in layouts().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let (dim, len) = (layout.dim, 150);
        let pool = pool(&device, layout, 6)?;
        let entries: Vec<Entry> = (0..len).map(|i| lots.entry(dim, i)).collect();
        let old = [4u32, 1, 3];
        fill(&device, &pool, layout, &old, &entries)?;
        let (mut roots, balances) = (roots(&mut lots, len), lots.row(2 * dim, 1.0));
        // Some keep every bit.
        roots[..5].copy_from_slice(&[0, 1, 2, 3, 4]);
        let clusters = clusters(&roots);
        let balance = if i % 2 == 0 { 1 } else { NO_BALANCE };
        let page_bytes = layout.bytes();
        let before: Vec<u8> = pool.values(6 * page_bytes)?;
        let before: Vec<Vec<u8>> = before.chunks(page_bytes).map(<[u8]>::to_vec).collect();
        // The first new page begins in the middle.
        let first = PAGE - 10;
        let split = clusters.len().min(10);
        let run = |page, slot, from: usize, end: usize| FoldRun {
            page,
            slot,
            count: (end - from) as u32,
            survivor: from as u32,
            pages: 1,
            balance,
        };
        let runs = [run(5, first as u32, 0, split), run(0, 0, split, clusters.len().min(split + PAGE))];
        let mut starts = vec![0u32];
        clusters.iter().for_each(|members| starts.push(starts[starts.len() - 1] + members.len() as u32));
        let pages = [77, old[0], old[1], old[2]];
        let (runs_at, starts_at) = (Buffer::with(&device, &runs)?, Buffer::with(&device, &starts)?);
        let (members_at, pages_at) = (Buffer::with(&device, &clusters.concat())?, Buffer::with(&device, &pages)?);
        let balances_at = Buffer::with(&device, &balances)?;
        let arguments = Fold {
            pool: pool.at(),
            runs: runs_at.at(),
            starts: starts_at.at(),
            members: members_at.at(),
            pages: pages_at.at(),
            balances: balances_at.at(),
            dim: dim as u32,
            unused: 0,
        };
        fold(&*device, layout.ty, runs.len(), &arguments)?;
        let after: Vec<u8> = pool.values(6 * page_bytes)?;
        let heads: Vec<Vec<u8>> = old.iter().map(|&page| before[page as usize].clone()).collect();
        let sizes = (balance != NO_BALANCE).then(|| &balances[dim..]);
        let mut wanted = before;
        for run in runs {
            let own = &clusters[run.survivor as usize..][..run.count as usize];
            twins::fold(&heads, layout, own, sizes, &mut wanted[run.page as usize], run.slot as usize);
        }
        for (page, (found, wanted)) in after.chunks(page_bytes).zip(&wanted).enumerate() {
            // All but the logarithms of counts, whose last bit is the library's affair.
            let (meta, ln_end) = (layout.meta(), layout.meta() + 4 * PAGE);
            assert!(found[..meta] == wanted[..meta] && found[ln_end..] == wanted[ln_end..], "{layout:?}, page {page}");
            let numbers = |bytes: &[u8]| -> Vec<f32> {
                bytes[meta..ln_end].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
            };
            let close = |(x, y): (&f32, &f32)| x == y || (x - y).abs() < 1e-6;
            assert!(numbers(found).iter().zip(&numbers(wanted)).all(close), "{layout:?}, page {page}");
        }
    }
    Ok(())
}

#[test]
fn the_twin_merges_as_the_cpus_cache_does_bit_for_bit() {
    let mut lots = Lots::new(42);
    for layout in layouts() {
        let (dim, len) = (layout.dim, 64);
        let mut head = Head::new(Dims::both(dim), layout.ty.dtype());
        let mut page = vec![0; layout.bytes()];
        for slot in 0..len {
            let entry = lots.entry(dim, slot);
            head.push(&entry.key, &entry.value, entry.count, entry.position);
            twins::write_entry(&mut page, layout, slot, &entry);
        }
        let roots = roots(&mut lots, len);
        let left = merge_head(&mut head, 0..len, &roots, &ScratchMeter::default());
        assert_eq!(left, survivors(&roots));
        let mut new = vec![0; layout.bytes()];
        twins::fold(&[page], layout, &clusters(&roots), None, &mut new, 0);
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        for slot in 0..left {
            head.read_key(slot, &mut key);
            head.read_value(slot, &mut value);
            let wanted = Entry {
                key: key.clone(),
                value: value.clone(),
                count: head.count(slot),
                position: head.position(slot),
            };
            assert_eq!(read_entry(&new, layout, slot), wanted, "{layout:?}, slot {slot}");
        }
    }
}
