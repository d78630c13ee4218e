//! Runs the kernels of [`chelsea_cuda`] on the CPU, from the very files that GPUs get: for tests.
//!
//! A block's threads are fibers; barriers, shuffles and matrix instructions follow CUDA's manual
//! (`cuda/emulator.h`, `cuda/fragments.cpp`). Memory begins as numbers that are none, so that what a kernel forgets to write
//! shows, and threads run in one of several [`Schedule`]s, so that a barrier that is missing shows.
//!
//! It cannot show races between blocks that run at the same time, nor how long anything takes.

#![allow(unsafe_code)]

use chelsea_cuda::{About, Address, Device, DeviceError, HalvesProduct, Launcher, Launches, Layout, Prepared, Shape};
use half::f16;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

unsafe extern "C" {
    fn chelsea_emulator_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: u32,
        arguments: *const c_void,
        argument_bytes: u32,
        schedule: u32,
    ) -> c_int;
}

/// Who is next when threads wait, and in which order blocks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// As they are numbered.
    InOrder,
    /// The other way round.
    Reversed,
    /// By lots that follow from a number.
    Shuffled(u16),
}

impl Schedule {
    /// One of each kind.
    pub const ALL: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Shuffled(7)];

    fn number(self) -> u32 {
        match self {
            Schedule::InOrder => 0,
            Schedule::Reversed => 1,
            Schedule::Shuffled(lots) => 2 + u32::from(lots),
        }
    }
}

/// Where allocations begin, as a GPU's do.
const ALIGNMENT: usize = 256;

/// A device whose kernels run on the CPU.
#[derive(Debug)]
pub struct Emulator {
    about: About,
    schedule: Schedule,
    /// Whether it has a library of products.
    library: bool,
    /// What is allocated: address and size in bytes.
    held: Mutex<BTreeMap<Address, usize>>,
    /// Bytes that may be held at once.
    limit: usize,
    /// What was prepared, and what the next is known by.
    prepared: Mutex<(BTreeMap<Prepared, Arc<Launches>>, Prepared)>,
}

impl Emulator {
    /// Memory that an emulated device has unless it is told otherwise.
    const MEMORY: usize = 1 << 30;

    /// A device that runs threads in this order.
    pub fn new(schedule: Schedule) -> Self {
        Self::with_memory(schedule, Self::MEMORY)
    }

    /// A device with so many bytes of memory: what is beyond is refused.
    pub fn with_memory(schedule: Schedule, limit: usize) -> Self {
        let about = About { name: "emulated GPU".to_owned(), capability: (8, 0), memory: limit, processors: 4 };
        Self { about, schedule, library: true, held: Mutex::default(), limit, prepared: Mutex::default() }
    }

    /// The same without a library of products, as a GPU where none is found.
    pub fn without_library(mut self) -> Self {
        self.library = false;
        self
    }

    /// Bytes that are allocated.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// A matrix of 16-bit floats, with what lies between its columns.
    fn halves(&self, at: Address, layout: Layout) -> Result<Vec<f32>, DeviceError> {
        let mut bytes = vec![0; layout.columns as usize * layout.leading as usize * 2];
        self.read(at, &mut bytes)?;
        Ok(bytes.chunks_exact(2).map(|pair| f16::from_ne_bytes([pair[0], pair[1]]).to_f32()).collect())
    }

    /// Holds a copy to what was allocated.
    fn check(&self, doing: &'static str, at: Address, bytes: usize) -> Result<(), DeviceError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = held
            .range(..=at)
            .next_back()
            .is_some_and(|(start, size)| (at - start) as usize <= *size && bytes <= size - (at - start) as usize);
        let why = || format!("{bytes} bytes at {at:#x} are not of one allocation");
        if inside || bytes == 0 { Ok(()) } else { Err(DeviceError::Failed { doing, why: why() }) }
    }
}

fn layout(bytes: usize) -> Result<std::alloc::Layout, DeviceError> {
    std::alloc::Layout::from_size_align(bytes.max(1), ALIGNMENT).map_err(|_| DeviceError::Memory { bytes })
}

