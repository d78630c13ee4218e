//! A GPU of NVIDIA's, by the driver that is installed.
//!
//! The driver's library is looked for when a device is asked for, never before: a program that finds none says so in one
//! line ([`Unavailable`]) and runs on the CPU. Kernels lie in this crate as machine code for several generations of GPUs;
//! nothing is compiled when it runs.
//!
//! Everything goes through one stream, so that work is done in the order in which it was asked for. Its context is made
//! current on whatever thread calls.

#![allow(unsafe_code)]

mod library;
mod unavailable;

pub use library::NoLibrary;
pub use unavailable::Unavailable;

use crate::device::{About, Address, Device, DeviceError, HalvesProduct, Launcher, Launches, Prepared, Shape};
use crate::kernels;
use cudarc::driver::{result, sys};
use library::Library;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, PoisonError};

/// Oldest compute capability that kernels are made for: the first with asynchronous copies and bf16.
pub const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// Dynamic shared memory of a block that every device gives without being asked.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A GPU.
pub struct CudaDevice {
    about: About,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: Mutex<HashMap<&'static str, Function>>,
    library: Result<Library, NoLibrary>,
}

/// A kernel, and how much dynamic shared memory it may be started with.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    shared: u32,
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("about", &self.about).finish_non_exhaustive()
    }
}

// SAFETY: the driver's handles may be used by any thread on which their context is current, which every call sees to.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; the driver keeps calls of several threads apart, and the only state beside it is behind a lock.
unsafe impl Sync for CudaDevice {}

/// Starts the driver and returns how many devices it finds.
///
/// # Errors
/// If there is no driver, it does not start, or it finds none.
pub fn count() -> Result<usize, Unavailable> {
    // SAFETY: asks the system's loader for a library; what it runs when it is loaded is the driver's.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    let no_device = sys::CUresult::CUDA_ERROR_NO_DEVICE;
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == no_device => return Err(Unavailable::NoDevice),
        Err(error) => return Err(Unavailable::Driver(error.to_string())),
    }
    match result::device::get_count() {
        Ok(0) => Err(Unavailable::NoDevice),
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => Err(Unavailable::Driver(error.to_string())),
    }
}

/// What device `index` is, without taking hold of it.
///
/// # Errors
/// If there is no driver or no such device.
pub fn about(index: usize) -> Result<About, Unavailable> {
    handle(index).map(|(_, about)| about)
}

