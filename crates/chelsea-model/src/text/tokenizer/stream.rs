//! Tokens to text as they come, never half a character.

use super::Tokenizer;
use super::table::{Alphabet, Kind};

/// Turns a stream of tokens into text piece by piece.
///
/// A token may end inside a character; its bytes are held back until the character is whole. The pieces put
/// together, with what [`finish`](Self::finish) returns, are exactly [`Tokenizer::decode`] of all the ids.
#[derive(Debug, Clone)]
pub struct TextStream {
    skip_special: bool,
    /// Bytes of a character that is not whole yet.
    pending: Vec<u8>,
    /// Whether a first space is still to be dropped.
    at_start: bool,
}

impl TextStream {
    /// A stream at its start. `skip_special` leaves control tokens out of the text.
    pub fn new(skip_special: bool) -> Self {
        Self { skip_special, pending: Vec::new(), at_start: true }
    }

    /// Adds a token; returns the text that is now certain (often empty).
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let table = &tokenizer.table;
        if self.skip_special && table.kind(id) == Some(Kind::Special) {
            return String::new();
        }
        table.append_bytes(id, &mut self.pending);
        if self.at_start && !self.pending.is_empty() {
            self.at_start = false;
            if table.alphabet == (Alphabet::SentencePiece { drop_first_space: true }) && self.pending[0] == b' ' {
                self.pending.remove(0);
            }
        }
        let whole = whole_characters(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }

    /// Ends the stream: what was held back, with U+FFFD for bytes that never became a character.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Length of the prefix after which at most the beginning of one character is left.
fn whole_characters(bytes: &[u8]) -> usize {
    let mut done = 0;
    loop {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(_) => return bytes.len(),
            Err(error) => {
                done += error.valid_up_to();
                match error.error_len() {
                    Some(bad) => done += bad,
                    None => return done,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cutting_bytes_anywhere_gives_the_text_of_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xF8u8, Just(b'a')], 0..40),
        ) {
            let mut pending = Vec::new();
            let mut text = String::new();
            for &byte in &bytes {
                pending.push(byte);
                let whole = whole_characters(&pending);
                text.push_str(&String::from_utf8_lossy(&pending[..whole]));
                pending.drain(..whole);
                prop_assert!(pending.len() < 4);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
