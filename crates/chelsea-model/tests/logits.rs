//! The forward pass against `transformers` in f32, on real models.
//!
//! Reference values: `scripts/reference/logits.py`. Where the models are: `support/models.rs`. What is measured is
//! printed; `cargo test -- --nocapture` shows it.

#[allow(dead_code)] // each test uses its part
mod support {
    pub mod golden;
    pub mod models;
}

use std::sync::{Mutex, PoisonError};

use chelsea_kv::{CacheConfig, Dtype, SequenceCache};
use chelsea_linear::Products;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Chunk, LoadOptions, Model, ModelFile, Wanted, Workspace};
use support::golden::{Golden, argmax, log_sum_exp};
use support::models::{self, GEMMA3, QWEN_05B, QWEN_15B, SMOLLM2};

/// Tests run side by side; models of several GB must not.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const BLOCK: usize = 256;

struct Runner {
    model: Model,
    workspace: Workspace,
    cache: SequenceCache,
}

impl Runner {
    /// A model with an empty cache that keeps everything.
    fn new(file: &ModelFile, products: Products, dtype: Option<Dtype>) -> Runner {
        let model = Model::from_file(file, &LoadOptions { products }, &mut |_, _| {}).expect("the model loads");
        let mut config = CacheConfig::new(model.cache_shape());
        config.dtype = dtype.unwrap_or(model.kv_dtype());
        let cache = SequenceCache::new(config).expect("a cache");
        Runner { model, workspace: Workspace::new(), cache }
    }

    fn step(&mut self, tokens: &[u32], logits: Wanted) -> &[f32] {
        let mut batch = [Chunk { tokens, cache: &mut self.cache, logits }];
        self.model.forward(&mut batch, &mut self.workspace).expect("a forward pass");
        self.workspace.logits()
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab
    }
}

/// f32 products on an f32 cache agree with the reference to 2e-2 at 64 positions, with the same first choice; the
/// fast products on the model's own cache stay within 5e-3 nats of it.
fn logits_agree(name: &str) {
    let path = models::path(name);
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let golden = Golden::read(name);
    assert_eq!(golden.rows.len(), 64);
    let file = ModelFile::open(&path).expect("the model opens");

    let mut exact = Runner::new(&file, Products::F32, Some(Dtype::F32));
    let vocab = exact.vocab();
    assert_eq!(vocab, golden.vocab);
    let exact = exact.step(&golden.ids, Wanted::All).to_vec();
    assert_eq!(exact.len(), golden.rows.len() * vocab);
    let mut worst = 0.0f32;
    for (position, (row, logits)) in golden.rows.iter().zip(exact.chunks_exact(vocab)).enumerate() {
        let difference = row.max_difference(logits, &golden.probes);
        assert!(difference <= 2e-2, "{name}: the logits of position {position} are off by {difference}");
        assert_eq!(argmax(logits), row.top[0].0, "{name}: another first choice at position {position}");
        worst = worst.max(difference);
    }

    let mut fast = Runner::new(&file, Products::Fast, None);
    let fast = fast.step(&golden.ids, Wanted::All);
    let (mut to_reference, mut to_exact, mut same) = (0.0, 0.0, 0);
    for ((row, fast), exact) in golden.rows.iter().zip(fast.chunks_exact(vocab)).zip(exact.chunks_exact(vocab)) {
        to_reference += row.kl(fast) / golden.rows.len() as f64;
        to_exact += kl(exact, fast) / golden.rows.len() as f64;
        same += usize::from(argmax(fast) == row.top[0].0);
    }
    println!(
        "{name}: f32 products, max |difference| {worst:.2e}; fast products, mean KL {to_reference:.2e} nats to the \
         reference, {to_exact:.2e} to the f32 products over the whole vocabulary, same first choice {same} of 64"
    );
    assert!(to_reference <= 5e-3, "{name}: mean KL of the fast products is {to_reference}");
    assert!(to_exact <= 5e-3, "{name}: mean KL of the fast products from the f32 products is {to_exact}");
}

/// KL divergence over the whole vocabulary, in nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p_lse, q_lse) = (log_sum_exp(p), log_sum_exp(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| (f64::from(p) - p_lse, f64::from(q) - q_lse));
    terms.map(|(log_p, log_q)| log_p.exp() * (log_p - log_q)).sum()
}

