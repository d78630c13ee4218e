//! Small random changes to bytes, the same ones for the same seed.

/// A SplitMix64 generator: tiny, and good enough to pick places and values.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
}

/// Inputs are kept below this size.
pub const MAX_LEN: usize = 1 << 16;

/// Numbers at which size computations go wrong.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    31,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1000_0000_0000,
    0x3fff_ffff_ffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffe0,
    0xffff_ffff_ffff_ffff,
];

/// Pieces of text that JSON readers and name tables trip over.
const WORDS: &[&str] = &[
    "null",
    "-1",
    "1e999",
    "[[[[[[[[",
    "{\"\":",
    "\\ud800",
    "\"",
    "18446744073709551616",
    "0.0",
    "true",
    ",,",
    "../x",
];

/// Changes `bytes` in one to six places; `other` is another input to take pieces from.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(6) {
        once(bytes, other, random);
    }
    bytes.truncate(MAX_LEN);
}

fn once(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend_from_slice(other);
        return;
    }
    let at = random.below(bytes.len());
    let len = (1 + random.below(64)).min(bytes.len() - at);
    match random.below(10) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.number() as u8,
        2 => overwrite(bytes, at, &edge(random).to_le_bytes()[..4]),
        3 => overwrite(bytes, at, &edge(random).to_le_bytes()),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..at + len)),
        6 => {
            let piece = bytes[at..at + len].to_vec();
            insert(bytes, random, &piece);
        }
        7 if !other.is_empty() => {
            let from = random.below(other.len());
            let piece = &other[from..(from + len).min(other.len())];
            insert(bytes, random, piece);
        }
        8 => number(bytes, at, random),
        _ => {
            let word = WORDS[random.below(WORDS.len())].as_bytes();
            overwrite(bytes, at, word);
        }
    }
}

fn edge(random: &mut Random) -> u64 {
    let edge = EDGES[random.below(EDGES.len())];
    edge.wrapping_add(random.below(3) as u64).wrapping_sub(1)
}

fn overwrite(bytes: &mut [u8], at: usize, new: &[u8]) {
    let len = new.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&new[..len]);
}

fn insert(bytes: &mut Vec<u8>, random: &mut Random, piece: &[u8]) {
    let at = random.below(bytes.len() + 1);
    bytes.splice(at..at, piece.iter().copied());
}

/// Replaces the next number written in digits by an edge value.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| start + i);
    let text = edge(random).to_string();
    bytes.splice(start..end, text.into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let make = |seed| {
            let (mut random, mut bytes) = (Random::new(seed), vec![7u8; 100]);
            (0..50).for_each(|_| mutate(&mut bytes, b"other 123", &mut random));
            bytes
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn numbers_in_text_become_edge_values() {
        let mut bytes = b"{\"n\": 12}".to_vec();
        number(&mut bytes, 0, &mut Random::new(0));
        let text = String::from_utf8(bytes).expect("still text");
        let digits = text.strip_prefix("{\"n\": ").and_then(|t| t.strip_suffix('}')).expect("only the number changed");
        assert!(digits.parse::<u64>().is_ok() && digits != "12", "{text}");
    }
}
