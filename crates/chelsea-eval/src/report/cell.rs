//! Results of one way of keeping the cache, and the figures that are taken of them.

use super::stats::Interval;
use crate::results::{Asked, Record};
use crate::setting::{Basis, Mode, Setting};
use std::collections::{BTreeMap, BTreeSet};

/// Results of one setting.
pub(super) struct Cell<'a> {
    pub setting: Setting,
    /// The policy with all its settings: one name may have stood for several, as defaults changed.
    pub spec: &'a str,
    /// Whether old centroids were matched again, where results differ in it.
    pub schedule: Option<&'static str>,
    /// The type that keys and values were stored in, where that is another than the section's and not what the budget
    /// makes it.
    pub other: Option<&'a str>,
    /// What the series is called.
    pub series: String,
    /// By task and sample.
    pub records: BTreeMap<(&'a str, &'a str), &'a Record>,
}

/// Tasks and samples of them.
pub(super) type Keys<'a> = BTreeSet<(&'a str, &'a str)>;

/// Whether a record is of one of these.
pub(super) fn is_among(record: &Record, keys: &Keys<'_>) -> bool {
    keys.contains(&(record.task.as_str(), record.sample.as_str()))
}

/// Which figure is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    /// From 0 to 1, of tasks that are asked or copied.
    Score,
    /// Mean loss of right answers.
    Nll,
    /// Mean divergence from the full cache.
    Kl,
}

impl Figure {
    /// The figure of a record, where it has it.
    pub fn of(self, record: &Record) -> Option<f64> {
        match self {
            // How often predictions agree is no score of a task: their divergence says it better.
            Figure::Score => (!is_divergence(record)).then_some(record.score),
            Figure::Nll => record.mean(|a: &Asked| a.nll),
            Figure::Kl => record.mean(|a: &Asked| a.kl),
        }
    }
}

fn is_divergence(record: &Record) -> bool {
    record.asked.iter().any(|a| a.kl.is_some())
}

impl<'a> Cell<'a> {
    /// Whether the policy is the default one, by whatever name it was asked for.
    pub fn is_default(&self) -> bool {
        chelsea_kv::policy("chelsea").is_ok_and(|policy| policy.spec() == self.spec)
    }

    /// Values of the figure by task; `keep` picks records.
    pub fn values(&self, figure: Figure, keep: &dyn Fn(&Record) -> bool) -> Vec<Vec<f64>> {
        let mut tasks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for ((task, _), record) in self.records.iter().filter(|(_, r)| keep(r)) {
            if let Some(value) = figure.of(record) {
                tasks.entry(task).or_default().push(value);
            }
        }
        tasks.into_values().collect()
    }

    /// The mean over tasks, with its interval.
    pub fn interval(&self, figure: Figure, keep: &dyn Fn(&Record) -> bool) -> Option<Interval> {
        Interval::of(&self.values(figure, keep))
    }

    /// The difference from another setting on the samples that both have.
    pub fn difference(&self, other: &Cell<'_>, figure: Figure) -> Option<Interval> {
        let mut tasks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (key, record) in &self.records {
            let Some(theirs) = other.records.get(key) else { continue };
            if let (Some(a), Some(b)) = (figure.of(record), figure.of(theirs)) {
                tasks.entry(key.0).or_default().push(a - b);
            }
        }
        Interval::of(&tasks.into_values().collect::<Vec<_>>())
    }

    /// Share of the questions that are answered as `full` answers them, of those that both were asked.
    pub fn agreement(&self, full: &Cell<'_>) -> Option<f64> {
        let pairs = self.records.iter().filter_map(|(key, record)| Some(record.agreement(full.records.get(key)?)));
        let (alike, all) = pairs.fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        (all > 0).then(|| alike as f64 / all as f64)
    }

    /// Bytes held as a share of the full cache's, of records that have the figure; `keep` picks records.
    pub fn share(&self, figure: Figure, keep: &dyn Fn(&Record) -> bool) -> f64 {
        let of = |f: fn(&Record) -> usize| -> f64 {
            let records = self.records.values().filter(|r| figure.of(r).is_some() && keep(r));
            records.map(|r| f(r) as f64).sum()
        };
        of(|r| r.kv_bytes) / of(|r| r.kv_bytes_full).max(1.0)
    }

    /// Tasks that have the figure.
    pub fn tasks(&self, figure: Figure) -> BTreeSet<&'a str> {
        self.records.iter().filter(|(_, r)| figure.of(r).is_some()).map(|((task, _), _)| *task).collect()
    }

    /// Samples that have the figure.
    pub fn samples(&self, figure: Figure) -> usize {
        self.records.values().filter(|r| figure.of(r).is_some()).count()
    }

    /// Whether the setting was run on all of these.
    pub fn covers(&self, keys: &Keys<'_>) -> bool {
        keys.iter().all(|key| self.records.contains_key(key))
    }

    pub fn keys(&self, figure: Figure, keep: &dyn Fn(&Record) -> bool) -> Keys<'a> {
        self.records.iter().filter(|(_, r)| figure.of(r).is_some() && keep(r)).map(|(key, _)| *key).collect()
    }
}

/// Names the series of all cells: by the policy, and by as much more as tells them apart.
pub(super) fn name(cells: &mut [Cell<'_>], modes: bool) {
    // One specification may have been asked for in several ways: the shortest is the name. One name may have stood for
    // several specifications: then these are the names.
    let mut asked: BTreeMap<&str, String> = BTreeMap::new();
    for record in cells.iter().flat_map(|c| c.records.values()) {
        let policy = &record.setting.policy;
        let name = asked.entry(&record.spec).or_insert_with(|| policy.clone());
        if policy.len() < name.len() {
            name.clone_from(policy);
        }
    }
    let unclear = |name: &String| asked.values().filter(|other| *other == name).count() > 1;
    let of = |of: Basis| cells.iter().any(|c| c.setting.keep < 1.0 && c.setting.of == of);
    let both = of(Basis::Entries) && of(Basis::Bytes);
    let schedules = cells.iter().filter_map(|c| c.schedule).collect::<BTreeSet<_>>().len() > 1;
    for cell in cells.iter_mut() {
        let mut name = asked.get(cell.spec).filter(|name| !unclear(name)).map_or(cell.spec, |name| name).to_owned();
        if let Some(other) = cell.other {
            name += &format!(" in {other}");
        }
        let Setting { keep, mode, of, .. } = cell.setting;
        if both && of == Basis::Bytes {
            name += " --kv-budget";
        }
        if modes && !(keep >= 1.0 && mode == Mode::OneShot) {
            name += &format!(", {mode}");
        }
        if let Some(schedule) = cell.schedule.filter(|_| schedules) {
            name += &format!(", {schedule}");
        }
        cell.series = name;
    }
}
