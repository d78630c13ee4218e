//! A cache as a file: a document is read and clustered once, and asked in another process. Any tokens may follow.
//! `cargo run -p chelsea-kv --example snapshot`

use chelsea_kv::snapshot::{Expected, SnapshotInfo, inspect, load, save};
use chelsea_kv::{Budget, CacheConfig, CacheShape, Rotary, SequenceCache};

const HEAD_DIM: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shape = CacheShape::uniform(1, 1, 1, HEAD_DIM, Rotary::plain(HEAD_DIM, 10_000.0))?;
    let config = CacheConfig { budget: Budget::EntryFraction(0.5), ..CacheConfig::new(shape.clone()) };
    let mut cache = SequenceCache::new(config)?;
    let tokens = 600;
    let rows: Vec<f32> = (0..tokens * HEAD_DIM).map(|i| ((i * 37) % 19) as f32 / 19.0 - 0.5).collect();
    cache.append(0, &rows, &rows)?;
    cache.compact()?;

    // The fingerprint names the model; the ids are the text, so that who loads the file knows where it stands.
    let info = SnapshotInfo { fingerprint: [7; 16], tokens: (0..tokens as u32).collect(), note: "{}".into() };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("document.kv");
    save(&path, &cache, &info)?;
    let summary = inspect(&path)?;
    println!("{} tokens in {} entries, {} bytes", summary.tokens, summary.entries, summary.bytes);

    let (mut loaded, found) = load(&path, Some(&Expected { fingerprint: [7; 16], shape }), None)?;
    assert_eq!((found, loaded.entries()), (info, cache.entries()));
    loaded.append(0, &rows[..HEAD_DIM], &rows[..HEAD_DIM])?;
    assert_eq!(loaded.tokens(), tokens + 1);
    Ok(())
}
