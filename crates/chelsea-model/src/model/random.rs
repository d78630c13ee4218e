//! Models of random weights in the shape of well-known ones: for measuring speed and memory without a file.
//!
//! Weights are drawn as GGML blocks of the types that a Q4_K_M file mixes, and packed like those of a file, so
//! that products and memory are those of the real model. Logits are finite and mean nothing.

use chelsea_kv::Dtype;
use chelsea_linear::{GgmlType, Linear};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rayon::prelude::*;

use super::{LoadOptions, Model, PackedTensor, Progress, rotaries};
use crate::arch::named;
use crate::blocks::{Attention, FeedForward, Layer, Mlp, Projection};
use crate::config::{self, Config, LayerConfig, Rope, Scaling};
use crate::error::ModelError;

/// A well-known shape.
struct Shape {
    name: &'static str,
    /// Name of its architecture in GGUF files.
    architecture: &'static str,
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: (usize, usize),
    head_dim: usize,
    vocab: usize,
    tied: bool,
    base: f32,
    /// Factor of Llama 3's scaling; 1 for none.
    stretch: f32,
    context: usize,
}

const LLAMA3: Shape = Shape {
    name: "llama-3.2-1b",
    architecture: "llama",
    layers: 16,
    hidden: 2048,
    feed_forward: 8192,
    heads: (32, 8),
    head_dim: 64,
    vocab: 128_256,
    tied: true,
    base: 500_000.0,
    stretch: 32.0,
    context: 131_072,
};

const QWEN2: Shape = Shape {
    name: "qwen2.5-0.5b",
    architecture: "qwen2",
    layers: 24,
    hidden: 896,
    feed_forward: 4864,
    heads: (14, 2),
    head_dim: 64,
    vocab: 151_936,
    tied: true,
    base: 1_000_000.0,
    stretch: 1.0,
    context: 32_768,
};

const TINY_HEADS: Shape = Shape {
    name: "tiny-qwen2",
    layers: 2,
    hidden: 64,
    feed_forward: 96,
    heads: (4, 2),
    head_dim: 32,
    vocab: 320,
    base: 10_000.0,
    context: 4096,
    ..QWEN2
};

const SHAPES: &[Shape] = &[
    // Small enough for tests, with a ragged width and a group of three.
    Shape {
        name: "tiny",
        layers: 2,
        hidden: 96,
        feed_forward: 256,
        heads: (6, 2),
        head_dim: 16,
        vocab: 320,
        base: 10_000.0,
        stretch: 1.0,
        context: 4096,
        ..LLAMA3
    },
    // The same for tests of norms of heads and of biases, with heads of whole blocks.
    Shape { name: "tiny-qwen3", architecture: "qwen3", ..TINY_HEADS },
    TINY_HEADS,
    Shape {
        name: "smollm2-135m",
        layers: 30,
        hidden: 576,
        feed_forward: 1536,
        heads: (9, 3),
        vocab: 49_152,
        base: 100_000.0,
        stretch: 1.0,
        context: 8192,
        ..LLAMA3
    },
    QWEN2,
    Shape {
        name: "qwen2.5-1.5b",
        layers: 28,
        hidden: 1536,
        feed_forward: 8960,
        heads: (12, 2),
        head_dim: 128,
        ..QWEN2
    },
    LLAMA3,
    Shape { name: "llama-3.2-3b", layers: 28, hidden: 3072, heads: (24, 8), head_dim: 128, ..LLAMA3 },
    Shape {
        name: "llama-3.1-8b",
        layers: 32,
        hidden: 4096,
        feed_forward: 14_336,
        heads: (32, 8),
        head_dim: 128,
        tied: false,
        stretch: 8.0,
        ..LLAMA3
    },
];

/// A model of random weights that is yet to be made.
#[derive(Debug, Clone)]
pub struct RandomModel {
    config: Config,
}

