//! Dot products of stored bytes and 16-bit factors, and their implementations.
//!
//! A *word* is four bytes without a sign, as [`page`](crate::page) stores them; a *factor* is a whole number of 16 bits
//! with one. A step multiplies the words of [`Simd::LANES`] columns by the same four factors and adds the four products
//! up in each column. All sums are exact, so every implementation gives the same bits. How factors lie in memory is each
//! one's own business: two words for four of them.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

use super::simd::Simd;
use crate::TILE;
use crate::convert::fives;
use crate::page::Byte;

/// Bytes of a word, and factors that belong to it.
pub(super) const WORD: usize = Byte::WORD;

/// The largest factor: both of its bytes have a sign where it is cut into two.
pub(super) const LARGEST: f32 = 32_512.0;

/// Words of a group of keys in 5 bits: so many steps share their bytes.
pub(super) const FIVES: usize = fives::GROUP / WORD;

/// Four factors in the form that an implementation wants them.
pub(super) type Four = [u32; 2];

/// What can be done with words, beside what [`Simd`] does with floats.
///
/// # Safety
/// As of [`Simd`]; words are read at any alignment.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Dots: Copy {
    /// The floats of the same machine.
    type S: Simd;
    /// [`Simd::LANES`] words.
    type Words: Copy;
    /// As many sums.
    type Sum: Copy;
    /// Registers that a sum takes.
    const SUM_REGISTERS: usize;
    /// Registers that words take.
    const WORD_REGISTERS: usize;
    /// What [`Dots::load`] takes from every byte.
    const TAKEN: i32 = 0;

    /// Runs `kernel` compiled for this instruction set.
    unsafe fn run<K: DotKernel>(kernel: K);

    /// Words of bytes.
    unsafe fn load(at: *const u8) -> Self::Words;
    /// Words of half bytes: the low ones for part 0, the high ones for part 1.
    unsafe fn load_halves(at: *const u8, part: usize) -> Self::Words;
    /// Words of a group of keys in 5 bits ([`fives`]), whose first line has those of this vector at `at`.
    unsafe fn load_fives<const PART: usize>(at: *const u8) -> Self::Words;
    unsafe fn zero() -> Self::Sum;
    /// `sum + words . factors`, modulo 2^32.
    unsafe fn dot(sum: Self::Sum, words: Self::Words, factors: *const Four) -> Self::Sum;
    /// The sums less `less`, modulo 2^32.
    unsafe fn finish(sum: Self::Sum, less: i32) -> <Self::S as Simd>::V;
    /// Four factors as they lie in memory.
    fn four(factors: [i16; WORD]) -> Four;

    /// Writes [`Simd::LANES`] whole numbers, of at most [`LARGEST`], as factors.
    #[inline(always)]
    unsafe fn store(numbers: <Self::S as Simd>::V, at: *mut Four) {
        let mut all = [0.0f32; TILE];
        // SAFETY: a vector has at most TILE lanes, and the caller has room for the factors of one.
        unsafe {
            Self::S::store(all.as_mut_ptr(), numbers);
            for (i, four) in all[..Self::S::LANES].chunks_exact(WORD).enumerate() {
                at.add(i).write(Self::four([four[0] as i16, four[1] as i16, four[2] as i16, four[3] as i16]));
            }
        }
    }
}

/// Where the halves of bytes of a part of a group begin, and where the bits that they lack.
#[inline(always)]
fn fives_at<const PART: usize>(at: *const u8) -> [*const u8; 2] {
    [PART / 2, fives::LINES - 1].map(|line| at.wrapping_add(line * TILE * WORD))
}

/// Something to run with an instruction set enabled.
pub(super) trait DotKernel {
    /// # Safety
    /// `D`'s instruction set is available.
    unsafe fn run<D: Dots>(self);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Isa;

