//! Slots of pages that are to hold no entry.

mod common;

use chelsea_cuda::Buffer;
use chelsea_cuda::kernels::{Clear, PageType, clear_slots};
use chelsea_cuda::twins::Entry;
use chelsea_emulator::Schedule;
use chelsea_kv::PAGE;
use common::{Lots, Outcome, device, fill, layouts, pool};

#[test]
fn nothing_is_left_of_entries_that_are_gone_and_all_of_those_before() -> Outcome {
    let mut lots = Lots::new(61);
    for (i, layout) in layouts().enumerate() {
        let device = device(Schedule::ALL[i % 3]);
        let pool = pool(&device, layout, 3)?;
        let entries: Vec<Entry> = (0..3 * PAGE).map(|i| lots.entry(layout.dim, i)).collect();
        fill(&device, &pool, layout, &[0, 1, 2], &entries)?;
        let mut wanted: Vec<u8> = pool.values(3 * layout.bytes())?;
        let slots = [(2u32, 0u32), (0, 37)];
        for (page, first) in slots {
            let page = &mut wanted[page as usize * layout.bytes()..][..layout.bytes()];
            let mut words = vec![(layout.meta(), f32::NEG_INFINITY), (layout.meta() + 4 * PAGE, 0.0)];
            words.push((layout.meta() + 8 * PAGE, 0.0));
            if layout.ty != PageType::F16 {
                words.extend([(layout.scales(), 0.0), (layout.scales() + 4 * PAGE, 0.0)]);
            }
            for (at, x) in words {
                (first as usize..PAGE).for_each(|slot| page[at + 4 * slot..][..4].copy_from_slice(&x.to_le_bytes()));
            }
        }
        let (pages, firsts) = (slots.map(|slot| slot.0), slots.map(|slot| slot.1));
        let (pages, firsts) = (Buffer::with(&device, &pages)?, Buffer::with(&device, &firsts)?);
        let arguments = Clear::of(layout, pool.at(), pages.at(), firsts.at());
        clear_slots(&*device, 2, &arguments)?;
        assert!(pool.values::<u8>(3 * layout.bytes())? == wanted, "{layout:?}");
    }
    Ok(())
}
