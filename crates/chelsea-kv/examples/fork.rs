//! Several questions over one document: it is read once, and each question goes on from a fork of its cache, which shares
//! the document's pages. `cargo run -p chelsea-kv --example fork`

use chelsea_kv::{Budget, CacheConfig, CacheError, CacheShape, Pool, Rotary, SequenceCache};

const HEAD_DIM: usize = 32;

/// Numbers that stand for a model's projections.
fn made_up(tokens: usize, seed: usize) -> Vec<f32> {
    (0..tokens * HEAD_DIM).map(|i| ((i * 37 + seed * 11) % 19) as f32 / 19.0 - 0.5).collect()
}

/// Reads `tokens` tokens and returns what the last one attends to.
fn read(cache: &mut SequenceCache, tokens: usize, seed: usize) -> Result<Vec<f32>, CacheError> {
    let (keys, values, queries) = (made_up(tokens, seed), made_up(tokens, seed + 1), made_up(tokens, seed + 2));
    let mut out = vec![0.0; queries.len()];
    cache.append(0, &keys, &values)?;
    cache.attend(0, &queries, &mut out)?;
    cache.compact()?;
    Ok(out.split_off((tokens - 1) * HEAD_DIM))
}

fn main() -> Result<(), CacheError> {
    let shape = CacheShape::uniform(1, 1, 1, HEAD_DIM, Rotary::plain(HEAD_DIM, 10_000.0))?;
    // One ledger for all: a page that is shared is charged once.
    let pool = Pool::with_limit(4 << 20);
    let config = CacheConfig { budget: Budget::EntryFraction(0.5), pool: pool.clone(), ..CacheConfig::new(shape) };
    let mut document = SequenceCache::new(config)?;
    document.expect_tokens(2000, 0);
    read(&mut document, 2000, 0)?;
    let alone = pool.live();

    let mut forks = [document.fork()?, document.fork()?];
    let answers: Vec<Vec<f32>> =
        forks.iter_mut().zip([100, 200]).map(|(fork, seed)| read(fork, 5, seed)).collect::<Result<_, _>>()?;
    println!("the document takes {alone} bytes, with two questions {} bytes", pool.live());
    assert!(pool.live() < 2 * alone && answers[0] != answers[1]);
    assert_eq!((document.tokens(), forks[0].tokens()), (2000, 2005));
    Ok(())
}
