//! `full`: the cache as every engine has it.

use super::{Plan, Policy, PolicyInfo, View};
use crate::PoolFull;
use std::sync::Arc;

/// Keeps every entry: what all others are measured against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Full;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "full",
    about: "keep every entry",
    source: "the cache without compression",
    one_shot_only: false,
    settings: &[],
    make: |_| Ok(Arc::new(Full)),
};

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
