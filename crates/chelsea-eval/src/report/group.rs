//! Results sorted into what a report compares: models, ways of keeping the cache, tasks, lengths.

use super::cell::{Cell, Figure, Keys, name};
use crate::results::{AGAINST, Key, Record};
use crate::setting::{Basis, Mode, Setting};
use chelsea_engine::dtype_for;
use chelsea_kv::Dtype;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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
    classes: bool,
    /// Results that were there twice with different figures.
    pub contradictions: usize,
}

/// Results that compare with each other.
struct Group<'a> {
    fingerprint: &'a str,
    setup: String,
    seed: u64,
    records: Vec<&'a Record>,
    contradictions: usize,
}

impl<'a> Section<'a> {
    /// One section for each model, setup and seed, in the order of the results.
    pub fn all(records: &'a [Record], policies: &[String]) -> Vec<Section<'a>> {
        let mut seen: HashMap<Key, &Record> = HashMap::new();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for record in records {
            let (fingerprint, setup, seed) = (record.fingerprint.as_str(), setup(record), record.seed);
            let same = |g: &&mut Group<'_>| g.fingerprint == fingerprint && g.setup == setup && g.seed == seed;
            let first = *seen.entry(record.key()).or_insert(record);
            if !std::ptr::eq(first, record) {
                let differs = first.score != record.score || first.asked != record.asked;
                if let Some(group) = groups.iter_mut().find(same).filter(|_| differs) {
                    group.contradictions += 1;
                }
                continue;
            }
            let wanted = policies.is_empty() || policies.contains(&record.setting.policy);
            if !wanted && record.setting.keep < 1.0 {
                continue;
            }
            match groups.iter_mut().find(same) {
                Some(group) => group.records.push(record),
                None => groups.push(Group { fingerprint, setup, seed, records: vec![record], contradictions: 0 }),
            }
        }
        groups.iter().map(Section::new).collect()
    }

    fn new(Group { setup, seed, records, contradictions, .. }: &Group<'a>) -> Section<'a> {
        let usual = usual_type(records);
        let other = |r: &&'a Record| Some(stored(r)).filter(|stored| *stored != expected_type(r, usual));
        let several = records.iter().any(|r| other(r).is_some());
        let budgets = records.iter().any(|r| stored(r) != usual && other(r).is_none());
        let stored = match (several, budgets) {
            (false, false) => usual.to_owned(),
            (true, false) => format!("{usual} unless said"),
            (false, true) => format!("{usual}, or what the budget makes it"),
            (true, true) => format!("{usual}, or what the budget makes it, unless said"),
        };
        let setup = with_stored(setup, &stored);
        let tasks: BTreeSet<&str> = records.iter().map(|r| r.task.as_str()).collect();
        let exact: BTreeSet<usize> = records.iter().map(|r| raw_length(r)).collect();
        let classes = exact.len() > MOST_LENGTHS;
        let lengths: BTreeSet<usize> = exact.iter().map(|&n| class(n, classes)).collect();
        let modes: HashSet<Mode> = records.iter().map(|r| r.setting.mode).collect();
        let mut cells: Vec<Cell<'a>> = Vec::new();
        for record in records {
            let (setting, spec, other, schedule) =
                (&record.setting, record.spec.as_str(), other(record), schedule(record));
            let same = |c: &Cell<'_>| {
                (c.setting.keep, c.setting.of, c.setting.mode) == (setting.keep, setting.of, setting.mode)
                    && (c.spec, c.other, c.schedule) == (spec, other, schedule)
            };
            let at = match cells.iter().position(same) {
                Some(at) => at,
                None => {
                    let (setting, series, records) = (setting.clone(), String::new(), BTreeMap::new());
                    cells.push(Cell { setting, spec, schedule, other, series, records });
                    cells.len() - 1
                }
            };
            cells[at].records.insert((&record.task, &record.sample), record);
        }
        name(&mut cells, modes.len() > 1);
        let mut order: Vec<String> = Vec::new();
        for cell in &cells {
            if !order.contains(&cell.series) {
                order.push(cell.series.clone());
            }
        }
        let place = |cell: &Cell<'_>| order.iter().position(|series| *series == cell.series);
        cells.sort_by(|a, b| {
            let full = |c: &Cell<'_>| c.setting.keep < 1.0;
            let keys = (full(a), place(a)).cmp(&(full(b), place(b)));
            keys.then(b.setting.keep.total_cmp(&a.setting.keep))
        });
        let model = records.first().map_or_else(String::new, |r| r.model.clone());
        let setup = if *seed == 0 { setup } else { format!("{setup}, seed {seed}") };
        Section {
            model,
            setup,
            tasks: tasks.into_iter().collect(),
            lengths: lengths.into_iter().collect(),
            cells,
            classes,
            contradictions: *contradictions,
        }
    }

    /// Tasks that have the figure under any setting.
    pub fn tasks_of(&self, figure: Figure) -> BTreeSet<&'a str> {
        self.cells.iter().flat_map(|c| c.tasks(figure)).collect()
    }

