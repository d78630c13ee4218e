//! What kernels compute, written plainly: scalar twins that tests hold them against.
//!
//! Where a kernel's arithmetic is all whole numbers, or single sums and products in a fixed order, its twin gives the same
//! bits. Where it sums in an order that suits many threads, its twin sums in f64, and tests allow for the difference.

mod attention;
pub mod cluster;
mod fold;
pub mod linear;
mod page;
pub mod rows;

pub use attention::{Head, attend};
pub use fold::fold;
pub use page::{Entry, copy_entry, read_entry, write_entry};
