//! What tests of kernels share.

#![allow(dead_code, reason = "every test file uses some of it")]

use chelsea_cuda::driver::CudaDevice;
use chelsea_cuda::kernels::{Clear, PageLayout, PageType, clear_slots};
use chelsea_cuda::twins::{Entry, write_entry};
use chelsea_cuda::{Buffer, Device, DeviceError};
use chelsea_emulator::{Emulator, Schedule};
use std::sync::{Arc, OnceLock};

pub type Outcome = Result<(), DeviceError>;

/// An emulated device, or the GPU whose number `CHELSEA_TEST_GPU` is (`cargo xtask gpu-check`).
pub fn device(schedule: Schedule) -> Arc<dyn Device> {
    static GPU: OnceLock<Arc<CudaDevice>> = OnceLock::new();
    match std::env::var("CHELSEA_TEST_GPU") {
        Ok(number) => {
            let open = || CudaDevice::open(number.parse().expect("CHELSEA_TEST_GPU is a number"));
            GPU.get_or_init(|| Arc::new(open().expect("the GPU opens"))).clone()
        }
        Err(_) => Arc::new(Emulator::new(schedule)),
    }
}

/// Numbers by lot, the same at every run.
pub struct Lots(u64);

impl Lots {
    pub fn new(seed: u64) -> Self {
        Lots(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.bits() as usize % end
    }

    /// Between -1 and 1.
    pub fn number(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    /// Roughly normal.
    pub fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.number()).sum::<f32>() * 0.87
    }

    pub fn row(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| self.normal() * size).collect()
    }

    pub fn entry(&mut self, dim: usize, position: usize) -> Entry {
        let count = if self.below(2) == 0 { 1 } else { 1 + self.below(40) as u32 };
        Entry { key: self.row(dim, 1.0), value: self.row(dim, 0.3), count, position: position as f32 }
    }

    /// Numbers from 0, in any order.
    pub fn order(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A pool of empty pages.
pub fn pool(device: &Arc<dyn Device>, layout: PageLayout, pages: usize) -> Result<Buffer, DeviceError> {
    let pool = Buffer::new(device, pages * layout.bytes())?;
    device.zero(pool.at(), pool.bytes())?;
    let numbers = Buffer::with(device, &(0..pages as u32).collect::<Vec<_>>())?;
    let firsts = Buffer::with(device, &vec![0u32; pages])?;
    let arguments = Clear::of(layout, pool.at(), numbers.at(), firsts.at());
    clear_slots(&**device, pages, &arguments)?;
    Ok(pool)
}

/// Puts entries into pages of a pool, 64 each, in order.
pub fn fill(device: &Arc<dyn Device>, pool: &Buffer, layout: PageLayout, pages: &[u32], entries: &[Entry]) -> Outcome {
    for (page, entries) in pages.iter().zip(entries.chunks(64)) {
        let at = pool.at() + u64::from(*page) * layout.bytes() as u64;
        let mut bytes = vec![0; layout.bytes()];
        device.read(at, &mut bytes)?;
        for (slot, entry) in entries.iter().enumerate() {
            write_entry(&mut bytes, layout, slot, entry);
        }
        device.write(at, &bytes)?;
    }
    Ok(())
}

/// Types and head sizes: those that models have, and some between.
pub fn layouts() -> impl Iterator<Item = PageLayout> {
    let dims = [16, 64, 80, 128, 256];
    PageType::ALL.into_iter().flat_map(move |ty| dims.into_iter().map(move |dim| PageLayout { dim, ty }))
}

/// How far numbers are from others, beside how large those are.
pub fn difference(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let off: f64 = found.iter().zip(wanted).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
    let size: f64 = wanted.iter().map(|y| y * y).sum();
    (off / size.max(1e-30)).sqrt()
}
