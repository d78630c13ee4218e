//! Saved caches that the server was started with: documents that need not be read here at all.
//!
//! A prompt that begins with the tokens of one goes on from it, whoever asks and however the prompt came to have them: named
//! by `kv.document`, or word for word. Its cache then keeps the number type, sinks and window of the file, and its budget and
//! policy, unless the request gives others.

use chelsea_engine::SessionOptions;
use chelsea_engine::scheduler::Mounted;
use std::sync::Arc;
use thiserror::Error;

/// A mounted cache.
#[derive(Debug, Clone)]
pub struct Mount {
    /// The name of its file.
    pub name: String,
    /// SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was mounted, in seconds since 1970.
    pub created: u64,
    /// Whether its text was laid out by the chat template.
    pub with_template: bool,
    /// The system message that its text was laid out with.
    pub system: Option<String>,
    /// Its tokens, and how it is kept.
    pub about: Mounted,
}

impl Mount {
    /// The id by which it is listed among files.
    pub fn id(&self) -> String {
        format!("file-{}", &self.digest[..self.digest.len().min(24)])
    }

    fn is_called(&self, id: &str) -> bool {
        id == self.name || id == self.digest || id == self.id()
    }

    /// The settings of a sequence that goes on from it, where a request says nothing else.
    pub fn session(&self, server: &SessionOptions) -> SessionOptions {
        let config = &self.about.config;
        // What reads a text twice was done when the file was made. An answer is compressed as it grows.
        let twice = config.policy.needs().repetition.is_some();
        let policy = if twice { server.policy.clone() } else { config.policy.clone() };
        SessionOptions {
            budget: config.budget,
            policy,
            sinks: config.sinks,
            window: config.window,
            dtype: Some(config.dtype),
            ..server.clone()
        }
    }
}

/// Two files that could not be told apart.
#[derive(Debug, Error)]
#[error("{0} and {1} have the same {2}: mount one of them")]
pub struct SameMount(String, String, &'static str);

/// All mounted caches.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Vec<Arc<Mount>>);

impl Mounts {
    /// These files.
    ///
    /// # Errors
    /// If two of them have the same name or the same tokens.
    pub fn new(mounts: Vec<Mount>) -> Result<Mounts, SameMount> {
        for (i, mount) in mounts.iter().enumerate() {
            for other in &mounts[..i] {
                let same = |what| SameMount(other.name.clone(), mount.name.clone(), what);
                if mount.name == other.name {
                    return Err(same("name"));
                }
                if mount.about.tokens == other.about.tokens {
                    return Err(same("text"));
                }
            }
        }
        Ok(Mounts(mounts.into_iter().map(Arc::new).collect()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.0.iter()
    }

    /// The one of this id, which may be the name of its file or its digest.
    pub fn find(&self, id: &str) -> Option<&Arc<Mount>> {
        self.0.iter().find(|mount| mount.is_called(id))
    }

    /// The longest one that a prompt begins with and goes on after.
    pub fn beginning(&self, pieces: &[Arc<[u32]>]) -> Option<&Arc<Mount>> {
        let tokens = || pieces.iter().flat_map(|piece| piece.iter());
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let begins = |mount: &&Arc<Mount>| {
            let own = &mount.about.tokens;
            own.len() < length && tokens().take(own.len()).eq(own.iter())
        };
        self.0.iter().filter(begins).max_by_key(|mount| mount.about.tokens.len())
    }
}

/// A prompt cut at the end of its first `tokens` tokens, and nowhere before.
pub fn cut_at(pieces: Vec<Arc<[u32]>>, tokens: Arc<[u32]>) -> Vec<Arc<[u32]>> {
    let mut left = tokens.len();
    let mut cut = vec![tokens];
    for piece in pieces {
        let skipped = left.min(piece.len());
        left -= skipped;
        if skipped == 0 {
            cut.push(piece);
        } else if skipped < piece.len() {
            cut.push(piece[skipped..].into());
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(pieces: &[&[u32]]) -> Vec<Arc<[u32]>> {
        pieces.iter().map(|&piece| piece.into()).collect()
    }

    #[test]
    fn a_prompt_is_cut_where_a_mounted_text_ends() {
        let cut = |pieces: &[&[u32]], n: usize| {
            let tokens: Vec<u32> = pieces.concat()[..n].to_vec();
            cut_at(prompt(pieces), tokens.into())
        };
        assert_eq!(cut(&[&[1, 2, 3]], 2), prompt(&[&[1, 2], &[3]]));
        assert_eq!(cut(&[&[1], &[2], &[3, 4], &[5]], 3), prompt(&[&[1, 2, 3], &[4], &[5]]));
        assert_eq!(cut(&[&[1, 2], &[3]], 2), prompt(&[&[1, 2], &[3]]));
    }
}