fn handle(index: usize) -> Result<(sys::CUdevice, About), Unavailable> {
    let found = count()?;
    let missing = || Unavailable::NoSuchDevice { asked: index, found };
    let ordinal = i32::try_from(index).map_err(|_| missing())?;
    if index >= found {
        return Err(missing());
    }
    let failed = |error: result::DriverError| Unavailable::Driver(error.to_string());
    let device = result::device::get(ordinal).map_err(failed)?;
    let name = result::device::get_name(device).map_err(failed)?;
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which: Attribute| {
        // SAFETY: the handle came from the driver a moment ago.
        unsafe { result::device::get_attribute(device, which) }.map(|x| u32::try_from(x).unwrap_or(0)).map_err(failed)
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(failed)?;
    Ok((device, About { name, capability, memory, processors }))
}

impl CudaDevice {
    /// Takes hold of device `index`: checks that kernels are made for it, hands them to the driver, and has them compute
    /// something known.
    ///
    /// # Errors
    /// [`Unavailable`], which says why not.
    pub fn open(index: usize) -> Result<Self, Unavailable> {
        let (handle, about) = handle(index)?;
        if about.capability < LEAST_CAPABILITY {
            return Err(Unavailable::Capability { name: about.name, capability: about.capability });
        }
        let failed = |error: result::DriverError| Unavailable::Driver(error.to_string());
        // SAFETY: the handle came from the driver a moment ago. The context is kept until the process ends: releasing it
        // while other devices of this process have it would take their memory from under them.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(failed)?;
        // SAFETY: a context that was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(failed)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        let refused = |why: String| Unavailable::Program { name: about.name.clone(), why };
        let program = kernels::program().map_err(|error| refused(error.to_string()))?;
        // SAFETY: the image is a whole fatbin, which says its own length; the driver copies what it takes of it.
        let module = unsafe { result::module::load_data(program.as_ptr().cast::<c_void>()) }
            .map_err(|error| refused(error.to_string()))?;
        let library = Library::open(about.capability.0);
        let device = CudaDevice { about, context, stream, module, functions: Mutex::default(), library };
        self_test(&device)
            .map_err(|why| Unavailable::SelfTest { name: device.about.name.clone(), why: why.to_string() })?;
        Ok(device)
    }

    /// Bytes of its memory that nobody has taken.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn free_memory(&self) -> Result<usize, DeviceError> {
        self.enter("tell its free memory")?;
        result::mem_get_info().map(|(free, _)| free).map_err(failed("tell its free memory"))
    }

    /// The version of cuBLASLt that multiplies for it.
    ///
    /// # Errors
    /// [`NoLibrary`], which says why kernels of this crate do so instead.
    pub fn library(&self) -> Result<String, &NoLibrary> {
        self.library.as_ref().map(Library::version)
    }

    /// Makes the context current on this thread.
    fn enter(&self, doing: &'static str) -> Result<(), DeviceError> {
        // SAFETY: the context was retained for as long as the process lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed(doing))
    }

    /// The kernel of this name, ready for so much dynamic shared memory.
    fn function(&self, kernel: &'static str, shared: u32) -> Result<sys::CUfunction, DeviceError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get_mut(kernel) {
            Some(function) => function,
            None => {
                let name = CString::new(kernel).map_err(|_| DeviceError::Kernel(kernel))?;
                // SAFETY: the module is never unloaded.
                let handle = unsafe { result::module::get_function(self.module, name) }
                    .map_err(|_| DeviceError::Kernel(kernel))?;
                functions.entry(kernel).or_insert(Function { handle, shared: PLAIN_SHARED_BYTES })
            }
        };
        if shared > function.shared {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
            // SAFETY: a handle of this module.
            unsafe { result::function::set_function_attribute(function.handle, most, bytes) }
                .map_err(failed("give a kernel its shared memory"))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }

    /// Adds a node for each launch to a graph, each behind the one before.
    fn chain(&self, graph: sys::CUgraph, launches: &Launches) -> Result<(), DeviceError> {
        let mut before: Option<sys::CUgraphNode> = None;
        for (kernel, shape, arguments) in launches.iter() {
            let mut parameters = [arguments.as_ptr().cast::<c_void>().cast_mut()];
            let node = sys::CUDA_KERNEL_NODE_PARAMS_v2 {
                func: self.function(kernel, shape.shared)?,
                gridDimX: shape.grid[0],
                gridDimY: shape.grid[1],
                gridDimZ: shape.grid[2],
                blockDimX: shape.block[0],
                blockDimY: shape.block[1],
                blockDimZ: shape.block[2],
                sharedMemBytes: shape.shared,
                kernelParams: parameters.as_mut_ptr(),
                extra: std::ptr::null_mut(),
                kern: std::ptr::null_mut(),
                ctx: std::ptr::null_mut(),
            };
            let (dependencies, count) = before.as_ref().map_or((std::ptr::null(), 0), |before| (&raw const *before, 1));
            let mut added = std::ptr::null_mut();
            // SAFETY: a graph and a function of this context, which is current. The driver copies what `node` points to before
            // the call returns.
            unsafe { sys::cuGraphAddKernelNode_v2(&mut added, graph, dependencies, count, &node) }
                .result()
                .map_err(failed("prepare a graph"))?;
            before = Some(added);
        }
        Ok(())
    }
}

/// Has the device add up something known.
fn self_test(device: &CudaDevice) -> Result<(), DeviceError> {
    // Halves of whole numbers, whose sums are exact.
    let numbers: Vec<f32> = (0..1000).map(|i| (i * 37 % 1009) as f32 / 2.0).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&numbers);
    let at = device.allocate(2 * bytes.len())?;
    let other = at + bytes.len() as Address;
    let mut found = vec![0.0f32; numbers.len()];
    let count = numbers.len() as u32;
    let tested = device
        .write(at, bytes)
        .and_then(|()| device.copy(at, other, bytes.len()))
        .and_then(|()| kernels::rows::add(device, &kernels::rows::Add { x: at, y: other, count, period: 500 }))
        .and_then(|()| device.read(at, bytemuck::cast_slice_mut(&mut found)));
    device.free(at, 2 * bytes.len());
    tested?;
    let right = found.iter().enumerate().all(|(i, &x)| x == numbers[i] + numbers[i % 500]);
    let why = "sums are not what they should be";
    if right { Ok(()) } else { Err(DeviceError::Failed { doing: "add", why: why.into() }) }
}

/// What the driver says of a call, as an error of this crate.
fn failed(doing: &'static str) -> impl Fn(result::DriverError) -> DeviceError {
    move |error| DeviceError::Failed { doing, why: error.to_string() }
}

