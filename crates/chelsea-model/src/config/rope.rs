//! Rotary position embedding: from what a model's metadata says to one frequency for each pair.
//!
//! Frequencies are rounded as the reference implementations round them (f32 power, f32 division): at
//! position 16,000 an error of one unit in the last place already turns a pair by a thousandth of a radian.

use chelsea_kv::Rotary;

use super::ConfigError;

/// How a model stretches its positions beyond those it was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions are divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths longer than `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths shorter than `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context of the first training.
        original_context: f32,
    },
    /// One divisor a pair, stored in the file (how GGUF carries Llama 3's scaling).
    Divisors(Vec<f32>),
    /// YaRN (<https://arxiv.org/abs/2309.00071>): a ramp between divided and kept frequencies, and a
    /// factor on cosine and sine.
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// Context of the first training.
        original_context: f32,
        /// Pairs that turn more often than this over the original context are kept.
        beta_fast: f32,
        /// Pairs that turn less often than this over the original context are divided.
        beta_slow: f32,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
        /// Factor on cosine and sine.
        attention_factor: f32,
    },
    /// LongRoPE (<https://arxiv.org/abs/2402.13753>): one divisor a pair, of two sets of them, and a factor on cosine
    /// and sine.
    LongRope {
        /// Divisors for texts within `original_context`.
        short_factors: Vec<f32>,
        /// Divisors for longer texts.
        long_factors: Vec<f32>,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Factor on cosine and sine, of either set.
        attention_factor: f32,
        /// Whether the divisors for longer texts are the ones in use; see [`Config::for_context`](super::Config::for_context).
        long: bool,
    },
}

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies (`rope_theta`).
    pub base: f32,
    /// Leading dimensions of a head that are turned; even, at most the head size.
    pub dims: usize,
    /// Stretching.
    pub scaling: Scaling,
}

/// YaRN's factor on cosine and sine for a stretch of `factor`, with the weight some models put on it.
pub fn yarn_attention_factor(factor: f32, weight: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { (0.1 * f64::from(weight) * f64::from(factor).ln() + 1.0) as f32 }
}

/// LongRoPE's factor on cosine and sine for a context of `stretch` times the original one.
pub(super) fn longrope_attention_factor(stretch: f32, original_context: usize) -> f32 {
    if stretch <= 1.0 {
        return 1.0;
    }
    (1.0 + f64::from(stretch).ln() / (original_context as f64).ln()).sqrt() as f32
}

fn positive(name: &str, value: f32) -> Result<(), ConfigError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ConfigError::Invalid(format!("{name} of the rotary embedding is {value}, it must be positive"))),
    }
}

impl Rope {
    /// Checks that every number is usable.
    pub(super) fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        positive("the base", self.base)?;
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > head_dim {
            return Err(ConfigError::Invalid(format!(
                "the rotary embedding turns {} dimensions of a head of {head_dim}; it must be an even number up to that",
                self.dims
            )));
        }
        match &self.scaling {
            Scaling::None => Ok(()),
            Scaling::Linear { factor } => positive("the linear factor", *factor),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("the llama3 factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("original_max_position_embeddings", *original_context)?;
                positive("high_freq_factor - low_freq_factor", *high_freq_factor - *low_freq_factor)
            }
            Scaling::Divisors(divisors) => self.validate_divisors(divisors),
            Scaling::LongRope { short_factors, long_factors, original_context, attention_factor, .. } => {
                positive("the original context of longrope", *original_context as f32)?;
                positive("the attention factor of longrope", *attention_factor)?;
                self.validate_divisors(short_factors)?;
                self.validate_divisors(long_factors)
            }
            Scaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
                positive("the yarn factor", *factor)?;
                positive("the original context of yarn", *original_context)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("the base - 1", self.base - 1.0)?;
                positive("the attention factor of yarn", *attention_factor)
            }
        }
    }

    fn validate_divisors(&self, divisors: &[f32]) -> Result<(), ConfigError> {
        let pairs = self.dims / 2;
        if divisors.len() != pairs {
            return Err(ConfigError::Invalid(format!("{} rotary divisors for {pairs} pairs", divisors.len())));
        }
        divisors.iter().try_for_each(|&divisor| positive("a divisor", divisor))
    }

    /// One frequency for each pair, and the factor on cosine and sine.
    pub fn rotary(&self) -> Rotary {
        let pairs = self.dims / 2;
        let plain = (0..pairs).map(|i| {
            let exponent = (2 * i) as f32 / self.dims as f32;
            1.0 / f64::from(self.base).powf(f64::from(exponent)) as f32
        });
        let mut scale = 1.0;
        let inv_freq = match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|freq| freq / factor).collect(),
            Scaling::Divisors(divisors) => plain.zip(divisors).map(|(freq, divisor)| freq / divisor).collect(),
            Scaling::LongRope { short_factors, long_factors, attention_factor, long, .. } => {
                scale = *attention_factor;
                let divisors = if *long { long_factors } else { short_factors };
                // As the reference has it: one over (divisor times power), not the plain frequency over the divisor.
                let power = |i: usize| f64::from(self.base).powf(f64::from((2 * i) as f32 / self.dims as f32)) as f32;
                divisors.iter().enumerate().map(|(i, divisor)| 1.0 / (divisor * power(i))).collect()
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => plain
                .map(|freq| {
                    let wavelength = 2.0 * std::f32::consts::PI / freq;
                    if wavelength < original_context / high_freq_factor {
                        freq
                    } else if wavelength > original_context / low_freq_factor {
                        freq / factor
                    } else {
                        let kept =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * freq / factor + kept * freq
                    }
                })
                .collect(),
            Scaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, attention_factor } => {
                scale = *attention_factor;
                let (low, high) = self.yarn_ramp(*original_context, *beta_fast, *beta_slow, *truncate);
                plain
                    .enumerate()
                    .map(|(i, freq)| {
                        let divided = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                        let kept = 1.0 - divided;
                        freq / factor * (1.0 - kept) + freq * kept
                    })
                    .collect()
            }
        };
        Rotary { inv_freq, scale }
    }

    /// The pairs between which YaRN goes from kept to divided frequencies.
    fn yarn_ramp(&self, original_context: f32, beta_fast: f32, beta_slow: f32, truncate: bool) -> (f32, f32) {
        let dims = self.dims as f64;
        // The pair that makes `turns` full turns over the original context.
        let pair = |turns: f32| {
            let wavelength = f64::from(original_context) / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            dims * wavelength.ln() / (2.0 * f64::from(self.base).ln())
        };
        let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        (low as f32, high as f32)
    }
}
