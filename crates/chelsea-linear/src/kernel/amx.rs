//! AMX: products of many tokens, sixteen rows with sixteen tokens an instruction, in bf16 with f32 sums.
//!
//! Weights are opened from their tile to bf16 once for all tokens that pass, scale and min included,
//! which costs about as much as multiplying them with eighty tokens. Both operands lie in blocks of
//! 32 columns, 1 KiB each:
//!
//! ```text
//! tokens:  [16 tokens][32 columns] bf16
//! weights: [16 pairs of columns][16 rows][2] bf16
//! ```
//!
//! The compiler's own functions for these instructions are not stable, so they are written out; tile
//! registers live within one `asm!` block. Rounding is to nearest, ties away from zero for weights and to
//! even for tokens; `super::amx_tests` has the plain twin.

#![allow(unsafe_code)]

use super::avx512::{group_scales, super_scales, unpack};
use crate::blocks::Quant;
use crate::tile::{BLOCK, Layout, TILE, high_bytes, low_bytes, scale_bytes};
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Tokens of one operand.
pub(crate) const TOKENS: usize = 16;
/// Bytes of a block of either operand.
pub(crate) const BLOCK_BYTES: usize = 1024;

/// Products of an operand of tokens with one of rows, `[token][row]`.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Sums(pub [[f32; TILE]; TOKENS]);

/// Proof that this machine has the instructions and that this process may use them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Looked for, and asked of the operating system, once.
    pub fn detect() -> Option<Amx> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_instructions() && permitted()).then_some(Amx(()))
    }

    /// Writes up to 16 tokens, `[tokens][cols]`, as blocks; tokens and columns that do not exist are zeros.
    ///
    /// # Panics
    /// When `x` holds more than 16 tokens or `out` is no `cols / 32` blocks (rounded up).
    pub fn pack_tokens(self, x: &[f32], cols: usize, out: &mut [u8]) {
        assert!(x.len() <= TOKENS * cols && out.len() == cols.div_ceil(BLOCK) * BLOCK_BYTES);
        // SAFETY: the instructions are here.
        unsafe { pack_tokens(x, cols, out) }
    }

    /// Opens blocks `first..` of a tile of `blocks`, as many as `out` has room for.
    ///
    /// # Panics
    /// When the tile has no such blocks.
    pub fn open<Q: Quant>(self, tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
        assert!(tile.len() >= Layout::of::<Q>(blocks).bytes && first + out.len() / BLOCK_BYTES <= blocks);
        // SAFETY: the instructions are here; all blocks lie inside the tile.
        unsafe { open::<Q>(tile, blocks, first, out) }
    }

    /// Products of two times 16 tokens with two times 16 rows, in blocks: `sums[2 i + j]` are those of `tokens[i]`
    /// with `rows[j]`, added to what is there unless this is the `first` part of the columns. The processor stops
    /// the program if this thread has not called [`Amx::configure`].
    ///
    /// # Panics
    /// When an operand has another length than the others, or none.
    pub fn multiply(self, tokens: [&[u8]; 2], rows: [&[u8]; 2], sums: [&mut Sums; 4], first: bool) {
        let blocks = tokens[0].len() / BLOCK_BYTES;
        assert!(blocks > 0);
        assert!(tokens.iter().chain(&rows).all(|operand| operand.len() == blocks * BLOCK_BYTES));
        // SAFETY: by the assertions and the types; the instructions are here.
        unsafe { multiply(tokens.map(<[u8]>::as_ptr), rows.map(<[u8]>::as_ptr), blocks, sums, first) }
    }

    /// Shapes the tile registers of this thread for [`Amx::multiply`].
    pub fn configure(self) {
        // SAFETY: the instruction is here, and the configuration valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(readonly, nostack, preserves_flags)) }
    }

    /// Gives the tile registers back, so that switching threads is cheap again; after the last
    /// [`Amx::multiply`] for a while.
    pub fn release(self) {
        // SAFETY: the instruction is here; no tile register is in use between `asm!` blocks.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

fn has_instructions() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    if !(std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512bf16")
        && std::arch::is_x86_feature_detected!("avx512vnni")
        && std::arch::is_x86_feature_detected!("xsave"))
    {
        return false;
    }
    // SAFETY: machines with AVX-512 have CPUID leaf 7. (Newer compilers know, and call this safe.)
    #[allow(unused_unsafe)]
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    features & (BF16 | TILE) == BF16 | TILE
}

/// Linux hands out the large registers only to processes that ask.
fn permitted() -> bool {
    const PRCTL: i64 = 158;
    const REQUEST: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let answer: i64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) changes nothing but that permission; system
    // calls spoil rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") PRCTL => answer, in("rdi") REQUEST, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tile registers with 16 rows of 64 bytes.
