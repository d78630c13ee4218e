//! The instructions, and the permission to use them.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// Whether the matrix instructions and BF16 are here, on a machine with [`crate::Level::Avx512Vnni`].
pub(crate) fn available() -> bool {
    has_instructions() && permitted()
}

fn has_instructions() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    if !is_x86_feature_detected!("avx512bf16") {
        return false;
    }
    // SAFETY: machines with AVX-512 have CPUID leaf 7. (Newer compilers know, and call this safe.)
    #[allow(unused_unsafe)]
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    features & (BF16 | TILE) == BF16 | TILE
}

/// Linux hands out the large registers only to processes that ask. A kernel that does not know them, or a
/// hypervisor that hides them, refuses.
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

/// All eight registers with 16 rows of 64 bytes.
static CONFIG: Config = Config {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// # Safety
/// The instructions are available.
#[inline(always)]
pub(crate) unsafe fn configure() {
    // SAFETY: by the contract; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(readonly, nostack, preserves_flags)) }
}

/// # Safety
/// The instructions are available.
#[inline(always)]
pub(crate) unsafe fn release() {
    // SAFETY: by the contract; no register holds anything between two products.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// Adds the products of two left blocks with two right ones to the sums; left ones are then in registers 4 and 5.
macro_rules! four_products {
    () => {
        "tileloadd tmm4, [{a0} + {line}]
        tileloadd tmm6, [{b0} + {line}]
        tdpbf16ps tmm0, tmm4, tmm6
        tileloadd tmm7, [{b1} + {line}]
        tdpbf16ps tmm1, tmm4, tmm7
        tileloadd tmm5, [{a1} + {line}]
        tdpbf16ps tmm2, tmm5, tmm6
        tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Four squares of sums in registers 0 to 3, from zero or from memory; the lines of code that are given, once for
/// every block, with the sides of operands in `a0`, `a1`, `b0` and `b1` and the bytes of their rows in `line`; and
/// the sums back to memory.
macro_rules! for_each_block {
    (
        $left:ident, $right:ident, $blocks:ident, $sums:ident, $stride:ident, $fresh:ident,
        [$($before:expr),*], [$($code:expr),* $(,)?] $(, $scratch:ident)?
    ) => {
        asm!(
            "test {line:e}, {line:e}",
            "jz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c0} + {stride}]",
            "tileloadd tmm1, [{c1} + {stride}]",
            "tileloadd tmm2, [{c2} + {stride}]",
            "tileloadd tmm3, [{c3} + {stride}]",
            "3:",
            "mov {line:e}, 64",
            $($before,)*
            "4:",
            $($code,)*
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {blocks}",
            "jnz 4b",
            "tilestored [{c0} + {stride}], tmm0",
            "tilestored [{c1} + {stride}], tmm1",
            "tilestored [{c2} + {stride}], tmm2",
            "tilestored [{c3} + {stride}], tmm3",
            blocks = inout(reg) $blocks => _,
            // Whether to begin from zero; after the branch the bytes of an operand's row.
            line = inout(reg) u64::from($fresh) => _,
            $($scratch = out(reg) _,)?
            stride = in(reg) $stride,
            a0 = inout(reg) $left[0] => _,
            a1 = inout(reg) $left[1] => _,
            b0 = inout(reg) $right[0] => _,
            b1 = inout(reg) $right[1] => _,
            c0 = in(reg) $sums[0],
            c1 = in(reg) $sums[1],
            c2 = in(reg) $sums[2],
            c3 = in(reg) $sums[3],
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

/// # Safety
/// See [`crate::Amx::multiply`]; operands hold `blocks > 0` blocks.
#[inline(always)]
pub(crate) unsafe fn multiply(
    left: [*const u8; 2],
    right: [*const u8; 2],
    blocks: usize,
    sums: [*mut f32; 4],
    stride: usize,
    fresh: bool,
) {
    // SAFETY: by the contract.
    unsafe {
        for_each_block!(left, right, blocks, sums, stride, fresh, [], [four_products!(),]);
    }
}

/// # Safety
/// See [`crate::Amx::multiply_split`]; operands hold `blocks > 0` blocks twice.
#[inline(always)]
pub(crate) unsafe fn multiply_split(
    left: [*const u8; 2],
    right: [*const u8; 2],
    blocks: usize,
    sums: [*mut f32; 4],
    stride: usize,
    fresh: bool,
) {
    // First parts with first parts, first with second, second with first; `half` is how far second parts lie from
    // first ones.
    // SAFETY: by the contract.
    unsafe {
        for_each_block!(
            left,
            right,
            blocks,
            sums,
            stride,
            fresh,
            ["mov {half}, {blocks}", "shl {half}, 10"],
            [
                four_products!(),
                "add {b0}, {half}",
                "add {b1}, {half}",
                "tileloadd tmm6, [{b0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "sub {b0}, {half}",
                "sub {b1}, {half}",
                "add {a0}, {half}",
                "add {a1}, {half}",
                four_products!(),
                "sub {a0}, {half}",
                "sub {a1}, {half}",
            ],
            half
        );
    }
}

/// # Safety
/// See [`crate::Amx::multiply_left_split`]; left operands hold `blocks > 0` blocks twice, right ones once.
#[inline(always)]
pub(crate) unsafe fn multiply_left_split(
    left: [*const u8; 2],
    right: [*const u8; 2],
    blocks: usize,
    sums: [*mut f32; 4],
    stride: usize,
    fresh: bool,
) {
    // First parts, then second ones with the same right blocks, which are in registers 6 and 7 still.
    // SAFETY: by the contract.
    unsafe {
        for_each_block!(
            left,
            right,
            blocks,
            sums,
            stride,
            fresh,
            ["mov {half}, {blocks}", "shl {half}, 10"],
            [
                four_products!(),
                "add {a0}, {half}",
                "add {a1}, {half}",
                "tileloadd tmm4, [{a0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "sub {a0}, {half}",
                "sub {a1}, {half}",
            ],
            half
        );
    }
}
