//! Merges of a SentencePiece BPE vocabulary, from its scores.
//!
//! SentencePiece stores no list of merges: it joins the pair whose result has the highest score. As a list: every
//! way to cut a token into two tokens is a merge, in order of the token's score, highest first, and among equals
//! the longer left half first, then the longer right half. That is the order in which the published
//! `tokenizer.json` of such models has them (they were converted so).

use std::collections::HashMap;

/// Most pairs a vocabulary may yield. Real ones yield a few for each token; a hostile one, of long runs of one
/// character, could yield thousands.
pub(super) const MAX_PAIRS: usize = 1 << 24;

/// The merges that make `normal` tokens, given as `(token, score)` in order of their ids; `None` where there
/// would be absurdly many.
///
/// Only the halves' being normal tokens matters: control and byte tokens are neither made nor used by merging,
/// so that no text can merge into one.
pub(super) fn merges(normal: &[(&str, f32)]) -> Option<Vec<(String, String)>> {
    let ids: HashMap<&str, usize> = normal.iter().enumerate().map(|(id, (token, _))| (*token, id)).collect();
    let mut found: Vec<Cut> = Vec::new();
    for (id, (token, score)) in normal.iter().enumerate() {
        if ids.get(token) != Some(&id) {
            continue;
        }
        let chars = token.chars().count();
        for (left_chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push(Cut { score: *score, left_chars, right_chars: chars - left_chars, left, right });
            }
        }
        if found.len() > MAX_PAIRS {
            return None;
        }
    }
    // Stable: what is equal in all three keeps the order of the tokens' ids.
    found.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then(b.left_chars.cmp(&a.left_chars)).then(b.right_chars.cmp(&a.right_chars))
    });
    Some(found.into_iter().map(|cut| (cut.left.to_owned(), cut.right.to_owned())).collect())
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
        assert_eq!(merges(&vocab).map(|m| m.len()), Some(3));
    }
}
