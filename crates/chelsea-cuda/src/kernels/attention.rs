//! Attention of single tokens over pages.

use super::launch;
use super::page::{MOST_DIM, PageType};
use crate::device::{Address, DeviceError, Launcher};
use bytemuck::{NoUninit, Pod, Zeroable};

/// Most query heads that share a KV head.
pub const MOST_GROUP: usize = 8;

/// A run of pages of one KV head, attended by the query heads of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Part {
    /// First query head of the group, counted over all tokens.
    pub query: u32,
    /// Place of its first page in the list of pages.
    pub first: u32,
    /// Pages; 0 for a part that fills a list up.
    pub count: u32,
    /// Entries at the start of the part's pages that the token does not see, its window being shorter.
    pub hidden: u32,
}

/// Arguments of [`decode`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Decode {
    /// The pool of pages.
    pub pool: Address,
    /// Numbers of pages, u32: those of each head follow one another.
    pub pages: Address,
    /// [`Part`]s.
    pub parts: Address,
    /// Queries, f32, `[tokens * q_heads][dim]`.
    pub queries: Address,
    /// What parts leave behind, f32, `[parts][part_numbers(dim)]`.
    pub sums: Address,
    /// Head size.
    pub dim: u32,
    /// Query heads of each KV head, at most [`MOST_GROUP`].
    pub group: u32,
    /// Factor on scores before `ln count` is added.
    pub scale: f32,
    /// Nothing.
    pub unused: u32,
}

/// Numbers that a part leaves behind, for a head size: for each query of a full group its weighted values, the largest score
/// times `log2 e`, and the sum of weights.
pub fn part_numbers(dim: usize) -> usize {
    MOST_GROUP * (dim + 2)
}

/// The bound on head sizes that a kernel was compiled for: 64, 128 or 256.
pub(super) fn bound<T>(dim: u32, names: [T; 3]) -> T {
    let [small, middle, large] = names;
    match dim {
        0..=64 => small,
        65..=128 => middle,
        _ => large,
    }
}

/// Attends the parts of some tokens, one each of their sequences. [`join`] makes outputs of what they leave behind.
///
/// # Errors
/// If the head size or the group is not among those that kernels take, or the device fails.
pub fn decode(device: &dyn Launcher, ty: PageType, parts: usize, arguments: &Decode) -> Result<(), DeviceError> {
    check_shape("attend", arguments.dim, arguments.group)?;
    let names = match ty {
        PageType::F16 => ["decode_f16_64", "decode_f16_128", "decode_f16_256"],
        PageType::Q8 => ["decode_q8_64", "decode_q8_128", "decode_q8_256"],
        PageType::K8V4 => ["decode_k8v4_64", "decode_k8v4_128", "decode_k8v4_256"],
    };
    let shared = 4 * part_numbers(arguments.dim as usize) * 4;
    launch(device, bound(arguments.dim, names), [parts as u32, 1], 128, shared, arguments)
}

/// Holds a caller to the shapes that kernels of attention take.
pub(super) fn check_shape(doing: &'static str, dim: u32, group: u32) -> Result<(), DeviceError> {
    let fits =
        dim > 0 && dim.is_multiple_of(16) && dim as usize <= MOST_DIM && (1..=MOST_GROUP as u32).contains(&group);
    let why = || {
        format!("kernels take head sizes of 16 to {MOST_DIM} and groups of 1 to {MOST_GROUP}, not {dim} and {group}")
    };
    if fits { Ok(()) } else { Err(DeviceError::Failed { doing, why: why() }) }
}

/// Arguments of [`join`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Join {
    /// What [`decode`] left behind.
    pub sums: Address,
    /// The first part of each KV head of each token, u32, and then the number of parts.
    pub firsts: Address,
    /// A logit of each query head that joins the sum of weights, f32, `[q_heads]`; or 0.
    pub sinks: Address,
    /// Outputs, f32, `[queries][dim]`; not written where they are rounded.
    pub out: Address,
    /// Outputs in bytes, `[queries][dim]`, for products; or 0. The head size is a multiple of 32 then.
    pub bytes: Address,
    /// Their scales and sums, f32, `[queries][dim / 32][4]`.
    pub scales: Address,
    /// Head size.
    pub dim: u32,
    /// Query heads of each KV head.
    pub group: u32,
    /// Query heads of a token.
    pub q_heads: u32,
    /// Nothing.
    pub unused: u32,
}

/// Joins the parts of `queries` query heads, of all tokens.
///
/// # Errors
/// If the device fails, or if the head size is none whose outputs are rounded.
pub fn join(device: &dyn Launcher, queries: usize, arguments: &Join) -> Result<(), DeviceError> {
    if arguments.bytes != 0 && !arguments.dim.is_multiple_of(32) {
        let why = format!("heads of {} numbers are no whole blocks of 32", arguments.dim);
        return Err(DeviceError::Failed { doing: "round", why });
    }
    let threads = arguments.dim.next_multiple_of(32).min(256);
    launch(device, "join_parts", [queries as u32, 1], threads, 0, arguments)
}

/// Where a KV head's entries lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Reach {
    /// Place of its first page in the list of pages.
    pub first: u32,
    /// Entries, those of the tokens that ask included.
    pub entries: u32,
}

/// Arguments of [`prefill`].
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub struct Prefill {
    /// The pool of pages.
    pub pool: Address,
    /// Numbers of pages, u32: those of each head follow one another.
    pub pages: Address,
    /// [`Reach`] of each KV head.
    pub reaches: Address,
    /// Queries, f32, `[tokens][stride]`, head by head. The tokens are the last entries of every head.
    pub queries: Address,
    /// A logit of each query head that joins the sum of weights, f32, or 0.
    pub sinks: Address,
    /// Outputs, f32, `[tokens][out_stride]`.
    pub out: Address,
    /// Head size.
    pub dim: u32,
    /// Query heads of each KV head, at most [`MOST_GROUP`].
    pub group: u32,
    /// Tokens of the sequence.
    pub tokens: u32,
    /// Numbers from one token's queries to the next one's.
    pub stride: u32,
    /// Numbers from one token's outputs to the next one's.
    pub out_stride: u32,
    /// Entries that a token sees, its own included; 0 for all.
    pub window: u32,
    /// Factor on scores before `ln count` is added.
    pub scale: f32,
    /// Nothing.
    pub unused: u32,
}

/// Attends several tokens of one sequence over `heads` KV heads: token `i` sees the entries up to its own.
///
/// # Errors
/// If the head size or the group is not among those that kernels take, or the device fails.
pub fn prefill(device: &dyn Launcher, ty: PageType, heads: usize, arguments: &Prefill) -> Result<(), DeviceError> {
    check_shape("attend", arguments.dim, arguments.group)?;
    let names = match ty {
        PageType::F16 => ["prefill_f16_64", "prefill_f16_128", "prefill_f16_256"],
        PageType::Q8 => ["prefill_q8_64", "prefill_q8_128", "prefill_q8_256"],
        PageType::K8V4 => ["prefill_k8v4_64", "prefill_k8v4_128", "prefill_k8v4_256"],
    };
    let most: usize = bound(arguments.dim, [64, 128, 256]);
    let rows = arguments.tokens * arguments.group;
    let shared = 4 * most / 16 * 32 * 16;
    launch(device, bound(arguments.dim, names), [rows.div_ceil(64), heads as u32], 128, shared, arguments)
}
