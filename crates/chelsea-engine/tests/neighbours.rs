//! What a sequence answers does not depend on who is served beside it, nor on the number of threads: bit for bit.

#![allow(clippy::unwrap_used)]

mod support;

use chelsea_engine::{Outcome, Pace, Runner, Sequence, Work};
use chelsea_linear::Products;
use chelsea_model::Model;
use rayon::ThreadPool;
use std::collections::VecDeque;
use std::sync::Arc;
use support::{likeliest, model, pool, sequence, tokens};

/// What a sequence does, one thing after the other.
#[derive(Debug, Clone)]
enum Act {
    /// Does nothing for so many steps.
    Wait(usize),
    /// Reads a text.
    Read(Vec<u32>),
    /// Reads so many chunks of a text and gives up the rest.
    ReadChunks(usize, Vec<u32>),
    /// Generates so many tokens.
    Decode(usize),
    /// Has a text scored.
    Score(Vec<u32>),
    /// Is joined by a fork that does other things.
    Fork(Vec<Act>),
}

/// A sequence and what it is going to do.
struct Actor {
    sequence: Sequence,
    acts: VecDeque<Act>,
    /// Bits of the logits after each of its steps.
    said: Vec<Vec<u32>>,
}

impl Actor {
    fn new(sequence: Sequence, acts: impl IntoIterator<Item = Act>) -> Self {
        Actor { sequence, acts: acts.into_iter().collect(), said: Vec::new() }
    }

    /// Forks that begin now.
    fn forks(&mut self) -> Vec<Actor> {
        let mut forks = Vec::new();
        while let Some(Act::Fork(acts)) = self.acts.front().cloned() {
            self.acts.pop_front();
            forks.push(Actor::new(self.sequence.fork().unwrap(), acts));
        }
        forks
    }

    /// Its part in the next step, if it has one.
    fn work(&mut self) -> Option<Work<'_>> {
        match self.acts.front()? {
            Act::Wait(_) | Act::Fork(_) => None,
            Act::Read(text) | Act::ReadChunks(_, text) => {
                if self.sequence.reading().is_none() {
                    self.sequence.start_reading(text.as_slice()).unwrap();
                }
                Some(Work::Read(&mut self.sequence))
            }
            Act::Decode(_) => {
                let token = likeliest(&self.sequence);
                Some(Work::Decode(&mut self.sequence, token))
            }
            Act::Score(text) => Some(Work::Score(&mut self.sequence, text)),
        }
    }

    /// Goes on to the next act when this one is done.
    fn note(&mut self, outcome: Outcome, logits: &[f32]) {
        if outcome == Outcome::Held {
            return;
        }
        self.said.push(logits.iter().map(|x| x.to_bits()).collect());
        let done = match self.acts.front_mut().unwrap() {
            Act::Read(_) => self.sequence.reading().is_none(),
            Act::ReadChunks(left, _) => {
                *left -= 1;
                if *left == 0 {
                    self.sequence.stop_reading();
                }
                *left == 0
            }
            Act::Decode(left) => {
                *left -= 1;
                *left == 0
            }
            Act::Score(_) => true,
            Act::Wait(_) | Act::Fork(_) => unreachable!("they are no work"),
        };
        if done {
            self.acts.pop_front();
        }
    }

    fn rest(&mut self) {
        if let Some(Act::Wait(left)) = self.acts.front_mut() {
            *left -= 1;
            if *left == 0 {
                self.acts.pop_front();
            }
        }
    }
}