impl RandomModel {
    /// Names of the shapes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|shape| shape.name)
    }

    /// The shape of that name; `None` when no shape has it.
    pub fn named(name: &str) -> Option<RandomModel> {
        let shape = SHAPES.iter().find(|shape| shape.name == name)?;
        let scaling = if shape.stretch > 1.0 {
            Scaling::Llama3 {
                factor: shape.stretch,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192.0,
            }
        } else {
            Scaling::None
        };
        let layer = LayerConfig {
            q_heads: shape.heads.0,
            kv_heads: shape.heads.1,
            head_dim: shape.head_dim,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            window: None,
            rope: Some(Rope { base: shape.base, dims: shape.head_dim, scaling }),
            feed_forward: config::FeedForward::Dense { inner: shape.feed_forward },
        };
        let config = Config {
            architecture: named(shape.architecture)?,
            name: Some(format!("{} of random weights", shape.name)),
            hidden: shape.hidden,
            vocab: shape.vocab,
            norm_eps: 1e-5,
            embedding_scale: 1.0,
            context_length: shape.context,
            tied_embeddings: Some(shape.tied),
            layers: vec![layer; shape.layers],
        };
        Some(RandomModel { config })
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of the weights in GGML blocks, which is what they take in memory but for padding.
    pub fn weight_bytes(&self) -> usize {
        let sizes = self.matrices().map(|(_, ty, rows, cols)| rows * cols / ty.block_len() * ty.block_bytes());
        sizes.sum()
    }

    /// Draws and packs the weights on the caller's rayon pool; the same seed gives the same model.
    ///
    /// # Errors
    /// [`ModelError::Linear`] when there is no memory.
    pub fn make(&self, seed: u64, options: &LoadOptions, progress: &mut Progress<'_>) -> Result<Model, ModelError> {
        let total = self.weight_bytes() as u64;
        let mut done = 0;
        let mut packed = Vec::new();
        let mut linears = self.matrices().enumerate().map(|(index, (name, ty, rows, cols))| {
            let data = blocks(ty, rows, cols, seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let linear = Linear::new(ty, &data, rows, cols, options.products, None)
                .map_err(|source| ModelError::Linear { name: name.clone(), source })?;
            let (format, bytes) = (linear.format(), linear.bytes());
            packed.push(PackedTensor { name, rows, cols, source_type: ty, format, bytes });
            done += data.len() as u64;
            progress(done, total);
            Ok(linear)
        });
        let mut next = || linears.next().unwrap_or_else(|| Err(ModelError::MissingTensor("a random matrix".into())));
        let config = &self.config;
        let embedding = next()?;
        let output = if config.tied_embeddings == Some(true) { None } else { Some(next()?) };
        let shape = config.cache_shape();
        let (rotaries, rotary_of) = rotaries(&shape);
        let mut layers = Vec::with_capacity(config.layers.len());
        for (layer, rotary) in config.layers.iter().zip(rotary_of) {
            // Biases of zeros cost what others do.
            let bias = |rows| config.architecture.needs_qkv_bias.then(|| vec![0.0; rows]);
            let norm = || config.architecture.qk_norm.then(|| vec![1.0; layer.head_dim]);
            let mut projection = |biased: bool| {
                let weight = next()?;
                let bias = if biased { bias(weight.rows()) } else { None };
                Ok::<_, ModelError>(Projection { weight, bias })
            };
            let attention = Attention {
                q: projection(true)?,
                k: projection(true)?,
                v: projection(true)?,
                q_norm: norm(),
                k_norm: norm(),
                output: projection(false)?,
                sinks: None,
                head_dim: layer.head_dim,
                rotary,
                eps: config.norm_eps,
            };
            let activation = config.architecture.activation;
            layers.push(Layer {
                attn_norm: vec![1.0; config.hidden],
                attention,
                post_attention_norm: None,
                ffn_norm: vec![1.0; config.hidden],
                feed_forward: FeedForward::Dense(Mlp { gate: next()?, up: next()?, down: next()?, activation }),
                post_ffn_norm: None,
            });
        }
        let name = format!("random:{}:{seed}", config.name.as_deref().unwrap_or_default());
        Ok(Model {
            shape,
            rotaries,
            kv_dtype: Dtype::F16,
            fingerprint: xxhash_rust::xxh3::xxh3_128(name.as_bytes()).to_le_bytes(),
            packed,
            config: config.clone(),
            embedding,
            layers,
            output_norm: vec![1.0; config.hidden],
            output,
            device: None,
            moved: None,
        })
    }

    /// Every matrix in the order of making: name, type, rows and columns.
    fn matrices(&self) -> impl Iterator<Item = (String, GgmlType, usize, usize)> + use<> {
        let c = &self.config;
        let hidden = c.hidden;
        let fine = |cols: usize| if cols.is_multiple_of(256) { GgmlType::Q6K } else { GgmlType::Q8_0 };
        let plain = |cols: usize| if cols.is_multiple_of(256) { GgmlType::Q4K } else { GgmlType::Q5_0 };
        let mut all = vec![("token_embd.weight".to_owned(), fine(hidden), c.vocab, hidden)];
        if c.tied_embeddings != Some(true) {
            all.push(("output.weight".to_owned(), fine(hidden), c.vocab, hidden));
        }
        for (layer, sizes) in c.layers.iter().enumerate() {
            let (q, kv) = (sizes.q_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
            // Only dense shapes are listed here.
            let config::FeedForward::Dense { inner } = sizes.feed_forward else { continue };
            // Q4_K_M files keep the values' and the last products of half their layers finer.
            let mixed = if layer % 2 == 0 { fine } else { plain };
            let mut put = |name: &str, ty: GgmlType, rows, cols| {
                all.push((format!("blk.{layer}.{name}.weight"), ty, rows, cols));
            };
            put("attn_q", plain(hidden), q, hidden);
            put("attn_k", plain(hidden), kv, hidden);
            put("attn_v", mixed(hidden), kv, hidden);
            put("attn_output", plain(q), hidden, q);
            put("ffn_gate", plain(hidden), inner, hidden);
            put("ffn_up", plain(hidden), inner, hidden);
            put("ffn_down", mixed(inner), hidden, inner);
        }
        all.into_iter()
    }
}

/// Random blocks whose weights have a mean near 0 and a spread of about `1 / sqrt(cols)`, so that activations
/// neither grow nor vanish from layer to layer.
fn blocks(ty: GgmlType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let (len, bytes) = (ty.block_len(), ty.block_bytes());
    let row_bytes = cols / len * bytes;
    let spread = 1.0 / (cols as f32).sqrt();
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let mut data = vec![0u8; rows * row_bytes];
    data.par_chunks_exact_mut(row_bytes).enumerate().for_each(|(row, out)| {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_add((row as u64).wrapping_mul(0xD134_2543_DE82_EF95)));
        rng.fill_bytes(out);
        for block in out.chunks_exact_mut(bytes) {
            // A little variety from block to block; the divisors are the spreads of random codes and scales.
            let spread = spread * rng.random_range(0.8..1.2f32);
            match ty {
                GgmlType::Q4K => {
                    block[0..2].copy_from_slice(&half(spread / 260.0));
                    block[2..4].copy_from_slice(&half(7.5 * spread / 260.0));
                }
                GgmlType::Q6K => block[208..210].copy_from_slice(&half(spread / 1366.0)),
                GgmlType::Q5_0 => block[0..2].copy_from_slice(&half(spread / 9.2)),
                _ => block[0..2].copy_from_slice(&half(spread / 73.9)),
            }
        }
    });
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chunk, Wanted, Workspace};
    use chelsea_kv::{CacheConfig, SequenceCache};
    use chelsea_linear::Products;

    fn tiny() -> RandomModel {
        RandomModel::named("tiny").unwrap()
    }

    fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
        let mut cache = SequenceCache::new(CacheConfig::new(model.cache_shape())).unwrap();
        let mut ws = Workspace::new();
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits: Wanted::Last }], &mut ws).unwrap();
        ws.logits().to_vec()
    }

    #[test]
    fn every_shape_has_a_name_of_its_own_and_heads_that_divide() {
        let mut names: Vec<_> = RandomModel::names().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            let config = RandomModel::named(name).unwrap().config;
            let shape = config.cache_shape();
            assert!(shape.layers()[0].rotary.inv_freq.iter().all(|f| f.is_finite() && *f > 0.0), "{name}");
        }
        assert!(RandomModel::named("llama").is_none());
    }

    #[test]
    fn the_1b_shape_weighs_what_a_q4_k_m_file_of_it_does() {
        let bytes = RandomModel::named("llama-3.2-1b").unwrap().weight_bytes();
        assert!((700 << 20..850 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn weights_have_the_spread_that_keeps_activations_in_range() {
        for ty in [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q5_0, GgmlType::Q8_0] {
            let (rows, cols) = (64, 512);
            let mut numbers = vec![0.0; rows * cols];
            chelsea_linear::dequantize(ty, &blocks(ty, rows, cols, 3), &mut numbers).unwrap();
            let n = numbers.len() as f32;
            let mean = numbers.iter().sum::<f32>() / n;
            let spread = (numbers.iter().map(|x| x * x).sum::<f32>() / n).sqrt() * (cols as f32).sqrt();
            assert!((0.8..1.25).contains(&spread), "{ty}: {spread}");
            assert!(mean.abs() * (cols as f32).sqrt() < 0.1, "{ty}: {mean}");
        }
    }

    #[test]
    fn logits_are_finite_and_depend_on_tokens_and_seed_alone() {
        let options = LoadOptions::default();
        let model = tiny().make(1, &options, &mut |_, _| ()).unwrap();
        let again = tiny().make(1, &options, &mut |_, _| ()).unwrap();
        let other = tiny().make(2, &options, &mut |_, _| ()).unwrap();
        let first = logits(&model, &[1, 2, 3]);
        assert!(first.iter().all(|x| x.is_finite()) && first.len() == 320);
        assert_eq!(first, logits(&again, &[1, 2, 3]));
        assert_ne!(first, logits(&other, &[1, 2, 3]));
        assert_ne!(first, logits(&model, &[1, 2, 4]));
        assert_ne!(model.fingerprint(), other.fingerprint());
    }

    #[test]
    fn progress_ends_at_the_whole_and_bytes_are_as_promised() {
        let mut last = (0, 0);
        let options = LoadOptions { products: Products::F32 };
        let model = tiny().make(1, &options, &mut |done, total| last = (done, total)).unwrap();
        assert_eq!(last.0, last.1);
        assert_eq!(last.1 as usize, tiny().weight_bytes());
        let (held, promised) = (model.memory().total() - model.memory().vectors, tiny().weight_bytes());
        // Tiles are padded to cache lines, which shows in matrices as small as these.
        assert!(held >= promised && held < promised * 105 / 100, "{held} {promised}");
    }
}
