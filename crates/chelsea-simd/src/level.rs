//! Sets of instructions, and which of them this process uses.

use crate::amx;
use std::ffi::OsStr;
use std::sync::OnceLock;

/// The environment variable that holds the word of the best set to use.
pub const VARIABLE: &str = "CHELSEA_INSTRUCTIONS";

/// A set of instructions. Those of one kind of processor are in order: each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Whatever the target guarantees, through plain Rust.
    Plain,
    /// Vectors of 128 bits on 64-bit Arm.
    Neon,
    /// The same, with dot products of bytes.
    NeonDot,
    /// Vectors of 256 bits on x86-64: AVX2, FMA and F16C.
    Avx2,
    /// Vectors of 512 bits: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same, with dot products of bytes: VNNI.
    Avx512Vnni,
    /// The same, with BF16 and matrix instructions, which the operating system lets this process use.
    Amx,
}

/// What [`VARIABLE`] can have wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstructionsError {
    /// No set of instructions has this word.
    #[error("{VARIABLE} is `{word}`, which names no instructions: set it to one of {}, or unset it", words(*best))]
    Unknown {
        /// The value.
        word: String,
        /// The best set of this processor.
        best: Level,
    },
    /// The processor lacks the instructions.
    #[error("{VARIABLE} is `{}`, which this processor does not have: set it to one of {}, or unset it", asked.word(), words(*best))]
    Missing {
        /// The set that was asked for.
        asked: Level,
        /// The best set of this processor.
        best: Level,
    },
}

/// Words of the sets that a processor has.
fn words(best: Level) -> String {
    let words: Vec<&str> = Level::HERE.iter().filter(|level| **level <= best).map(|level| level.word()).collect();
    words.join(", ")
}

impl Level {
    /// All sets, of all kinds of processors.
    pub const ALL: [Level; 7] =
        [Level::Plain, Level::Neon, Level::NeonDot, Level::Avx2, Level::Avx512, Level::Avx512Vnni, Level::Amx];

    /// The sets of this kind of processor, the slowest first.
    const HERE: &[Level] = if cfg!(target_arch = "x86_64") {
        &[Level::Plain, Level::Avx2, Level::Avx512, Level::Avx512Vnni, Level::Amx]
    } else if cfg!(target_arch = "aarch64") {
        &[Level::Plain, Level::Neon, Level::NeonDot]
    } else {
        &[Level::Plain]
    };

    /// The word for [`VARIABLE`].
    pub fn word(self) -> &'static str {
        match self {
            Level::Plain => "plain",
            Level::Neon => "neon",
            Level::NeonDot => "neon-dot",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512-vnni",
            Level::Amx => "amx",
        }
    }

    /// The best set that this process uses: the best one of this processor, unless [`VARIABLE`] lowers it. Found once.
    /// A value of the variable that [`check`] refuses counts as none.
    pub fn best() -> Level {
        found().as_ref().copied().unwrap_or_else(|error| match error {
            InstructionsError::Unknown { best, .. } | InstructionsError::Missing { best, .. } => *best,
        })
    }

    /// Whether this process uses the set: kernels for it may run.
    pub fn is_available(self) -> bool {
        self <= Level::best() && Level::HERE.contains(&self)
    }

    /// The sets that this process uses, the slowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.is_available())
    }

    /// Whether this processor has what the set adds to the one before it.
    fn found(self) -> bool {
        match self {
            Level::Plain => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
            Level::Amx => amx::available(),
            _ => false,
        }
    }
}

/// Reads [`VARIABLE`]: the best set that this process uses. For programs, which say what is wrong before they begin.
///
/// # Errors
/// When the variable holds no word of [`Level::word`], or that of a set which this processor does not have.
pub fn check() -> Result<Level, InstructionsError> {
    found().clone()
}

fn found() -> &'static Result<Level, InstructionsError> {
    static FOUND: OnceLock<Result<Level, InstructionsError>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let best = Level::HERE.iter().copied().take_while(|level| level.found()).last().unwrap_or(Level::Plain);
        limit(best, std::env::var_os(VARIABLE).as_deref())
    })
}

/// The set of the word `value`, or `best` where there is none.
fn limit(best: Level, value: Option<&OsStr>) -> Result<Level, InstructionsError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(best) };
    match Level::ALL.into_iter().find(|level| value == level.word()) {
        None => Err(InstructionsError::Unknown { word: value.to_string_lossy().into_owned(), best }),
        Some(asked) if asked <= best && Level::HERE.contains(&asked) => Ok(asked),
        Some(asked) => Err(InstructionsError::Missing { asked, best }),
    }
}

/// Runs `work` as compiled for the widest vectors of this process. It must be inlined to gain by that: a closure with
/// `#[inline(always)]` that calls nothing but such functions. What it computes does not depend on the vectors.
#[inline(always)]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        let best = Level::best();
        if best >= Level::Avx512 {
            // SAFETY: this processor has the instructions.
            #[allow(unsafe_code)]
            return unsafe { with_avx512(work) };
        }
        if best >= Level::Avx2 {
            // SAFETY: this processor has the instructions.
            #[allow(unsafe_code)]
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_up_to_the_best_is_available() {
        let best = Level::best();
        assert_eq!(Level::available().last(), Some(best));
        assert_eq!(Level::available().next(), Some(Level::Plain));
        for level in Level::HERE {
            assert_eq!(level.is_available(), *level <= best);
            assert!(!level.is_available() || level.found());
        }
        for level in Level::ALL.iter().filter(|level| !Level::HERE.contains(level)) {
            assert!(!level.is_available(), "{level:?} is of another kind of processor");
        }
    }

    #[test]
    fn a_word_lowers_the_best_set() {
        let all = *Level::HERE.last().expect("plain code at least");
        assert_eq!(limit(all, None), Ok(all));
        assert_eq!(limit(all, Some(OsStr::new(""))), Ok(all));
        for level in Level::HERE {
            assert_eq!(limit(all, Some(OsStr::new(level.word()))), Ok(*level));
        }
    }

    #[test]
    fn a_word_without_instructions_is_refused() {
        let error = limit(Level::Plain, Some(OsStr::new("avx3"))).expect_err("no such set");
        assert_eq!(
            error.to_string(),
            "CHELSEA_INSTRUCTIONS is `avx3`, which names no instructions: set it to one of plain, or unset it"
        );
        let error = limit(Level::Plain, Some(OsStr::new("amx"))).expect_err("plain code has no matrices");
        assert_eq!(
            error.to_string(),
            "CHELSEA_INSTRUCTIONS is `amx`, which this processor does not have: set it to one of plain, or unset it"
        );
    }

    #[test]
    fn vectors_of_any_width_compute_the_same() {
        let x: Vec<f32> = (0..100).map(|i| (i * 37 % 101) as f32 * 0.17 - 5.0).collect();
        let mut vectors = x.clone();
        vectorized(
            #[inline(always)]
            || vectors.iter_mut().for_each(|x| *x = *x * *x + 1.0 / (1.0 + x.abs())),
        );
        let plain: Vec<f32> = x.iter().map(|x| x * x + 1.0 / (1.0 + x.abs())).collect();
        assert_eq!(vectors, plain);
    }
}