/// The last positions of a long text, read in blocks through the cache, agree with one forward pass of the
/// reference. The text states a number at its beginning and asks for it at its end.
fn long_logits_agree(name: &str, golden: &str, products: Products, dtype: Option<Dtype>) {
    let path = models::path(name);
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let golden = Golden::read(golden);
    let file = ModelFile::open(&path).expect("the model opens");
    let mut runner = Runner::new(&file, products, dtype);
    for block in golden.ids[..golden.first].chunks(BLOCK) {
        runner.step(block, Wanted::None);
    }
    let vocab = runner.vocab();
    // One token at a time: the decode path, over a deep cache.
    let (mut worst, mut mean_kl) = (0.0f32, 0.0);
    for (row, token) in golden.rows.iter().zip(&golden.ids[golden.first..]) {
        let logits = runner.step(&[*token], Wanted::Last);
        assert_eq!(logits.len(), vocab);
        worst = worst.max(row.max_difference(logits, &golden.probes));
        mean_kl += row.kl(logits) / golden.rows.len() as f64;
        assert_eq!(argmax(logits), row.top[0].0, "{name}: another first choice");
    }
    let last = golden.ids.len();
    println!(
        "{name}: position {last}, {products:?} products, max |difference| {worst:.2e}, mean KL {mean_kl:.2e} nats"
    );
    match products {
        Products::F32 | Products::Source => assert!(worst <= 2e-2, "{name}: off by {worst} at position {last}"),
        Products::Fast => assert!(mean_kl <= 5e-3, "{name}: mean KL {mean_kl} at position {last}"),
    }
}

/// Perplexity over 4,096 tokens of natural text with the fast products is within 1% of that with f32 products.
fn perplexity_agrees(name: &str) {
    let path = models::path(name);
    let folder = models::essays();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut texts: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of CHELSEA_TEST_ESSAYS opens")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    texts.sort();
    let file = ModelFile::open(&path).expect("the model opens");
    let tokenizer = Tokenizer::open(&file).expect("a tokenizer");
    let mut ids = Vec::new();
    for text in texts {
        let text = std::fs::read_to_string(text).expect("a text");
        ids.extend(tokenizer.encode(&text, false).expect("ids"));
        if ids.len() >= 4096 {
            break;
        }
    }
    assert!(ids.len() >= 4096, "CHELSEA_TEST_ESSAYS holds only {} tokens", ids.len());
    ids.truncate(4096);

    let perplexity = |products, dtype| {
        let mut runner = Runner::new(&file, products, dtype);
        let vocab = runner.vocab();
        let (mut loss, mut position) = (0.0, 0);
        for block in ids.chunks(BLOCK) {
            for row in runner.step(block, Wanted::All).chunks_exact(vocab) {
                position += 1;
                if let Some(&next) = ids.get(position) {
                    loss += log_sum_exp(row) - f64::from(row[next as usize]);
                }
            }
        }
        (loss / (ids.len() - 1) as f64).exp()
    };
    let exact = perplexity(Products::F32, Some(Dtype::F32));
    let fast = perplexity(Products::Fast, None);
    let change = fast / exact - 1.0;
    println!("{name}: perplexity {exact:.4} with f32 products, {fast:.4} with fast ones ({:+.3}%)", change * 100.0);
    assert!(exact > 1.0 && exact < 100.0, "{name}: a perplexity of {exact} is not that of a working model");
    assert!(change.abs() <= 0.01, "{name}: the fast products change the perplexity by {:.2}%", change * 100.0);
}

#[test]
#[ignore = "needs models"]
fn smollm2_logits_agree_with_the_reference() {
    logits_agree(SMOLLM2);
}

#[test]
#[ignore = "needs models"]
fn qwen_05b_logits_agree_with_the_reference() {
    logits_agree(QWEN_05B);
}

#[test]
#[ignore = "needs the 1.5B model"]
fn qwen_15b_logits_agree_with_the_reference() {
    logits_agree(QWEN_15B);
}

#[test]
#[ignore = "needs Gemma 3 270M"]
fn gemma3_270m_logits_agree_with_the_reference() {
    logits_agree(GEMMA3);
}

