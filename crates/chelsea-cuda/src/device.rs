//! What this crate asks of a device: memory with addresses, and kernels that are called by name.
//!
//! Work is done in the order in which it is asked for (one stream). [`Device::read`] and [`Device::synchronize`] wait; all
//! other calls may return before the device is done, and say at a later call what went wrong.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;

/// An address in a device's memory.
pub type Address = u64;

/// How many threads a kernel is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in each of three directions.
    pub grid: [u32; 3],
    /// Threads of a block in each of three directions.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block beyond what the kernel declares.
    pub shared: u32,
}

impl Shape {
    /// `blocks` blocks of `threads` threads, in one direction.
    pub fn line(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its name, as its maker writes it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of its memory.
    pub memory: usize,
    /// Multiprocessors: how many blocks run at the same time, at least.
    pub processors: u32,
}

/// What a device refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no room for an allocation.
    #[error("the GPU has no room for {bytes} more bytes")]
    Memory {
        /// How much was asked for.
        bytes: usize,
    },
    /// No kernel has this name.
    #[error("the GPU's program has no kernel {0:?}")]
    Kernel(&'static str),
    /// A call failed.
    #[error("the GPU failed to {doing}: {why}")]
    Failed {
        /// What was asked for.
        doing: &'static str,
        /// What the driver says.
        why: String,
    },
}

/// Whatever takes launches of kernels: a device, which enqueues them, or a [`Recorder`], which lists them.
pub trait Launcher {
    /// Takes the launch of a kernel. `arguments` are the bytes of the one `#[repr(C)]` struct that it takes by value.
    ///
    /// # Errors
    /// Of a device: if there is no such kernel, if it does not take this shape, or if the device failed.
    fn launch(&self, kernel: &'static str, shape: Shape, arguments: &[u8]) -> Result<(), DeviceError>;
}

/// A device: memory with addresses, and kernels that are called by name.
pub trait Device: Launcher + Debug + Send + Sync {
    /// What it is.
    fn about(&self) -> &About;

    /// Memory of this many bytes, aligned to 256, with anything in it.
    ///
    /// # Errors
    /// If there is no room.
    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError>;

    /// Gives an allocation of `bytes` bytes back, once the device is done with what was asked of it before.
    fn free(&self, at: Address, bytes: usize);

    /// Writes host memory to the device. `bytes` may be changed or freed after the call.
    ///
    /// # Errors
    /// If the device failed.
    fn write(&self, at: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Reads the device's memory; waits for everything that was asked for before.
    ///
    /// # Errors
    /// If the device failed.
    fn read(&self, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies within the device's memory. The two places do not overlap.
    ///
    /// # Errors
    /// If the device failed.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// If the device failed.
    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Makes launches ready to be enqueued together, in their order, any number of times: see [`Graph`]. What is kept of them
    /// are their shapes and arguments; what lies at the addresses among those is read when they run.
    ///
    /// # Errors
    /// As [`Launcher::launch`], for any of them.
    fn prepare(&self, launches: &Launches) -> Result<Prepared, DeviceError>;

    /// Enqueues launches that were prepared.
    ///
    /// # Errors
    /// If the device failed.
    fn replay(&self, prepared: Prepared) -> Result<(), DeviceError>;

    /// Forgets launches that were prepared. Those that were enqueued still run.
    fn forget(&self, prepared: Prepared);

    /// Forms a product by a library of the device's maker. Returns whether it did: where there is none, or it does not take
    /// such a product ([`HalvesProduct::is_aligned`], among others), nothing was done. The bits of a row may hang on all
    /// sizes of the product.
    ///
    /// # Errors
    /// If the device failed.
    fn multiply(&self, product: &HalvesProduct) -> Result<bool, DeviceError>;

    /// Waits for everything that was asked for.
    ///
    /// # Errors
    /// If any of it failed.
    fn synchronize(&self) -> Result<(), DeviceError>;
}

/// A matrix as BLAS describes one, column after column: number `(i, j)` lies at place `i + j * leading`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// Places from the start of a column to that of the next, at least as many as rows.
    pub leading: u32,
}

/// A product of matrices of 16-bit numbers: `out = factor (x W^T)`, with sums in f32.
///
/// Here, rows lie one after the other; [`HalvesProduct::layouts`] says what the same memory is to a library.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HalvesProduct {
    /// Weights, f16, `[rows][columns]`.
    pub weights: Address,
    /// Tokens, f16, `[tokens][columns]`.
    pub x: Address,
    /// Outputs, f32, `[tokens][stride]`, of which the first `rows` of each token are written.
    pub out: Address,
    /// Outputs of a token.
    pub rows: u32,
    /// Tokens.
    pub tokens: u32,
    /// Numbers of a token.
    pub columns: u32,
    /// Numbers from the outputs of a token to those of the next.
    pub stride: u32,
    /// What sums are multiplied by.
    pub factor: f32,
}

impl HalvesProduct {
    /// The product as BLAS has it, `D = factor (A^T B)`: `A` are the weights, `B` the tokens and `D` the outputs, whose columns
    /// are the rows here. Of the first, so, it is the transpose that is multiplied (`CUBLAS_OP_T`), of the second it is not.
    pub fn layouts(&self) -> [Layout; 3] {
        let &Self { rows, tokens, columns, stride, .. } = self;
        let of_rows = |count: u32| Layout { rows: columns, columns: count, leading: columns };
        [of_rows(rows), of_rows(tokens), Layout { rows, columns: tokens, leading: stride }]
    }

