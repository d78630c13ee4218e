//! Products by cuBLASLt, where it is installed: it comes with CUDA's toolkit, and not with the driver.
//!
//! The library is looked for when a device is opened. Matrices are described to it as [`HalvesProduct::layouts`] has them, which
//! the emulator goes by, too. What it computes hangs on the sizes of a product alone: for each it is asked once which algorithm it
//! would take, for addresses that are multiples of [`HalvesProduct::ALIGNMENT`].

use crate::device::{Address, DeviceError, HalvesProduct, Layout};
use cudarc::cublaslt::{result, sys};
use cudarc::driver;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// The first version whose products of halves may be summed up in f32 by one name: CUDA 11's.
const OLDEST: usize = 11_000;

/// `CUBLAS_OP_T`, which the bindings of this library leave out.
const TRANSPOSED: i32 = 1;

/// Sizes whose algorithms are kept.
const MOST_SIZES: usize = 4096;

/// Why products of halves go without a library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLibrary {
    /// It is not installed.
    #[error("cuBLASLt was not found")]
    NotFound,
    /// It is too old.
    #[error("cuBLASLt is older than CUDA 11")]
    Old,
    /// It is there and does not start.
    #[error("cuBLASLt does not start: {0}")]
    Fails(String),
    /// There is no room for what it works in.
    #[error("there is no memory for cuBLASLt")]
    Memory,
}

/// Rows, tokens, columns, and stride.
type Sizes = [u32; 4];

/// cuBLASLt for one context.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    /// What algorithms work in, and its size in bytes.
    workspace: (Address, usize),
    /// Which algorithm is taken, or none, where the library has none.
    algorithms: Mutex<HashMap<Sizes, Option<sys::cublasLtMatmulAlgo_t>>>,
    version: usize,
}

impl Library {
    /// Starts the library for the context that is current, of a device of compute capability `major`.
    pub fn open(major: u32) -> Result<Self, NoLibrary> {
        // SAFETY: asks the system's loader for a library; what it runs when it is loaded is the library's.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoLibrary::NotFound);
        }
        // SAFETY: it takes nothing and returns a number, in all versions.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < OLDEST {
            return Err(NoLibrary::Old);
        }
        let handle = result::create_handle().map_err(|error| NoLibrary::Fails(error.to_string()))?;
        // What NVIDIA advises.
        let bytes = if major >= 9 { 32 << 20 } else { 4 << 20 };
        let algorithms = Mutex::default();
        // SAFETY: the library writes before it reads.
        match unsafe { driver::result::malloc_sync(bytes) } {
            Ok(at) => Ok(Library { handle, workspace: (at, bytes), algorithms, version }),
            Err(_) => {
                // SAFETY: a handle that nobody uses.
                let _ = unsafe { result::destroy_handle(handle) };
                Err(NoLibrary::Memory)
            }
        }
    }

    /// Its version, as people write it.
    pub fn version(&self) -> String {
        match self.version {
            // Here a major version is a thousand, and a minor one of 10 and more cannot be told from the next major one.
            ..100_000 => "11".to_owned(),
            version => format!("{}.{}", version / 10_000, version % 10_000 / 100),
        }
    }

    /// Enqueues a product; false if the library has no algorithm for it.
    pub fn multiply(&self, product: &HalvesProduct, stream: driver::sys::CUstream) -> Result<bool, DeviceError> {
        self.enqueue(product, stream)
            .map_err(|error| DeviceError::Failed { doing: "multiply by cuBLASLt", why: error.to_string() })
    }

    fn enqueue(&self, product: &HalvesProduct, stream: driver::sys::CUstream) -> Result<bool, result::CublasError> {
        let &HalvesProduct { weights, x, out, rows, tokens, columns, stride, factor } = product;
        let (halves, floats) = (sys::cudaDataType::CUDA_R_16F, sys::cudaDataType::CUDA_R_32F);
        let layout = |ty, Layout { rows, columns, leading }: Layout| {
            let layout = result::create_matrix_layout(ty, rows.into(), columns.into(), leading.into())?;
            Ok::<_, result::CublasError>(Owned(layout, result::destroy_matrix_layout))
        };
        let [a, b, d] = product.layouts();
        let (a, b, d) = (layout(halves, a)?, layout(halves, b)?, layout(floats, d)?);
        let of_floats = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, floats)?;
        let described = Owned(of_floats, result::destroy_matmul_desc);
        let transposed = TRANSPOSED;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: this attribute is 32 bits.
        unsafe { result::set_matmul_desc_attribute(described.0, attribute, (&raw const transposed).cast(), 4)? };
        let sizes = [rows, tokens, columns, stride];
        let Some(algorithm) = self.algorithm(sizes, (described.0, a.0, b.0, d.0))? else { return Ok(false) };
        let nothing = 0.0f32;
        // SAFETY: the descriptions are those of the three matrices, which the caller says lie there, and the algorithm is one for
        // them. Factors lie on the host, as is the rule, and are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                described.0,
                (&raw const factor).cast(),
                (&raw const nothing).cast(),
                weights as *const c_void,
                a.0,
                x as *const c_void,
                b.0,
                out as *const c_void,
                d.0,
                out as *mut c_void,
                d.0,
                &raw const algorithm,
                self.workspace.0 as *mut c_void,
                self.workspace.1,
                stream.cast(),
            )?;
        }
        Ok(true)
    }

    /// The algorithm for products of these sizes, if there is any.
    fn algorithm(
        &self,
        sizes: Sizes,
        (described, a, b, d): (
            sys::cublasLtMatmulDesc_t,
            sys::cublasLtMatrixLayout_t,
            sys::cublasLtMatrixLayout_t,
            sys::cublasLtMatrixLayout_t,
        ),
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>, result::CublasError> {
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = algorithms.get(&sizes) {
            return Ok(*algorithm);
        }
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let wishes = Owned(result::create_matmul_pref()?, result::destroy_matmul_pref);
        let most = self.workspace.1 as u64;
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: this attribute is 64 bits.
        unsafe { result::set_matmul_pref_attribute(wishes.0, attribute, (&raw const most).cast(), 8)? };
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            let bytes = HalvesProduct::ALIGNMENT;
            // SAFETY: these attributes are 32 bits.
            unsafe { result::set_matmul_pref_attribute(wishes.0, attribute, (&raw const bytes).cast(), 4)? };
        }
        // SAFETY: none of what is described was given back.
        let found = unsafe { result::get_matmul_algo_heuristic(self.handle, described, a, b, d, d, wishes.0) };
        let algorithm = match found {
            Ok(found) => Some(found.algo),
            Err(error) if error.0 == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => None,
            Err(error) => return Err(error),
        };
        if algorithms.len() >= MOST_SIZES {
            algorithms.clear();
        }
        algorithms.insert(sizes, algorithm);
        Ok(algorithm)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: its own, which nobody uses any longer; the device has made its context current.
        let _ = unsafe { driver::result::free_sync(self.workspace.0) };
        // SAFETY: as above.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A description that is given back when it is dropped.
struct Owned<T: Copy>(T, unsafe fn(T) -> Result<(), result::CublasError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the library made it, and it is given back once.
        let _ = unsafe { (self.1)(self.0) };
    }
}
