//! Results sorted into what a report compares: models, ways of keeping the cache, tasks, lengths.

use super::stats::Interval;
use crate::results::{Asked, Record};
use crate::setting::{Mode, Setting};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// More distinct lengths than this are put into classes.
const MOST_LENGTHS: usize = 8;

/// Results of one model under one setup.
pub(super) struct Section<'a> {
    pub model: String,
    pub setup: String,
    pub tasks: Vec<&'a str>,
    pub lengths: Vec<usize>,
    /// In order: the full cache, then policies as they first appear, each from much to little kept.
    pub cells: Vec<Cell<'a>>,
    modes: usize,
    classes: bool,
}

/// Results of one setting.
pub(super) struct Cell<'a> {
    pub setting: Setting,
    /// The type that keys and values were stored in, where that is another than the section's.
    other: Option<&'a str>,
    /// By task and sample.
    pub records: BTreeMap<(&'a str, &'a str), &'a Record>,
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

    /// Bytes held as a share of the full cache's, of records that have the figure.
    pub fn share(&self, figure: Figure) -> f64 {
        let of = |f: fn(&Record) -> usize| -> f64 {
            self.records.values().filter(|r| figure.of(r).is_some()).map(|r| f(r) as f64).sum()
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
}

/// Results that compare with each other.
struct Group<'a> {
    fingerprint: &'a str,
    setup: String,
    seed: u64,
    records: Vec<&'a Record>,
}

