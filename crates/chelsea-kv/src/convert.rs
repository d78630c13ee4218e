//! Stored numbers to `f32` and back, many at a time.

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A type that keys and values may be stored in.
pub(crate) trait Number: Pod {
    /// `out[i] = src[i]`; both have the same length.
    fn widen(src: &[Self], out: &mut [f32]);
    /// `out[i] = src[i]`, rounded to nearest even; both have the same length.
    fn narrow(src: &[f32], out: &mut [Self]);
}

impl Number for f32 {
    fn widen(src: &[f32], out: &mut [f32]) {
        out.copy_from_slice(src);
    }
    fn narrow(src: &[f32], out: &mut [f32]) {
        out.copy_from_slice(src);
    }
}

impl Number for f16 {
    fn widen(src: &[f16], out: &mut [f32]) {
        src.convert_to_f32_slice(out);
    }
    fn narrow(src: &[f32], out: &mut [f16]) {
        out.convert_from_f32_slice(src);
    }
}

impl Number for bf16 {
    fn widen(src: &[bf16], out: &mut [f32]) {
        src.convert_to_f32_slice(out);
    }
    fn narrow(src: &[f32], out: &mut [bf16]) {
        out.convert_from_f32_slice(src);
    }
}

/// Runs `$body` with `$T` standing for the Rust type that `$dtype` is stored in.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_number;
