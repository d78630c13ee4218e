//! What tests of devices share.

use chelsea_cuda::Device;
use chelsea_cuda::driver::CudaDevice;
use chelsea_emulator::{Emulator, Schedule};
use std::sync::{Arc, OnceLock};

/// An emulated device, or the GPU whose number `CHELSEA_TEST_GPU` is (`cargo xtask gpu-check`).
pub fn device(schedule: Schedule) -> Arc<dyn Device> {
    static GPU: OnceLock<Arc<CudaDevice>> = OnceLock::new();
    match std::env::var("CHELSEA_TEST_GPU") {
        Ok(number) => GPU.get_or_init(|| Arc::new(CudaDevice::open(number.parse().unwrap()).unwrap())).clone(),
        Err(_) => Arc::new(Emulator::new(schedule)),
    }
}
