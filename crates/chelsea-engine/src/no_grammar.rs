//! Grammars in a build without the feature `grammar`: types that have no values, so that every answer is free, and what
//! follows a grammar elsewhere is compiled to nothing.

use std::convert::Infallible;
use thiserror::Error;

/// Why a grammar cannot be followed: never, since there is none.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct GrammarError(Infallible);

/// A compiled grammar, of which there are none.
#[derive(Debug, Clone)]
pub struct Grammar(Infallible);

/// The tokens that may come next where a grammar says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(Infallible);

impl Allowed {
    /// Their ids, in order.
    pub fn tokens(&self) -> std::iter::Empty<u32> {
        match self.0 {}
    }
}

/// An answer's way through its grammar.
#[derive(Debug)]
pub(crate) struct Path(Infallible);

impl Path {
    pub(crate) fn new(grammar: &Grammar) -> Self {
        match grammar.0 {}
    }

    pub(crate) fn is_unprepared(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn prepare(&mut self) {
        match self.0 {}
    }

    pub(crate) fn allowed(&mut self) -> Result<Option<&Allowed>, GrammarError> {
        match self.0 {}
    }

    pub(crate) fn take(&mut self, _token: u32) -> Result<(), GrammarError> {
        match self.0 {}
    }

    pub(crate) fn is_complete(&self) -> bool {
        match self.0 {}
    }
}