    /// Sums of `words` times `factors`, as they are defined, and as each implementation forms them.
    struct Agrees<'a> {
        words: &'a [[u8; WORD * TILE]],
        factors: &'a [[i16; WORD]],
    }

    impl DotKernel for Agrees<'_> {
        #[inline(always)]
        unsafe fn run<D: Dots>(self) {
            let lanes = D::S::LANES;
            let numbers: Vec<f32> = self.factors.iter().flatten().map(|&x| f32::from(x)).collect();
            let mut stored = vec![[0; 2]; self.factors.len()];
            for (at, part) in numbers.chunks_exact(lanes).enumerate() {
                // SAFETY: whole vectors of numbers, with room for their factors; the caller promises the instruction set.
                unsafe { D::store(D::S::load(part.as_ptr()), stored[at * lanes / WORD..].as_mut_ptr()) };
            }
            for first in (0..TILE).step_by(lanes) {
                // Bytes, then their low halves, then their high ones, then parts of five bits.
                for form in 0..3 + FIVES {
                    let mut out = [0.0f32; TILE];
                    // SAFETY: words are TILE words each, of which a vector begins at `first`.
                    unsafe {
                        let mut sum = D::zero();
                        for (words, four) in self.words.iter().zip(&stored) {
                            let at = words[first * WORD..].as_ptr();
                            let words = match form {
                                0 => D::load(at),
                                1 | 2 => D::load_halves(at, form - 1),
                                _ => {
                                    // A group whose lines are all these words.
                                    let group = [*words; fives::LINES];
                                    let at = group[0][first * WORD..].as_ptr();
                                    match form - 3 {
                                        0 => D::load_fives::<0>(at),
                                        1 => D::load_fives::<1>(at),
                                        2 => D::load_fives::<2>(at),
                                        3 => D::load_fives::<3>(at),
                                        4 => D::load_fives::<4>(at),
                                        5 => D::load_fives::<5>(at),
                                        6 => D::load_fives::<6>(at),
                                        _ => D::load_fives::<7>(at),
                                    }
                                }
                            };
                            sum = D::dot(sum, words, four);
                        }
                        D::S::store(out.as_mut_ptr(), D::finish(sum, 12_345));
                    }
                    for (lane, &sum) in out[..lanes].iter().enumerate() {
                        let number = |byte: u8| match form {
                            0 => i32::from(byte) - D::TAKEN,
                            1 => i32::from(byte & 0xf),
                            2 => i32::from(byte >> 4),
                            _ => {
                                let part = form - 3;
                                i32::from(byte >> (4 * (part % 2)) & 0xf | (byte >> part & 1) << 4)
                            }
                        };
                        let mut expected = -12_345i32;
                        for (words, factors) in self.words.iter().zip(self.factors) {
                            let bytes = &words[(first + lane) * WORD..][..WORD];
                            bytes.iter().zip(factors).for_each(|(&byte, &factor)| {
                                expected += number(byte) * i32::from(factor);
                            });
                        }
                        assert_eq!(sum, expected as f32, "form {form}, lane {lane} from {first}");
                    }
                }
            }
        }
    }

    /// On every implementation of this machine.
    fn on_each(words: &[[u8; WORD * TILE]], factors: &[[i16; WORD]]) {
        Isa::available().for_each(|isa| isa.run_dots(Agrees { words, factors }));
        // The one that stands back where there is a better one.
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx512.is_available() {
            // SAFETY: the machine has AVX-512.
            unsafe { avx512::Pairs512::run(Agrees { words, factors }) };
        }
    }

    #[test]
    fn sums_are_exact_on_every_instruction_set() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as u32
        };
        for depth in [4, 16, 64, 128] {
            for largest in [1, 300, 32_512] {
                let words: Vec<_> = (0..depth).map(|_| core::array::from_fn(|_| (next() >> 20) as u8)).collect();
                let mut factor = |_| (next() % (2 * largest + 1)) as i16 - largest as i16;
                let factors: Vec<_> = (0..depth).map(|_| core::array::from_fn(&mut factor)).collect();
                on_each(&words, &factors);
                // The extremes, of either sign.
                let (words, sign) = (vec![[255; WORD * TILE]; depth], if depth == 16 { -1 } else { 1 });
                let factors = vec![[sign * largest as i16; WORD]; depth];
                on_each(&words, &factors);
            }
        }
    }
}
