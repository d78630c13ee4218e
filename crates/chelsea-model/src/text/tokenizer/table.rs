//! The vocabulary the other way round: from an id to the bytes it stands for.
//!
//! Tokens are spelled in one of two alphabets. Byte-level BPE writes each byte as one printable character
//! (GPT-2's table). SentencePiece writes a space as `▁` and a byte that belongs to no token as `<0xNN>`.
//! Control tokens are spelled as they are.

/// What a token is, as GGUF's `tokenizer.ggml.token_type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// Marks a turn, a document, an unknown character: never part of what a user wrote.
    Special,
    /// Matched in text before anything else, but text all the same.
    Added,
    /// One byte (SentencePiece).
    Byte(u8),
}

impl Kind {
    /// Whether it is matched before text is cut.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Self::Special | Self::Added)
    }
}

/// How tokens spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// One printable character a byte.
    ByteLevel,
    /// `▁` for a space. `drop_first_space`: the first space of a text was put there by the encoder.
    SentencePiece { drop_first_space: bool },
}

/// All tokens by id. One text and one list of ends: a vocabulary has hundreds of thousands of tokens.
#[derive(Debug, Clone)]
pub(super) struct Table {
    text: String,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    pub(super) alphabet: Alphabet,
    /// Byte of each character of GPT-2's table; they all lie below 512.
    byte_of: Box<[Option<u8>; 512]>,
}

impl Table {
    pub(super) fn new(alphabet: Alphabet) -> Self {
        Self { text: String::new(), ends: Vec::new(), kinds: Vec::new(), alphabet, byte_of: bytes_of_chars() }
    }

    pub(super) fn push(&mut self, token: &str, kind: Kind) {
        self.text.push_str(token);
        self.ends.push(self.text.len());
        self.kinds.push(kind);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        self.text.get(start..end)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// Appends the bytes token `id` stands for. An id outside the vocabulary stands for nothing: models pad
    /// their last matrix, so such an id can be drawn.
    pub(super) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let (Some(token), Some(kind)) = (self.text(id), self.kind(id)) else { return };
        match (kind, self.alphabet) {
            (Kind::Byte(byte), _) => out.push(byte),
            (Kind::Special | Kind::Added, _) => out.extend_from_slice(token.as_bytes()),
            (Kind::Normal, Alphabet::SentencePiece { .. }) => {
                out.extend_from_slice(token.replace('▁', " ").as_bytes());
            }
            (Kind::Normal, Alphabet::ByteLevel) => {
                let start = out.len();
                for c in token.chars() {
                    match self.byte_of.get(c as usize).copied().flatten() {
                        Some(byte) => out.push(byte),
                        None => {
                            // Not written in the table's alphabet: the token is plain text.
                            out.truncate(start);
                            out.extend_from_slice(token.as_bytes());
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// GPT-2's table backwards: printable Latin-1 characters stand for themselves, the other bytes, in order, for
/// the characters from U+0100 on.
fn bytes_of_chars() -> Box<[Option<u8>; 512]> {
    let mut table = Box::new([None; 512]);
    let mut next = 256;
    for byte in 0..=255u8 {
        match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => table[byte as usize] = Some(byte),
            _ => {
                table[next] = Some(byte);
                next += 1;
            }
        }
    }
    table
}

/// The byte a SentencePiece token of the form `<0xNN>` stands for.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let table = bytes_of_chars();
        let mut seen: Vec<u8> = table.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(table['Ġ' as usize], Some(b' '));
        assert_eq!(table['Ċ' as usize], Some(b'\n'));
    }

    #[test]
    fn byte_tokens_are_two_hex_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xfF>"), Some(255));
        for other in ["<0x0>", "<0x+1>", "<0x123>", "0x12", "<0x>", "<0xG0>"] {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }
}
