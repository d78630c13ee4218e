//! Logits of a sequence of token ids, as little-endian f32 `[positions][vocab]` on stdout.
//!
//! ```text
//! logits MODEL fast|f32 BLOCK ID... > logits.bin
//! ```
//! The ids are read in blocks of BLOCK tokens, into a cache that keeps everything (in f16, or f32 with f32
//! products). Load time, memory and speed go to stderr.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use chelsea_kv::{CacheConfig, Dtype, SequenceCache};
use chelsea_linear::Products;
use chelsea_model::{Chunk, LoadOptions, Model, Wanted, Workspace};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, products, block, ids @ ..] = args.as_slice() else {
        return Err("usage: logits MODEL fast|f32 BLOCK ID...".into());
    };
    let (products, dtype) = match products.as_str() {
        "fast" => (Products::Fast, Dtype::F16),
        "f32" => (Products::F32, Dtype::F32),
        other => return Err(format!("`{other}` is neither `fast` nor `f32`").into()),
    };
    let ids: Vec<u32> = ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;

    let start = Instant::now();
    let model = Model::load(Path::new(model), &LoadOptions { products }, &mut |_, _| {})?;
    eprintln!(
        "loaded in {:.2} s, {} bytes of weights, {:?}",
        start.elapsed().as_secs_f64(),
        model.memory().total(),
        model.config()
    );

    let config = CacheConfig::new(model.cache_shape());
    let mut cache = SequenceCache::new(CacheConfig { dtype, ..config })?;
    let mut workspace = Workspace::new();
    let mut stdout = std::io::stdout().lock();
    for tokens in ids.chunks(block.parse()?) {
        let start = Instant::now();
        model.forward(&mut [Chunk { tokens, cache: &mut cache, logits: Wanted::All }], &mut workspace)?;
        eprintln!("{} tokens in {:.1} ms", tokens.len(), start.elapsed().as_secs_f64() * 1e3);
        for logit in workspace.logits() {
            stdout.write_all(&logit.to_le_bytes())?;
        }
    }
    Ok(())
}