impl<'a> Section<'a> {
    /// One section a model, setup and seed, in the order of the results.
    pub fn all(records: &'a [Record], policies: &[String]) -> Vec<Section<'a>> {
        let mut seen = HashSet::new();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for record in records.iter().filter(|r| seen.insert(r.key())) {
            let wanted = policies.is_empty() || policies.contains(&record.setting.policy);
            if !wanted && record.setting.keep < 1.0 {
                continue;
            }
            let (fingerprint, setup, seed) = (record.fingerprint.as_str(), setup(record), record.seed);
            let same = |g: &&mut Group<'_>| g.fingerprint == fingerprint && g.setup == setup && g.seed == seed;
            match groups.iter_mut().find(same) {
                Some(group) => group.records.push(record),
                None => groups.push(Group { fingerprint, setup, seed, records: vec![record] }),
            }
        }
        groups.into_iter().map(|g| Section::new(g.setup, g.seed, &g.records)).collect()
    }

    fn new(setup: String, seed: u64, records: &[&'a Record]) -> Section<'a> {
        let first = records.first().map_or("", |r| stored(r));
        let several = records.iter().any(|r| stored(r) != first);
        let setup = with_stored(&setup, &if several { format!("{first} unless said") } else { first.to_owned() });
        let other = |r: &&'a Record| Some(stored(r)).filter(|other| *other != first);
        let tasks: BTreeSet<&str> = records.iter().map(|r| r.task.as_str()).collect();
        let exact: BTreeSet<usize> = records.iter().map(|r| raw_length(r)).collect();
        let classes = exact.len() > MOST_LENGTHS;
        let lengths: BTreeSet<usize> = exact.iter().map(|&n| class(n, classes)).collect();
        let modes: HashSet<Mode> = records.iter().map(|r| r.setting.mode).collect();
        let mut cells: Vec<Cell<'a>> = Vec::new();
        for record in records {
            let other = other(record);
            let at = match cells.iter().position(|c| c.setting == record.setting && c.other == other) {
                Some(at) => at,
                None => {
                    cells.push(Cell { setting: record.setting.clone(), other, records: BTreeMap::new() });
                    cells.len() - 1
                }
            };
            cells[at].records.insert((&record.task, &record.sample), record);
        }
        let mut order: Vec<(String, Mode, Option<&str>)> = Vec::new();
        for cell in &cells {
            let series = (cell.setting.policy.clone(), cell.setting.mode, cell.other);
            if !order.contains(&series) {
                order.push(series);
            }
        }
        let place = |Cell { setting: s, other, .. }: &Cell<'_>| {
            order.iter().position(|(p, m, o)| *p == s.policy && *m == s.mode && o == other).unwrap_or(usize::MAX)
        };
        cells.sort_by(|a, b| {
            let full = |c: &Cell<'_>| c.setting.keep < 1.0;
            let keys = (full(a), place(a)).cmp(&(full(b), place(b)));
            keys.then(b.setting.keep.total_cmp(&a.setting.keep))
        });
        let model = records.first().map_or_else(String::new, |r| r.model.clone());
        let setup = if seed == 0 { setup } else { format!("{setup}, seed {seed}") };
        Section {
            model,
            setup,
            tasks: tasks.into_iter().collect(),
            lengths: lengths.into_iter().collect(),
            cells,
            modes: modes.len(),
            classes,
        }
    }

    /// Tasks that have the figure under any setting.
    pub fn tasks_of(&self, figure: Figure) -> BTreeSet<&'a str> {
        self.cells.iter().flat_map(|c| c.tasks(figure)).collect()
    }

    /// Whether a setting was run on every task that has the figure: only then does its mean compare with others.
    pub fn complete(&self, cell: &Cell<'_>, figure: Figure) -> bool {
        cell.tasks(figure).len() == self.tasks_of(figure).len()
    }

    /// Tasks by the lengths that they were run at, where those are several.
    pub fn tasks_by_lengths(&self) -> Vec<(BTreeSet<usize>, BTreeSet<&'a str>)> {
        let mut lengths: BTreeMap<&'a str, BTreeSet<usize>> = BTreeMap::new();
        for ((task, _), record) in self.cells.iter().flat_map(|c| &c.records) {
            if Figure::Score.of(record).is_some() {
                lengths.entry(task).or_default().insert(self.length(record));
            }
        }
        let mut groups: BTreeMap<BTreeSet<usize>, BTreeSet<&'a str>> = BTreeMap::new();
        for (task, lengths) in lengths.into_iter().filter(|(_, lengths)| lengths.len() > 1) {
            groups.entry(lengths).or_default().insert(task);
        }
        groups.into_iter().collect()
    }

    /// The length of a record, or its class.
    pub fn length(&self, record: &Record) -> usize {
        class(raw_length(record), self.classes)
    }

    /// What the series of a cell is called.
    pub fn series(&self, cell: &Cell<'_>) -> String {
        let Setting { policy, keep, mode } = &cell.setting;
        let policy = cell.other.map_or_else(|| policy.clone(), |other| format!("{policy} in {other}"));
        let one = self.modes <= 1 || (*keep >= 1.0 && *mode == Mode::OneShot);
        if one { policy } else { format!("{policy}, {mode}") }
    }

    /// What a cell is called.
    pub fn name(&self, cell: &Cell<'_>) -> String {
        let keep = cell.setting.keep;
        if keep >= 1.0 { self.series(cell) } else { format!("{} {}", self.series(cell), percent(f64::from(keep))) }
    }

    /// The full cache asked in the same way, in the section's type.
    pub fn full(&self, cell: &Cell<'_>) -> Option<&Cell<'a>> {
        self.find(&Setting::full(cell.setting.mode), None)
    }

    /// The default policy with as much kept in the same mode, in the section's type.
    pub fn default_policy(&self, cell: &Cell<'_>) -> Option<&Cell<'a>> {
        self.find(&Setting { policy: "chelsea".into(), ..cell.setting.clone() }, None)
    }

    fn find(&self, setting: &Setting, other: Option<&str>) -> Option<&Cell<'a>> {
        self.cells.iter().find(|c| c.setting == *setting && c.other == other)
    }

    /// Series that keep less than everything, each with its cells from little to much kept, the full cache last.
    pub fn curves(&self) -> Vec<(String, Vec<&Cell<'a>>)> {
        let mut curves: Vec<(String, Vec<&Cell<'a>>)> = Vec::new();
        for cell in self.cells.iter().rev().filter(|c| c.setting.keep < 1.0) {
            let name = self.series(cell);
            match curves.iter_mut().find(|(known, _)| *known == name) {
                Some((_, cells)) => cells.push(cell),
                None => curves.push((name, vec![cell])),
            }
        }
        curves.reverse();
        for (_, cells) in &mut curves {
            let Cell { setting, other, .. } = cells[0];
            cells.extend(self.find(&Setting::full(setting.mode), *other));
        }
        curves
    }
}

/// Types that keys and values are stored in, as a setup names them.
const STORED: [&str; 4] = ["f32", "f16", "bf16", "q8"];

/// The type that keys and values were stored in.
fn stored(record: &Record) -> &str {
    record.setup.split(',').find(|part| STORED.contains(part)).unwrap_or("")
}

/// The setup without that type, and without what only tells online runs apart: their mode does that too.
fn setup(record: &Record) -> String {
    let parts = record.setup.split(',').filter(|part| !STORED.contains(part) && !["once", "remerge"].contains(part));
    parts.collect::<Vec<_>>().join(", ")
}

fn with_stored(setup: &str, stored: &str) -> String {
    [setup, stored].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn raw_length(record: &Record) -> usize {
    if record.length == 0 { record.tokens } else { record.length }
}

fn class(length: usize, classes: bool) -> usize {
    if classes { length.max(1).next_power_of_two() } else { length }
}

/// A share in whole percent, or with one digit where that is not whole.
pub(super) fn percent(share: f64) -> String {
    let p = 100.0 * share;
    if (p - p.round()).abs() < 0.05 { format!("{p:.0}%") } else { format!("{p:.1}%") }
}