impl Launcher for Emulator {
    fn launch(&self, kernel: &'static str, shape: Shape, arguments: &[u8]) -> Result<(), DeviceError> {
        let failed = |why: &str| Err(DeviceError::Failed { doing: kernel, why: why.to_owned() });
        let Ok(name) = CString::new(kernel) else { return Err(DeviceError::Kernel(kernel)) };
        let [threads, 1, 1] = shape.block else { return failed("blocks have one direction") };
        // SAFETY: the name ends with a zero, the grid has three numbers, and the arguments are as long as is said. What
        // addresses among them mean is the caller's affair, as on a GPU.
        let ended = unsafe {
            chelsea_emulator_launch(
                name.as_ptr(),
                shape.grid.as_ptr(),
                threads,
                shape.shared,
                arguments.as_ptr().cast(),
                arguments.len() as u32,
                self.schedule.number(),
            )
        };
        match ended {
            0 => Ok(()),
            1 => Err(DeviceError::Kernel(kernel)),
            2 => failed("the kernel takes arguments of another size"),
            3 => failed("no GPU takes a launch of this shape"),
            _ => failed("threads wait for others that never come"),
        }
    }
}

impl Device for Emulator {
    fn about(&self) -> &About {
        &self.about
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let layout = layout(bytes)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.values().sum::<usize>().saturating_add(bytes) > self.limit {
            return Err(DeviceError::Memory { bytes });
        }
        // SAFETY: the layout has a size.
        let at = unsafe { std::alloc::alloc(layout) };
        if at.is_null() {
            return Err(DeviceError::Memory { bytes });
        }
        // SAFETY: so many bytes were just allocated.
        unsafe { at.write_bytes(0xff, bytes) };
        held.insert(at as Address, bytes);
        Ok(at as Address)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(&at) == Some(&bytes)
            && let Ok(layout) = layout(bytes)
        {
            held.remove(&at);
            // SAFETY: it was allocated so, and is no longer held.
            unsafe { std::alloc::dealloc(at as *mut u8, layout) };
        }
    }

    fn write(&self, at: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check("write", at, bytes.len())?;
        // SAFETY: the place is inside of an allocation, which no host slice overlaps.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check("read", at, bytes.len())?;
        // SAFETY: the place is inside of an allocation, which was filled when it was made.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.check("copy", from, bytes)?;
        self.check("copy", to, bytes)?;
        // SAFETY: both places are inside of allocations.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.check("zero", at, bytes)?;
        // SAFETY: the place is inside of an allocation.
        unsafe { (at as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn prepare(&self, launches: &Launches) -> Result<Prepared, DeviceError> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.1 += 1;
        let number = prepared.1;
        prepared.0.insert(number, Arc::new(launches.clone()));
        Ok(number)
    }

    fn replay(&self, prepared: Prepared) -> Result<(), DeviceError> {
        let launches = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).0.get(&prepared).cloned();
        let why = || DeviceError::Failed { doing: "run a graph", why: "it was not prepared".to_owned() };
        let launches = launches.ok_or_else(why)?;
        launches.iter().try_for_each(|(kernel, shape, arguments)| self.launch(kernel, shape, arguments))
    }

    fn forget(&self, prepared: Prepared) {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&prepared);
    }

    fn multiply(&self, product: &HalvesProduct) -> Result<bool, DeviceError> {
        if !self.library || !product.is_aligned() {
            return Ok(false);
        }
        // As BLAS has it: number (i, j) of a matrix lies at place i + j * leading.
        let &HalvesProduct { weights, x, out, factor, .. } = product;
        let [a, b, d] = product.layouts();
        if let Some(wrong) = [a, b, d].iter().find(|layout| layout.rows > layout.leading) {
            return Err(DeviceError::Failed { doing: "multiply", why: format!("columns overlap: {wrong:?}") });
        }
        let columns = |of: &[f32], Layout { rows, columns, leading }: Layout| -> Vec<Vec<f32>> {
            let column = |j: u32| of[(j * leading) as usize..][..rows as usize].to_vec();
            (0..columns).map(column).collect()
        };
        let (a, b) = (columns(&self.halves(weights, a)?, a), columns(&self.halves(x, b)?, b));
        for (j, b) in b.iter().enumerate() {
            let of_a = |a: &Vec<f32>| factor * a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let column: Vec<u8> = a.iter().flat_map(|a| of_a(a).to_ne_bytes()).collect();
            self.write(out + j as Address * Address::from(d.leading) * 4, &column)?;
        }
        Ok(true)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (at, bytes) in held {
            if let Ok(layout) = layout(bytes) {
                // SAFETY: it was allocated so, and nobody frees it any more.
                unsafe { std::alloc::dealloc(at as *mut u8, layout) };
            }
        }
    }
}