    /// The samples that means are compared on: those that all settings were run on which have any of every task. Where
    /// these would leave a task without samples, settings with the fewest are left out. `keep` picks records.
    pub fn shared(&self, figure: Figure, keep: &dyn Fn(&Record) -> bool) -> Keys<'a> {
        let tasks_in = |keys: &Keys<'_>| keys.iter().map(|(task, _)| *task).collect::<BTreeSet<&str>>().len();
        let mut found: Vec<Keys<'a>> = self.cells.iter().map(|c| c.keys(figure, keep)).collect();
        let tasks = found.iter().flatten().map(|(task, _)| *task).collect::<BTreeSet<&str>>().len();
        found.retain(|keys| tasks_in(keys) == tasks);
        found.sort_by_key(|keys| std::cmp::Reverse(keys.len()));
        found
            .into_iter()
            .reduce(|all, keys| {
                let both: Keys<'a> = all.intersection(&keys).copied().collect();
                if tasks_in(&both) == tasks { both } else { all }
            })
            .unwrap_or_default()
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

    /// What a cell is called.
    pub fn name(&self, cell: &Cell<'_>) -> String {
        let keep = cell.setting.keep;
        if keep >= 1.0 { cell.series.clone() } else { format!("{} {}", cell.series, percent(f64::from(keep))) }
    }

    /// The full cache asked in the same way, in the section's type.
    pub fn full(&self, cell: &Cell<'_>) -> Option<&Cell<'a>> {
        self.cells.iter().find(|c| c.setting == Setting::full(cell.setting.mode) && c.other.is_none())
    }

    /// The default policy with as much kept in the same mode and type.
    pub fn default_policy(&self, cell: &Cell<'_>) -> Option<&Cell<'a>> {
        self.cells.iter().find(|c| {
            (c.setting.keep, c.setting.of, c.setting.mode) == (cell.setting.keep, cell.setting.of, cell.setting.mode)
                && (c.other, c.schedule) == (cell.other, cell.schedule)
                && c.is_default()
        })
    }

    /// Series that keep less than everything, each with its cells from little to much kept.
    pub fn curves(&self) -> Vec<(String, Vec<&Cell<'a>>)> {
        let mut curves: Vec<(String, Vec<&Cell<'a>>)> = Vec::new();
        for cell in self.cells.iter().rev().filter(|c| c.setting.keep < 1.0) {
            let name = cell.series.clone();
            match curves.iter_mut().find(|(known, _)| *known == name) {
                Some((_, cells)) => cells.push(cell),
                None => curves.push((name, vec![cell])),
            }
        }
        curves.reverse();
        curves
    }
}

/// Whether a part of a setup is the type that keys and values are stored in.
fn is_stored(part: &str) -> bool {
    Dtype::ALL.iter().any(|dtype| dtype.name() == part)
}

/// The type that keys and values were stored in.
fn stored(record: &Record) -> &str {
    record.setup.split(',').find(|part| is_stored(part)).unwrap_or("")
}

/// The type of the full cache that everything is held against: one in 16 bits where there is one, whatever the order of
/// the results.
fn usual_type<'a>(records: &[&'a Record]) -> &'a str {
    let full = || records.iter().filter(|r| r.setting.keep >= 1.0).map(|r| stored(r));
    let sixteen = full().find(|name| [Dtype::F16, Dtype::Bf16].iter().any(|dtype| dtype.name() == *name));
    sixteen.or(full().next()).or(records.first().map(|r| stored(r))).unwrap_or("")
}

/// The type that a record has unless another was asked for: what a budget of bytes makes it, else the usual one.
fn expected_type<'a>(record: &Record, usual: &'a str) -> &'a str {
    let Setting { of, keep, .. } = record.setting;
    // A share of the bytes does not ask for the model's own type.
    if of == Basis::Bytes && keep < 1.0 {
        dtype_for(record.setting.budget(record.length), Dtype::F16).name()
    } else {
        usual
    }
}

/// Names of schedules, as a setup has them.
const SCHEDULES: [&str; 2] = ["once", "remerge"];

/// The schedule of an online run.
fn schedule(record: &Record) -> Option<&'static str> {
    SCHEDULES.into_iter().find(|schedule| record.setup.split(',').any(|part| part == *schedule))
}

/// The setup without type, schedule and what it was held against.
fn setup(record: &Record) -> String {
    let within = |part: &&str| is_stored(part) || SCHEDULES.contains(part) || part.starts_with(AGAINST);
    let parts = record.setup.split(',').filter(|part| !within(part));
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
