//! A document on its way into a session: whether it fits, and how it is read.

use crate::cli::CacheArgs;
use crate::output;
use anyhow::{Context as _, Result};
use chelsea_engine::{Compression, Layout, ReadStats, Repetition, Session};
use chelsea_model::tokenizer::Tokenizer;

/// If a document is to be clustered after reading: the words for policies that have it repeated first.
pub fn one_shot(args: &CacheArgs, layout: &Layout<'_>) -> Result<Option<Repetition>> {
    Ok(if args.compression() == Compression::OneShot { Some(layout.repetition()?) } else { None })
}

/// The tokens of a document. One that cannot fit, whatever its tokens are, is refused before they are known: of a very
/// large text they take a minute.
pub fn tokens(session: &Session, tokenizer: &Tokenizer, layout: &Layout<'_>, text: &str) -> Result<Vec<u32>> {
    let fewest = tokenizer.fewest_tokens(text.len());
    session.check_context(fewest).with_context(|| {
        format!("the document has {} and so at least {fewest} tokens, most likely far more", output::bytes(text.len()))
    })?;
    Ok(layout.document(text)?)
}

/// Refuses a document of `document` tokens and a question of `question` that do not fit after what was read, before any of it
/// is read; and a document that leaves no room to be repeated by a policy that has to read it twice.
pub fn check_room(session: &Session, document: usize, question: usize, words: Option<&Repetition>) -> Result<()> {
    session.check_context(document + question)?;
    let config = session.cache().config();
    let all = session.history().len() + document;
    // What was compressed before is not compressed again.
    let compressed = document == 0 && session.cache().is_within_budget();
    if let (Some(words), Some(chunk)) = (words, config.policy.needs().repetition)
        && !compressed
        && config.allowed(all) < all * config.shape.heads()
    {
        session.check_context(document + words.longest(chunk.min(all))).with_context(|| {
            format!("policy `{}` has the model repeat the text after it, part by part", config.policy.name())
        })?;
    }
    Ok(())
}

/// Reads a document with a progress bar, and clusters it afterwards if there are words for that.
pub fn read(session: &mut Session, tokens: &[u32], one_shot: Option<&Repetition>, quiet: bool) -> Result<ReadStats> {
    let bar = output::bar(tokens.len() as u64, "reading", false, quiet);
    let mut stats = session.read(tokens, |p| bar.set_position(p.done as u64))?;
    bar.finish_and_clear();
    if let Some(words) = one_shot
        && !session.cancelled()
    {
        stats.clustering += session.compress_with(words)?;
        stats.time += stats.clustering;
    }
    Ok(stats)
}