impl Launcher for CudaDevice {
    fn launch(&self, kernel: &'static str, shape: Shape, arguments: &[u8]) -> Result<(), DeviceError> {
        self.enter("launch")?;
        let function = self.function(kernel, shape.shared)?;
        let [gx, gy, gz] = shape.grid;
        let [bx, by, bz] = shape.block;
        let mut parameters = [arguments.as_ptr().cast::<c_void>().cast_mut()];
        // SAFETY: a handle of this module. The kernel takes one struct, whose bytes the driver copies out of `arguments`
        // before the call returns; that they are the right struct is what `kernels` sees to.
        unsafe {
            result::launch_kernel(function, (gx, gy, gz), (bx, by, bz), shape.shared, self.stream, &mut parameters)
        }
        .map_err(failed("launch a kernel"))
    }
}

impl Device for CudaDevice {
    fn about(&self) -> &About {
        &self.about
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        self.enter("allocate")?;
        let out_of_memory = sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        // SAFETY: nobody reads the memory as anything but bytes before it was written.
        unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 == out_of_memory {
            true => DeviceError::Memory { bytes },
            false => failed("allocate")(error),
        })
    }

    fn free(&self, at: Address, _bytes: usize) {
        if self.synchronize().is_ok() {
            // SAFETY: an address of `allocate`, given back once, which nothing that was asked for uses any longer. A failure
            // means that the device is lost, and its memory with it.
            let _ = unsafe { result::free_sync(at) };
        }
    }

    fn write(&self, at: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.enter("write")?;
        // SAFETY: the caller's range lies in an allocation. Pageable memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(at, bytes, self.stream) }.map_err(failed("write"))
    }

    fn read(&self, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.enter("read")?;
        // SAFETY: the caller's range lies in an allocation, and `bytes` is not touched before the stream is done.
        unsafe { result::memcpy_dtoh_async(bytes, at, self.stream) }.map_err(failed("read"))?;
        self.synchronize()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.enter("copy")?;
        // SAFETY: both ranges lie in allocations, apart from one another.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(failed("copy"))
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.enter("fill")?;
        // SAFETY: the range lies in an allocation.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }.map_err(failed("fill"))
    }

    fn prepare(&self, launches: &Launches) -> Result<Prepared, DeviceError> {
        self.enter("prepare a graph")?;
        let failed = failed("prepare a graph");
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result().map_err(&failed)?;
        let chained = self.chain(graph, launches).and_then(|()| {
            // SAFETY: a graph of this context.
            unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.map_err(&failed)
        });
        // SAFETY: as above; what was instantiated does not need it any longer.
        let _ = unsafe { result::graph::destroy(graph) };
        chained.map(|executable| executable as Prepared)
    }

    fn replay(&self, prepared: Prepared) -> Result<(), DeviceError> {
        self.enter("run a graph")?;
        // SAFETY: `prepare` made it for this context, and it was not forgotten.
        unsafe { result::graph::launch(prepared as sys::CUgraphExec, self.stream) }.map_err(failed("run a graph"))
    }

    fn forget(&self, prepared: Prepared) {
        if self.enter("forget a graph").is_ok() {
            // SAFETY: as above, and nobody replays it any more. One that runs is ended first by the driver.
            let _ = unsafe { result::graph::exec_destroy(prepared as sys::CUgraphExec) };
        }
    }

    fn multiply(&self, product: &HalvesProduct) -> Result<bool, DeviceError> {
        let Ok(library) = &self.library else { return Ok(false) };
        if !product.is_aligned() {
            return Ok(false);
        }
        self.enter("multiply")?;
        library.multiply(product, self.stream)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.enter("finish")?;
        // SAFETY: a stream of this context.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("finish"))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.enter("close").is_ok() {
            // SAFETY: a stream of this context, which nobody uses any longer. The module stays with the context.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so_and_nothing_panics() {
        match count() {
            Err(error) => {
                assert_eq!(CudaDevice::open(0).unwrap_err(), error);
                assert_eq!(about(3).unwrap_err(), error);
                assert!(!error.to_string().contains('\n'));
            }
            Ok(found) => assert!(matches!(about(found), Err(Unavailable::NoSuchDevice { .. }))),
        }
    }

    #[test]
    fn without_a_driver_there_is_no_library_of_products_and_nothing_panics() {
        // Whether it is installed or not.
        if count().is_err() {
            let why = Library::open(9).err().expect("there is nothing to multiply on").to_string();
            assert!(why.starts_with("cuBLASLt ") && !why.contains('\n'), "{why}");
        }
    }
}