static CONFIG: Config = Config {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// See [`Amx::multiply`].
///
/// # Safety
/// The operands must hold `blocks > 0` blocks; the process must be allowed to use AMX.
#[inline(always)]
unsafe fn multiply(tokens: [*const u8; 2], rows: [*const u8; 2], blocks: usize, sums: [&mut Sums; 4], first: bool) {
    let [c0, c1, c2, c3] = sums.map(|sums| &raw mut sums.0);
    // SAFETY: by the contract. Sums have 16 rows of 64 bytes, as all operands do.
    unsafe {
        asm!(
            "test {first:e}, {first:e}",
            "jz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c0} + {line}]",
            "tileloadd tmm1, [{c1} + {line}]",
            "tileloadd tmm2, [{c2} + {line}]",
            "tileloadd tmm3, [{c3} + {line}]",
            "3:",
            "tileloadd tmm4, [{a0} + {line}]",
            "tileloadd tmm6, [{b0} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {blocks}",
            "jnz 3b",
            "tilestored [{c0} + {line}], tmm0",
            "tilestored [{c1} + {line}], tmm1",
            "tilestored [{c2} + {line}], tmm2",
            "tilestored [{c3} + {line}], tmm3",
            blocks = inout(reg) blocks => _,
            first = in(reg) u32::from(first),
            line = in(reg) 64usize,
            a0 = inout(reg) tokens[0] => _,
            a1 = inout(reg) tokens[1] => _,
            b0 = inout(reg) rows[0] => _,
            b1 = inout(reg) rows[1] => _,
            c0 = in(reg) c0,
            c1 = in(reg) c1,
            c2 = in(reg) c2,
            c3 = in(reg) c3,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// See [`Amx::pack_tokens`].
///
/// # Safety
/// The machine must have the instructions that this function enables; `out` must hold all blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_tokens(x: &[f32], cols: usize, out: &mut [u8]) {
    let tokens = x.len() / cols;
    // Block by block: sixteen tokens are read side by side, and what is written lies in a row.
    for (b, out) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let first = b * BLOCK;
        let mask = u32::MAX >> (BLOCK - BLOCK.min(cols - first));
        for (t, out) in out.chunks_exact_mut(2 * BLOCK).enumerate() {
            let mask = if t < tokens { mask } else { 0 };
            let x = x.as_ptr().wrapping_add(t * cols + first);
            // SAFETY: loads are masked to the numbers that are there; the store fills `out`.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask as u16, x);
                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(16));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
    }
}

/// See [`Amx::open`].
///
/// # Safety
/// The machine must have the instructions that this function enables; the blocks must lie inside the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn open<Q: Quant>(tile: &[u8], blocks: usize, first: usize, out: &mut [u8]) {
    let layout = Layout::of::<Q>(blocks);
    let per_scales = Q::LEN / BLOCK;
    // SAFETY: the planes and scales of block `b < blocks` lie inside the tile by `layout`.
    unsafe {
        for (b, out) in (first..).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
            let scales = tile.as_ptr().add(layout.scales + b / per_scales * scale_bytes::<Q>());
            let (d, m) = super_scales::<Q>(scales);
            let group = group_scales::<Q>(scales, b % per_scales, d, m);
            let low = tile.as_ptr().add(b * low_bytes::<Q>());
            let codes = unpack::<Q>(low, tile.as_ptr().add(layout.high + b * high_bytes::<Q>()));
            // The zero of symmetric codes is part of what is subtracted.
            let zero = _mm512_set1_ps(Q::OFFSET as f32);
            let min = [
                _mm512_fmadd_ps(group.scale[0], zero, group.min[0]),
                _mm512_fmadd_ps(group.scale[1], zero, group.min[1]),
            ];
            let byte = _mm512_set1_epi32(0xff);
            let half = _mm512_set1_epi32(0x8000);
            for (s, &q) in codes.iter().enumerate() {
                let (scale, min) = (group.scale[s * 4 / Q::GROUP], min[s * 4 / Q::GROUP]);
                let weight = |q| {
                    let number = _mm512_fmsub_ps(_mm512_cvtepi32_ps(q), scale, min);
                    _mm512_add_epi32(_mm512_castps_si512(number), half)
                };
                let pair = |even, odd| {
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(weight(even)), weight(odd))
                };
                let a = pair(_mm512_and_si512(q, byte), _mm512_and_si512(_mm512_srli_epi32::<8>(q), byte));
                let b = pair(_mm512_and_si512(_mm512_srli_epi32::<16>(q), byte), _mm512_srli_epi32::<24>(q));
                let out = out.as_mut_ptr().add(s * 128);
                _mm512_storeu_si512(out.cast(), a);
                _mm512_storeu_si512(out.add(64).cast(), b);
            }
        }
    }
}

const _: () = assert!(TILE == 16 && BLOCK_BYTES == 2 * TILE * BLOCK);
