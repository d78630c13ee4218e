//! Which vector and matrix instructions this processor has: looked for once, here, for all crates.
//!
//! [`Level`] lists the sets of instructions that kernels exist for. The environment variable [`VARIABLE`] lowers the
//! best one, for tests and for reports of faults; [`check`] says what is wrong with its value. [`vectorized`] compiles
//! plain code for the best set, and [`Amx`] multiplies matrices.

mod amx;
mod level;

pub use amx::{Amx, BLOCK_BYTES, DEPTH, SIDE};
pub use level::{InstructionsError, Level, VARIABLE, check, vectorized};