    /// What addresses, and rows of all matrices, begin at multiples of where a library is to form a product, in bytes.
    pub const ALIGNMENT: u32 = 16;

    /// Whether they do.
    pub fn is_aligned(&self) -> bool {
        let &Self { weights, x, out, columns, stride, .. } = self;
        let rows = [u64::from(columns) * 2, u64::from(stride) * 4];
        [weights, x, out].into_iter().chain(rows).all(|at| at.is_multiple_of(Self::ALIGNMENT.into()))
    }
}

/// Launches in the order in which they were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launches {
    /// Kernel, shape, and where its arguments end.
    list: Vec<(&'static str, Shape, usize)>,
    arguments: Vec<u8>,
}

impl Launches {
    /// Kernel, shape and arguments of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Shape, &[u8])> {
        let starts = std::iter::once(0).chain(self.list.iter().map(|launch| launch.2));
        self.list.iter().zip(starts).map(|(&(kernel, shape, end), start)| (kernel, shape, &self.arguments[start..end]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Lists launches instead of enqueuing them.
#[derive(Debug, Default)]
pub struct Recorder(RefCell<Launches>);

impl Recorder {
    /// What it was given.
    pub fn into_launches(self) -> Launches {
        self.0.into_inner()
    }
}

impl Launcher for Recorder {
    fn launch(&self, kernel: &'static str, shape: Shape, arguments: &[u8]) -> Result<(), DeviceError> {
        let Launches { list, arguments: all } = &mut *self.0.borrow_mut();
        all.extend_from_slice(arguments);
        list.push((kernel, shape, all.len()));
        Ok(())
    }
}

/// What a device knows launches by that it prepared.
pub type Prepared = u64;

/// Launches that a device has made ready to be enqueued together, which takes the host and the device less time than one
/// launch after the other. They are forgotten when this is dropped.
#[derive(Debug)]
pub struct Graph {
    device: Arc<dyn Device>,
    prepared: Prepared,
}

impl Graph {
    /// Has a device prepare these launches.
    ///
    /// # Errors
    /// As [`Device::prepare`].
    pub fn new(device: &Arc<dyn Device>, launches: &Launches) -> Result<Self, DeviceError> {
        Ok(Graph { prepared: device.prepare(launches)?, device: Arc::clone(device) })
    }

    /// Enqueues them.
    ///
    /// # Errors
    /// If the device failed.
    pub fn replay(&self) -> Result<(), DeviceError> {
        self.device.replay(self.prepared)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.forget(self.prepared);
    }
}

/// An allocation that is given back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    device: Arc<dyn Device>,
    at: Address,
    bytes: usize,
}

impl Buffer {
    /// Memory of this many bytes, with anything in it.
    ///
    /// # Errors
    /// If there is no room.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        let at = device.allocate(bytes)?;
        Ok(Self { device: Arc::clone(device), at, bytes })
    }

    /// Memory with these values in it.
    ///
    /// # Errors
    /// If there is no room, or if the device failed.
    pub fn with<T: bytemuck::NoUninit>(device: &Arc<dyn Device>, values: &[T]) -> Result<Self, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = Self::new(device, bytes.len())?;
        device.write(buffer.at, bytes)?;
        Ok(buffer)
    }

    /// Where it begins.
    pub fn at(&self) -> Address {
        self.at
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device that it lies on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Its first `count` values; waits for everything that was asked for before.
    ///
    /// # Errors
    /// If the device failed.
    ///
    /// # Panics
    /// If it is smaller than that.
    pub fn values<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, count: usize) -> Result<Vec<T>, DeviceError> {
        assert!(count * size_of::<T>() <= self.bytes, "a buffer is read beyond its end");
        let mut values = vec![T::zeroed(); count];
        self.device.read(self.at, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.free(self.at, self.bytes);
    }
}
