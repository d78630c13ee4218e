//! Caches and forward passes in the memory of a GPU.
//!
//! Everything here is written against one trait, [`Device`]: memory with addresses, and kernels that are called by name.

pub mod kernels;
pub mod twins;

mod cache;
mod device;
pub mod driver;
mod model;

pub use cache::{Clusters, CudaBackend, CudaStore};
pub use device::{
    About, Address, Buffer, Device, DeviceError, Graph, HalvesProduct, Launcher, Launches, Layout, Prepared, Recorder,
    Shape,
};
pub use model::{CudaModel, CudaWeights, ModelRefused};