/// Within the window of 512, and beyond it.
#[test]
#[ignore = "needs Gemma 3 270M"]
fn gemma3_270m_agrees_at_positions_300_700_and_4000() {
    for length in [300, 700, 4000] {
        long_logits_agree(GEMMA3, &format!("gemma3-270m-{length}"), Products::F32, Some(Dtype::F32));
    }
}

/// Logits of an independent implementation of the same weights in f32, which shares nothing with `transformers`.
#[test]
#[ignore = "needs Gemma 3 270M"]
fn gemma3_270m_agrees_with_a_second_reference() {
    let path = models::path(GEMMA3);
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let file = ModelFile::open(&path).expect("the model opens");
    let mut runner = Runner::new(&file, Products::F32, Some(Dtype::F32));
    let first = [2, 818, 5279, 529, 7001, 563];
    let second = [2, 17390, 104_264, 657, 236_743, 236_770, 236_771, 236_771, 10_674];
    let expected = [
        (&first[..], vec![(506, 19.091), (496, 18.548), (9079, 18.269)]),
        (&second[..], vec![(57_356, 26.826), (79_741, 25.395)]),
    ];
    for (tokens, top) in expected {
        runner.cache = SequenceCache::new(runner.cache.config().clone()).expect("a cache");
        let logits = runner.step(tokens, Wanted::Last);
        assert_eq!(argmax(logits), top[0].0);
        for (id, logit) in top {
            let found = logits[id as usize];
            assert!((found - logit).abs() < 2e-3, "{id}: {found} instead of {logit}");
        }
    }
}

/// Layers with a window hold no more than their window, and three of 18 grow.
#[test]
#[ignore = "needs Gemma 3 270M"]
fn gemma3_270m_keeps_the_whole_text_in_three_layers_only() {
    let path = models::path(GEMMA3);
    let file = ModelFile::open(&path).expect("the model opens");
    let shape = file.config().cache_shape();
    let full: Vec<usize> = (0..shape.layers().len()).filter(|&layer| shape.layers()[layer].window.is_none()).collect();
    assert_eq!(full, [5, 11, 17]);
    // A key and a value of 256 numbers in 16 bits.
    assert_eq!(shape.full_bytes(8000), (3 * 8000 + 15 * 512) * 2 * 256 * 2);
}

#[test]
#[ignore = "needs models"]
fn smollm2_agrees_at_position_8000() {
    long_logits_agree(SMOLLM2, "smollm2-8000", Products::F32, Some(Dtype::F32));
}

#[test]
#[ignore = "needs models"]
fn qwen_05b_agrees_at_position_16000_with_fast_products() {
    long_logits_agree(QWEN_05B, "qwen2.5-coder-0.5b-16000", Products::Fast, None);
}

#[test]
#[ignore = "needs models"]
fn qwen_05b_agrees_at_position_16000() {
    long_logits_agree(QWEN_05B, "qwen2.5-coder-0.5b-16000", Products::F32, Some(Dtype::F32));
}

#[test]
#[ignore = "needs models"]
fn smollm2_perplexity_with_fast_products_is_that_of_f32() {
    perplexity_agrees(SMOLLM2);
}

#[test]
#[ignore = "needs models"]
fn qwen_05b_perplexity_with_fast_products_is_that_of_f32() {
    perplexity_agrees(QWEN_05B);
}

#[test]
#[ignore = "needs the 1.5B model"]
fn qwen_15b_perplexity_with_fast_products_is_that_of_f32() {
    perplexity_agrees(QWEN_15B);
}

#[test]
fn no_measure_passes_over_logits_that_are_not_finite() {
    let row = support::golden::Row { lse: 2f32.ln(), top: vec![(0, 0.0)], probes: vec![0.0] };
    assert!(row.max_difference(&[0.0, 0.0], &[1]) < 1e-6);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for logits in [[odd, 0.0, 0.0], [0.0, 0.0, odd]] {
            assert!(std::panic::catch_unwind(|| row.max_difference(&logits, &[1])).is_err());
            assert!(std::panic::catch_unwind(|| row.kl(&logits)).is_err());
            assert!(std::panic::catch_unwind(|| kl(&[0.0; 3], &logits)).is_err());
        }
    }
}
