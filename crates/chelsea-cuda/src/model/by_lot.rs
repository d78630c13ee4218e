//! Weights by lot, made in the device's memory: to measure a shape without a file of it.

use super::weights::{Biased, Weight};
use super::{CudaWeights, Layer, ModelRefused};
use crate::device::{Address, Buffer, Device, DeviceError};
use crate::kernels::linear::{Format, Matrix};
use chelsea_kv::LayerSpec;
use chelsea_model::Config;
use chelsea_model::config::FeedForward;
use std::sync::Arc;

/// Bytes of codes that are drawn; they are repeated.
const PATTERN: usize = 8 << 20;

/// What planes are filled with.
struct Patterns {
    codes: Buffer,
    device: Arc<dyn Device>,
}

impl Patterns {
    fn new(device: &Arc<dyn Device>) -> Result<Self, DeviceError> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let words = std::iter::repeat_with(|| {
            // xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let words: Vec<u64> = words.take(PATTERN / 8).collect();
        Ok(Patterns { codes: Buffer::with(device, &words)?, device: Arc::clone(device) })
    }

    /// Fills `bytes` bytes from `at` on with what lies at the start of `pattern`, over and over.
    fn fill(&self, pattern: &Buffer, at: Address, bytes: usize) -> Result<(), DeviceError> {
        for first in (0..bytes).step_by(pattern.bytes()) {
            self.device.copy(pattern.at(), at + first as Address, pattern.bytes().min(bytes - first))?;
        }
        Ok(())
    }

    /// A matrix whose outputs are about as large as its inputs.
    fn matrix(&self, format: Format, rows: usize, columns: usize) -> Result<Weight, DeviceError> {
        let matrix = Matrix { format, rows, columns };
        let planes = Buffer::new(&self.device, matrix.bytes())?;
        self.fill(&self.codes, planes.at(), matrix.scales())?;
        // A code's mean is taken off; its spread is that of numbers of so many bits.
        let most = ((1u32 << format.bits()) - 1) as f32;
        let pair = [half::f16::ONE, half::f16::from_f32(most / 2.0)];
        let pairs: Vec<half::f16> = std::iter::repeat_n(pair, 1 << 16).flatten().collect();
        let pairs = Buffer::with(&self.device, &pairs)?;
        self.fill(&pairs, planes.at() + matrix.scales() as Address, matrix.units() - matrix.scales())?;
        let unit = 3.46 / (most * (columns as f32).sqrt());
        self.device.write(planes.at() + matrix.units() as Address, bytemuck::cast_slice(&vec![unit; rows]))?;
        Ok(Weight::of(matrix, planes, most / 2.0 * unit))
    }

    fn layer(&self, config: &Config, index: usize, spec: &LayerSpec) -> Result<Layer, ModelRefused> {
        let FeedForward::Dense { inner } = config.layers[index].feed_forward else {
            return Err(ModelRefused::Architecture("a mixture of experts"));
        };
        let hidden = config.hidden;
        let plain = |rows, columns| self.matrix(Format::Bits4By32, rows, columns);
        // Files in Q4_K_M keep some products of half their layers finer.
        let mixed = if index.is_multiple_of(2) { Format::Bits6By16 } else { Format::Bits4By32 };
        let biased = |weight: Weight| Biased { weight, bias: None };
        let ones = |count: usize| Buffer::with(&self.device, &vec![1.0f32; count]);
        Ok(Layer {
            spec: spec.clone(),
            attn_norm: ones(hidden)?,
            q: biased(plain(spec.query_width(), hidden)?),
            k: biased(plain(spec.key_width(), hidden)?),
            v: biased(self.matrix(mixed, spec.value_width(), hidden)?),
            qk_norm: None,
            output: biased(plain(hidden, spec.output_width())?),
            rotary: Some(0),
            ffn_norm: ones(hidden)?,
            gate: plain(inner, hidden)?,
            up: plain(inner, hidden)?,
            down: self.matrix(mixed, hidden, inner)?,
        })
    }
}

impl CudaWeights {
    /// Weights of a plain transformer of this shape, by lot, in the types that a file in Q4_K_M mixes: for measuring.
    ///
    /// # Errors
    /// If the shape has experts, or the device has no room for it.
    pub fn by_lot(device: &Arc<dyn Device>, config: &Config) -> Result<Self, ModelRefused> {
        config.is_plain().map_err(ModelRefused::Architecture)?;
        let patterns = Patterns::new(device)?;
        let shape = config.cache_shape();
        let layers = shape.layers().iter().enumerate();
        Ok(CudaWeights {
            layers: layers.map(|(index, spec)| patterns.layer(config, index, spec)).collect::<Result<_, _>>()?,
            output_norm: Buffer::with(device, &vec![1.0f32; config.hidden])?,
            output: patterns.matrix(Format::Bits6By16, config.vocab, config.hidden)?,
            hidden: config.hidden,
            eps: config.norm_eps,
            device: Arc::clone(device),
        })
    }
}