/// Has everybody act until the first is done; what is done is dropped. What the first said, and the most that took part
/// in a step.
fn play(mut actors: Vec<Actor>, runner: &mut Runner) -> (Vec<Vec<u32>>, usize) {
    let mut together = 0;
    while !actors[0].acts.is_empty() {
        let forks: Vec<Actor> = actors.iter_mut().flat_map(Actor::forks).collect();
        actors.extend(forks);
        let mut i = 0;
        actors.retain(|actor| {
            i += 1;
            i == 1 || !actor.acts.is_empty()
        });
        let (mut works, mut who) = (Vec::new(), Vec::new());
        for (i, actor) in actors.iter_mut().enumerate() {
            if let Some(work) = actor.work() {
                works.push(work);
                who.push(i);
            }
        }
        together = together.max(works.len());
        let outcomes = runner.step(&mut works);
        drop(works);
        for (place, (&i, outcome)) in who.iter().zip(outcomes).enumerate() {
            actors[i].note(outcome.unwrap(), runner.logits(place));
        }
        actors.iter_mut().enumerate().filter(|(i, _)| !who.contains(i)).for_each(|(_, actor)| actor.rest());
    }
    (actors.swap_remove(0).said, together)
}

/// The one that is watched: it reads, answers, scores, and reads again, over several compactions.
fn watched(model: &Arc<Model>) -> Actor {
    let acts = [
        Act::Read(tokens(260, 1)),
        Act::Decode(70),
        Act::ReadChunks(2, tokens(100, 2)),
        Act::Read(tokens(20, 3)),
        Act::Fork(vec![Act::Decode(9)]),
        Act::Decode(70),
        Act::Score(tokens(13, 4)),
        Act::Decode(3),
    ];
    Actor::new(sequence(model, 0.4, "chelsea"), acts)
}

/// Those beside it: they come and go, read, answer, score, fork, give up, and are compacted at other times.
fn others(model: &Arc<Model>, n: usize) -> Vec<Actor> {
    let other = |i: usize| {
        let seed = i as u32 + 10;
        let (keep, policy) = [(1.0, "full"), (0.3, "chelsea"), (0.5, "streaming"), (0.25, "knorm")][i % 4];
        let mut acts = vec![
            Act::Read(tokens(40 + 90 * (i % 3), seed)),
            Act::Decode(5 + 30 * i),
            Act::Fork(vec![Act::Read(tokens(70, seed + 1)), Act::Decode(12)]),
            Act::ReadChunks(1, tokens(150, seed + 2)),
            Act::Score(tokens(1 + 40 * (i % 2), seed + 3)),
            Act::Decode(100),
        ];
        if i % 2 == 1 {
            acts.insert(0, Act::Wait(3 * i));
        }
        Actor::new(sequence(model, keep, policy), acts)
    };
    (0..n).map(other).collect()
}

fn said(model: &Arc<Model>, pool: &Arc<ThreadPool>, pace: Pace, n: usize) -> (Vec<Vec<u32>>, usize) {
    let mut runner = Runner::new(model.clone(), pool.clone()).with_pace(pace);
    let mut actors = vec![watched(model)];
    actors.extend(others(model, n));
    play(actors, &mut runner)
}

fn same(found: &[Vec<u32>], expected: &[Vec<u32>], about: &str) {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(at, None, "{about}: the first difference is in this step of {}", expected.len());
    assert_eq!(found.len(), expected.len(), "{about}");
}

#[test]
fn answers_are_the_same_beside_one_two_or_seven_others() {
    for products in [Products::F32, Products::Fast] {
        let (model, pool) = (model(products), pool(2));
        let (alone, one) = said(&model, &pool, Pace::AllAtOnce, 0);
        assert!(one <= 2 && alone.len() > 150, "its own fork at most");
        for n in [1, 2, 7] {
            for pace in [Pace::AllAtOnce, Pace::OneAStep] {
                let (beside, together) = said(&model, &pool, pace, n);
                assert!(together > n, "{together}");
                same(&beside, &alone, &format!("{products:?}, {n} others, {pace:?}"));
            }
        }
    }
}

#[test]
fn answers_are_the_same_with_one_two_and_three_threads() {
    for products in [Products::F32, Products::Fast] {
        let model = model(products);
        let (expected, _) = said(&model, &pool(1), Pace::OneAStep, 2);
        for threads in [2, 3] {
            same(
                &said(&model, &pool(threads), Pace::OneAStep, 2).0,
                &expected,
                &format!("{products:?}, {threads} threads"),
            );
        }
    }
}
