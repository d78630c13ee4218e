//! `full`: the cache as every engine has it.

use super::{Plan, Policy, View};
use crate::PoolFull;

/// Keeps every entry: what all others are measured against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Full;

impl Policy for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn keeps_everything(&self) -> bool {
        true
    }

    fn plan(&self, view: &View<'_>, _target: usize) -> Result<Plan, PoolFull> {
        Ok(Plan::identity(view.heads.len()))
    }
}
