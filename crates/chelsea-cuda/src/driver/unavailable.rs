//! Why there is no GPU to run on, each in one line.

use super::LEAST_CAPABILITY;

/// Why there is no GPU to run on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The driver's library is not installed.
    #[error("no NVIDIA driver is installed (libcuda was not found)")]
    NoDriver,
    /// The driver is there and does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Driver(String),
    /// There is a driver, and nothing for it to drive.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// No device has this number.
    #[error("there is no GPU {asked}: the driver finds {found}, numbered from 0")]
    NoSuchDevice {
        /// Which one was asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The device is too old.
    #[error("{name} has compute capability {}.{}; kernels are made for {}.{} and later", capability.0, capability.1,
        LEAST_CAPABILITY.0, LEAST_CAPABILITY.1)]
    Capability {
        /// The device.
        name: String,
        /// What it has.
        capability: (u32, u32),
    },
    /// The driver does not take the kernels.
    #[error("{name} does not take the kernels: {why}; a driver of version 525 or later is needed")]
    Program {
        /// The device.
        name: String,
        /// What the driver says.
        why: String,
    },
    /// The device computes something else than it should.
    #[error("{name} failed its self-test: {why}")]
    SelfTest {
        /// The device.
        name: String,
        /// What went wrong.
        why: String,
    },
}
