//! Checkpoints as routers count them: in blocks of tokens, each with a name that follows from all tokens up to its end.
//!
//! Routers know caches that can be gone on from at any block. A clustered one can be gone on from at its end alone, so a
//! block is told of for as long as some checkpoint covers it, and none beyond the ends of checkpoints. A prompt that shares
//! only some of a checkpoint's blocks is read anew here: a router that counts on those sends it to no worse a place.

use super::BLOCK;
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is told of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// These blocks are there now, one after the other.
    Stored { names: Vec<u64>, parent: Option<u64>, tokens: Vec<u32> },
    /// These are not there any more.
    Removed { names: Vec<u64> },
}

/// Which blocks there are, and how many checkpoints cover each.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    covered: HashMap<u64, Covered>,
}

#[derive(Debug)]
struct Covered {
    times: usize,
    parent: Option<u64>,
    tokens: [u32; BLOCK],
}

/// Seed of the first block's name. Names have no sign: there are readers that take them for numbers that have one.
const FIRST: u64 = 0x6368_656c_7365_6131;

fn chain(pieces: &[Arc<[u32]>]) -> Vec<(u64, [u32; BLOCK])> {
    let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    let mut name = FIRST;
    let block = |tokens: &[u32]| {
        let mut block = [0; BLOCK];
        block.copy_from_slice(tokens);
        let bytes: Vec<u8> = block.iter().flat_map(|token| token.to_le_bytes()).collect();
        name = xxh3_64_with_seed(&bytes, name) >> 1;
        (name, block)
    };
    tokens.chunks_exact(BLOCK).map(block).collect()
}

impl Blocks {
    /// A checkpoint at the end of these pieces was kept.
    pub(super) fn keep(&mut self, pieces: &[Arc<[u32]>]) -> Option<Change> {
        let (mut names, mut fresh, mut before) = (Vec::new(), Vec::new(), None);
        let mut parent = None;
        for (name, tokens) in chain(pieces) {
            let covered = self.covered.entry(name).or_insert(Covered { times: 0, parent: before, tokens });
            if covered.times == 0 {
                if names.is_empty() {
                    parent = before;
                }
                names.push(name);
                fresh.extend(tokens);
            }
            covered.times += 1;
            before = Some(name);
        }
        (!names.is_empty()).then_some(Change::Stored { names, parent, tokens: fresh })
    }

    /// It was given up.
    pub(super) fn give_up(&mut self, pieces: &[Arc<[u32]>]) -> Option<Change> {
        let mut names = Vec::new();
        for (name, _) in chain(pieces) {
            let Some(covered) = self.covered.get_mut(&name) else { continue };
            covered.times -= 1;
            if covered.times == 0 {
                self.covered.remove(&name);
                names.push(name);
            }
        }
        // The last ones first: none is without the one before it at any time.
        names.reverse();
        (!names.is_empty()).then_some(Change::Removed { names })
    }

    /// All that there is, each block after the one before it: what is told to somebody who was not there before.
    pub(super) fn all(&self) -> Vec<Change> {
        let mut below: HashMap<Option<u64>, Vec<u64>> = HashMap::new();
        self.covered.iter().for_each(|(&name, covered)| below.entry(covered.parent).or_default().push(name));
        let mut changes = Vec::new();
        let mut open: Vec<u64> = below.remove(&None).unwrap_or_default();
        while let Some(first) = open.pop() {
            let (mut names, mut tokens) = (Vec::new(), Vec::new());
            let parent = self.covered[&first].parent;
            let mut next = Some(first);
            while let Some(name) = next {
                names.push(name);
                tokens.extend(self.covered[&name].tokens);
                let mut after = below.remove(&Some(name)).unwrap_or_default();
                next = after.pop();
                open.extend(after);
            }
            changes.push(Change::Stored { names, parent, tokens });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn text(lengths: &[usize], last: u32) -> Vec<Arc<[u32]>> {
        let mut next = 0;
        let mut pieces: Vec<Vec<u32>> = lengths
            .iter()
            .map(|n| {
                (0..*n)
                    .map(|_| {
                        next += 1;
                        next
                    })
                    .collect()
            })
            .collect();
        *pieces.last_mut().unwrap().last_mut().unwrap() = last;
        pieces.into_iter().map(Arc::from).collect()
    }

    /// What a router that hears of these changes believes to be there.
    fn believe(there: &mut HashSet<u64>, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Stored { names, parent, tokens }) => {
                assert_eq!(tokens.len(), names.len() * BLOCK);
                assert!(parent.is_none_or(|parent| there.contains(&parent)), "a block without the one before it");
                there.extend(names);
            }
            Some(Change::Removed { names }) => names.iter().for_each(|name| assert!(there.remove(name))),
        }
    }

    #[test]
    fn blocks_are_there_for_as_long_as_a_checkpoint_covers_them() {
        let (mut blocks, mut there) = (Blocks::default(), HashSet::new());
        let (short, long, other) = (text(&[40], 40), text(&[40, 60], 100), text(&[40, 60], 7));
        believe(&mut there, blocks.keep(&short));
        assert_eq!(there.len(), 2, "nothing beyond the end of a checkpoint");
        believe(&mut there, blocks.keep(&long));
        believe(&mut there, blocks.keep(&other));
        // 100 tokens are six blocks, and the two differ in a token that is in none.
        assert_eq!(there.len(), 6);
        believe(&mut there, blocks.give_up(&short));
        believe(&mut there, blocks.give_up(&long));
        assert_eq!(there.len(), 6);
        believe(&mut there, blocks.give_up(&other));
        assert!(there.is_empty() && blocks.covered.is_empty());
    }

    #[test]
    fn who_comes_late_hears_of_everything_in_order() {
        let mut blocks = Blocks::default();
        let mut early = HashSet::new();
        for lengths in [[64, 64], [64, 100], [32, 16], [16, 16]] {
            for last in [1, 500, 501] {
                believe(&mut early, blocks.keep(&text(&lengths, last)));
            }
        }
        let mut late = HashSet::new();
        blocks.all().into_iter().for_each(|change| believe(&mut late, Some(change)));
        assert_eq!(early, late);
    }
}
