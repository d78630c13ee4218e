//! Merges of a SentencePiece BPE vocabulary, from its scores.
//!
//! SentencePiece stores no list of merges: it joins the pair whose result has the highest score. As a list: every
//! way to cut a token into two tokens is a merge, in order of the token's score, highest first, and among equals
//! the longer left half first, then the longer right half. That is the order in which the published
//! `tokenizer.json` of such models has them (they were converted so).

use std::collections::HashMap;

use super::TokenizerError;

/// Most pairs a vocabulary may yield. Real ones yield a few for each token; a hostile one, of long runs of one
/// character, could yield thousands.
const MAX_PAIRS: usize = 1 << 24;
/// Most bytes that the halves of all pairs may have together: each pair is a copy of its token. Real vocabularies stay
/// below a few MiB; one of runs of every length up to the longest token would take 23 GB in fewer pairs than allowed.
const MAX_BYTES: usize = 64 << 20;

/// The merges that make `normal` tokens, given as `(token, score)` in order of their ids.
///
/// # Errors
/// [`TokenizerError::TooLarge`] where there would be absurdly many, or absurdly long ones.
///
/// Only the halves' being normal tokens matters: control and byte tokens are neither made nor used by merging,
/// so that no text can merge into one.
pub(super) fn merges(normal: &[(&str, f32)]) -> Result<Vec<(String, String)>, TokenizerError> {
    let ids: HashMap<&str, usize> = normal.iter().enumerate().map(|(id, (token, _))| (*token, id)).collect();
    let mut found: Vec<Cut> = Vec::new();
    let mut bytes = 0;
    for (id, (token, score)) in normal.iter().enumerate() {
        if ids.get(token) != Some(&id) {
            continue;
        }
        let chars = token.chars().count();
        for (left_chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push(Cut { score: *score, left_chars, right_chars: chars - left_chars, left, right });
                bytes += token.len();
            }
        }
        for (what, found, limit) in
            [("the number of merges", found.len(), MAX_PAIRS), ("the length of all merges", bytes, MAX_BYTES)]
        {
            if found > limit {
                return Err(TokenizerError::TooLarge { what, found: found as u64, limit: limit as u64 });
            }
        }
    }
    // Stable: what is equal in all three keeps the order of the tokens' ids.
    found.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then(b.left_chars.cmp(&a.left_chars)).then(b.right_chars.cmp(&a.right_chars))
    });
    Ok(found.into_iter().map(|cut| (cut.left.to_owned(), cut.right.to_owned())).collect())
}

/// A token cut in two tokens.
struct Cut<'a> {
    score: f32,
    left_chars: usize,
    right_chars: usize,
    left: &'a str,
    right: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_merge_first_then_longer_left_halves() {
        let vocab = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("bc", -1.0), ("ab", -2.0), ("abc", -3.0)];
        let merges = merges(&vocab).expect("few pairs");
        let joined: Vec<String> = merges.iter().map(|(l, r)| format!("{l}+{r}")).collect();
        assert_eq!(joined, ["b+c", "a+b", "ab+c", "a+bc"]);
    }

    #[test]
    fn scores_that_are_not_numbers_do_not_panic() {
        let vocab = [("a", f32::NAN), ("aa", f32::NAN), ("aaa", f32::INFINITY)];
        assert_eq!(merges(&vocab).expect("few pairs").len(), 3);
    }

    #[test]
    fn runs_of_every_length_are_refused_before_they_take_memory() {
        let runs: Vec<String> = (1..=4096).map(|n| "a".repeat(n)).collect();
        let vocab: Vec<(&str, f32)> = runs.iter().map(|run| (run.as_str(), 0.0)).collect();
        let error = merges(&vocab).expect_err("too many bytes");
        assert!(matches!(error, TokenizerError::TooLarge { what: "the length of all merges", .. }), "{error}");
        // Runs as long as those of spaces in real vocabularies are fine.
        assert!(merges(&vocab[..256]).is_ok());
    }
}
