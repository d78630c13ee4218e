//! Where the tokens of a prompt are cut for checkpoints, where nothing is known but the tokens.
//!
//! A router sends a conversation as one row of tokens, with the turns in it marked only by the tokens that end them. A cut is
//! made after each of those, so that the next prompt of the same conversation, which begins with the same turns, goes on from
//! the longest checkpoint among them. Whether a cut is made depends on what stands before it alone, never on what follows.

use chelsea_model::tokenizer::Tokenizer;
use std::sync::Arc;

/// Tokens of a piece at least, as with prompts that come as messages.
const LEAST: usize = 64;

/// The pieces of a prompt.
pub fn at_turns(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<Arc<[u32]>> {
    pieces(tokens, |token| tokenizer.ends_turn(token))
}

fn pieces(tokens: &[u32], ends: impl Fn(u32) -> bool) -> Vec<Arc<[u32]>> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    for (at, &token) in tokens.iter().enumerate() {
        if ends(token) && at + 1 - from >= LEAST {
            pieces.push(tokens[from..=at].into());
            from = at + 1;
        }
    }
    if from < tokens.len() {
        pieces.push(tokens[from..].into());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of so many tokens, each of which ends with token 0.
    fn turns(lengths: &[usize]) -> Vec<u32> {
        let of = |&length: &usize| (1..length as u32).chain([0]).collect::<Vec<_>>();
        lengths.iter().flat_map(of).collect()
    }

    fn lengths(tokens: &[u32]) -> Vec<usize> {
        pieces(tokens, |token| token == 0).iter().map(|piece| piece.len()).collect()
    }

    #[test]
    fn a_prompt_is_cut_after_turns_and_short_ones_are_joined() {
        assert_eq!(lengths(&turns(&[70, 10, 60, 200])), [70, 70, 200]);
        assert_eq!(lengths(&turns(&[10])), [10]);
        assert_eq!(lengths(&[turns(&[80]), vec![5; 7]].concat()), [80, 7]);
        assert!(lengths(&[]).is_empty());
    }

    #[test]
    fn a_longer_conversation_begins_with_the_pieces_of_a_shorter_one() {
        let all = turns(&[65, 64, 30, 40, 90, 64, 70]);
        let whole = pieces(&all, |token| token == 0);
        for end in (0..all.len()).filter(|&end| all[end] == 0) {
            let short = pieces(&all[..=end], |token| token == 0);
            // What is left over at its end may go on in the longer one.
            let sure = short.len() - usize::from(short.last().is_some_and(|piece| piece.len() < LEAST));
            assert_eq!(short[..sure], whole[..sure]);
        }
    }
}
