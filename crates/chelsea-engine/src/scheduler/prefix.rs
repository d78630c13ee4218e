//! What the beginnings of a prompt are found by.
//!
//! A prompt is cut into pieces, and a checkpoint covers the first few of them. Each of these beginnings has a name, a hash
//! over whose prompt it is, how its cache is kept, and all of its tokens: files are called by it. The names of a prompt are
//! computed once, when the request comes in, in one pass over its tokens; what waits is looked up before every step.

use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// What names a beginning.
pub(super) type Name = [u8; 16];

/// A prompt to be looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prompt<'a> {
    /// Names whose it is and how the cache is kept.
    pub(super) salt: &'a Arc<str>,
    /// Whose it is.
    pub(super) key: u64,
    pub(super) pieces: &'a [Arc<[u32]>],
    /// Of the first piece, of the first two, and so on.
    pub(super) names: &'a [Name],
}

impl Prompt<'_> {
    /// The checkpoint at the end of the first `n` pieces, of which there is at least one.
    pub(super) fn checkpoint(self, n: usize) -> CheckpointKey {
        let (salt, pieces) = (self.salt.clone(), self.pieces[..n].to_vec());
        CheckpointKey { salt, key: self.key, pieces, name: self.names[n - 1] }
    }
}

/// What a prefix must have in common with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckpointKey {
    pub(super) salt: Arc<str>,
    /// Whose it is. A part of the salt, too.
    pub(super) key: u64,
    /// The pieces, in order: the same tokens cut elsewhere were compressed elsewhere.
    pub(super) pieces: Vec<Arc<[u32]>>,
    pub(super) name: Name,
}

impl CheckpointKey {
    pub(super) fn tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Whether a prompt begins with it. Names tell most others apart; tokens are compared all the same.
    pub(super) fn begins(&self, prompt: Prompt<'_>) -> bool {
        prompt.names.get(self.pieces.len() - 1) == Some(&self.name)
            && self.salt == *prompt.salt
            && prompt.pieces.starts_with(&self.pieces)
    }
}

/// The names of all beginnings of a prompt.
pub(super) fn names(fingerprint: &[u8; 16], salt: &str, pieces: &[Arc<[u32]>]) -> Arc<[Name]> {
    let mut hash = Xxh3::new();
    hash.update(fingerprint);
    hash.update(&(salt.len() as u64).to_le_bytes());
    hash.update(salt.as_bytes());
    let mut bytes = Vec::new();
    let name = |piece: &Arc<[u32]>| {
        hash.update(&(piece.len() as u64).to_le_bytes());
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|token| token.to_le_bytes()));
        hash.update(&bytes);
        hash.digest128().to_le_bytes()
    };
    pieces.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(pieces: &[&[u32]]) -> Vec<Arc<[u32]>> {
        pieces.iter().map(|&piece| piece.into()).collect()
    }

    #[test]
    fn a_beginning_has_one_name_whatever_follows() {
        let of = |salt: &str, pieces: &[&[u32]]| names(&[7; 16], salt, &prompt(pieces));
        let (long, short) = (of("a", &[&[1, 2], &[3], &[4, 5]]), of("a", &[&[1, 2], &[3]]));
        assert_eq!(long[..2], short[..]);
        // Cut elsewhere, another's, or of another model: another name.
        assert_ne!(of("a", &[&[1, 2, 3]])[0], short[1]);
        assert_ne!(of("b", &[&[1, 2]])[0], short[0]);
        assert_ne!(names(&[8; 16], "a", &prompt(&[&[1, 2]]))[0], short[0]);
    }

    #[test]
    fn a_checkpoint_begins_what_goes_on_from_it() {
        let (salt, pieces) = (Arc::<str>::from("a"), prompt(&[&[1, 2], &[3], &[4, 5]]));
        let names = names(&[7; 16], &salt, &pieces);
        let whole = Prompt { salt: &salt, key: 0, pieces: &pieces, names: &names };
        let key = whole.checkpoint(2);
        assert!(key.begins(whole) && key.tokens() == 3);
        let shorter = Prompt { pieces: &pieces[..1], names: &names[..1], ..whole };
        assert!(!key.begins(shorter));
        let other = Arc::<str>::from("b");
        assert!(!key.begins(Prompt { salt: &other, ..whole }));
    }
}
