//! A report over results made up so that what it must say is known.

use super::*;
use crate::results::tests::record;
use crate::setting::{Basis, Mode, Setting};

fn setting(policy: &str, keep: f32) -> Setting {
    if keep >= 1.0 {
        Setting::full(Mode::OneShot)
    } else {
        Setting { policy: policy.into(), keep, of: Basis::Entries, mode: Mode::OneShot }
    }
}

/// Two tasks of twelve samples: the full cache always right, chelsea nearly, streaming never on one of them.
fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for task in ["easy", "hard"] {
        for i in 0..12 {
            let sample = i.to_string();
            let mut push = |setting: Setting, score: f64| {
                let mut r = record(task, &sample, setting, score);
                r.length = if i % 2 == 0 { 2048 } else { 4096 };
                r.asked[0].depth = Some(f64::from(i % 3) / 2.0);
                records.push(r);
            };
            push(setting("full", 1.0), 1.0);
            for keep in [0.5, 0.25] {
                push(setting("chelsea", keep), if keep == 0.25 && task == "hard" && i == 0 { 0.0 } else { 1.0 });
                push(setting("streaming", keep), if task == "hard" { 0.0 } else { 1.0 });
            }
        }
    }
    records
}

#[test]
fn differences_are_told_from_noise() {
    let text = Report::new(&records(), &[]).unwrap().markdown();
    let row = |start: &str| {
        let found = text.lines().find(|l| l.starts_with(&format!("| {start} |")));
        found.unwrap_or_else(|| panic!("no row of {start} in {text}")).to_owned()
    };
    assert!(row("full").contains("| 100.0 [100.0, 100.0] |"), "{text}");
    assert!(row("chelsea 50%").contains("the same"), "{text}");
    let quarter = row("chelsea 25%");
    assert!(quarter.contains("| 25% | 24 | 95.8 [") && quarter.contains("within the noise"), "{quarter}");
    let streaming = row("streaming 25%");
    assert!(streaming.contains("-50.0 [-50.0, -50.0], worse"), "{streaming}");
    assert!(streaming.contains("-45.8") && streaming.matches("worse").count() == 2, "{streaming}");
}

#[test]
fn tasks_lengths_and_depths_are_shown_apart() {
    let report = Report::new(&records(), &[]).unwrap();
    let text = report.markdown();
    assert!(text.contains("| cache | easy | hard |") && text.contains("| streaming 25% | 100.0 | 0.0 |"), "{text}");
    assert!(text.contains("| cache | 2K | 4K |"), "{text}");
    assert!(text.contains("| bytes | 25% | 50% |"), "{text}");
    let plots: Vec<String> = report.plots().map(|(path, _)| path).collect();
    for part in ["m-1-score", "m-1-loss", "m-1-task-1-easy", "m-1-length-1-0-25", "m-1-depth-hard"] {
        assert!(plots.iter().any(|p| p.contains(part)), "{part} in {plots:?}");
    }
    assert!(plots.iter().all(|p| text.contains(p.as_str())), "the Markdown shows every plot");
    let names: std::collections::HashSet<&String> = plots.iter().collect();
    assert_eq!(names.len(), plots.len(), "{plots:?}");
    let page = report.html();
    assert_eq!(page.matches("<svg").count(), plots.len());
    assert!(!page.contains("src=") && !page.contains("href="), "the page needs no other file");
}

#[test]
fn of_many_policies_a_few_have_a_colour_and_the_rest_are_grey() {
    let mut records = records();
    for (worse, policy) in ["tova", "keydiff", "knorm", "lagkv", "snapkv"].into_iter().enumerate() {
        let mut more: Vec<Record> =
            records.iter().filter(|r| r.setting.policy == "streaming" && r.task == "easy").cloned().collect();
        more.extend(records.iter().filter(|r| r.setting.policy == "streaming" && r.task == "hard").cloned());
        for r in &mut more {
            r.setting.policy = policy.into();
            r.spec = policy.into();
            r.score = 0.9 - 0.1 * worse as f64;
        }
        records.extend(more);
    }
    let report = Report::new(&records, &[]).unwrap();
    let (_, plot) = report.plots().find(|(path, _)| path.ends_with("-score.svg")).unwrap();
    // Names in colour are bold: two known ones, the two best of the others, and the full cache.
    let bold = |name: &str| plot.lines().any(|l| l.contains("bold") && l.ends_with(&format!(">{name}</text>")));
    let named = |name: &str| plot.contains(&format!(">{name}</text>"));
    for name in ["chelsea", "streaming", "tova", "keydiff", "full"] {
        assert!(bold(name), "{name} in {plot}");
    }
    for name in ["knorm", "lagkv", "snapkv"] {
        assert!(named(name) && !bold(name), "{name} in {plot}");
    }
    let colours: std::collections::BTreeSet<&str> =
        plot.lines().filter(|l| l.contains("stroke-width=\"3\"")).filter_map(|l| l.split("stroke=\"").nth(1)).collect();
    assert_eq!(colours.len(), 4, "{colours:?}");
}

#[test]
fn caches_stored_in_another_type_are_series_of_their_own() {
    let mut records = records();
    let mut stored = records.clone();
    for r in &mut stored {
        (r.setup, r.kv_bytes, r.score) = ("q8".into(), r.kv_bytes / 2, r.score / 2.0);
    }
    let alone = Report::new(&stored, &[]).unwrap().markdown();
    assert!(alone.contains("q8") && !alone.contains(" in q8"), "{alone}");
    records.extend(stored);
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert_eq!(text.lines().filter(|l| *l == "### Scores").count(), 1, "one section: {text}");
    let row = |start: &str| text.lines().find(|l| l.starts_with(&format!("| {start} |"))).unwrap_or_default();
    assert!(row("full").contains("| 100.0 [") && row("full in q8").contains("| 50.0 ["), "{text}");
    assert!(row("chelsea 50%").contains("the same"), "{text}");
    assert!(
        row("chelsea in q8 50%").contains("| 25% | 24 | 50.0 [") && row("chelsea in q8 50%").contains("worse"),
        "{text}"
    );
}

#[test]
fn the_full_cache_that_others_are_held_against_is_one_in_16_bits_in_whatever_order_results_come() {
    let mut stored = records();
    stored.retain(|r| r.setting.policy != "streaming");
    for r in &mut stored {
        (r.setup, r.kv_bytes, r.score) = ("q8".into(), r.kv_bytes / 2, r.score / 2.0);
    }
    let texts = [true, false].map(|with_full| {
        let mut all = stored.clone();
        all.retain(|r| with_full || r.setting.keep < 1.0);
        all.extend(records());
        Report::new(&all, &[]).unwrap().markdown()
    });
    for text in &texts {
        let row = |start: &str| text.lines().find(|l| l.starts_with(&format!("| {start} |"))).unwrap_or_default();
        assert!(row("chelsea 50%").contains("the same") && !text.contains(" in f16"), "{text}");
        assert!(row("chelsea in q8 50%").contains("-50.0 [-50.0, -50.0], worse"), "{text}");
    }
}

#[test]
fn budgets_of_bytes_are_one_series_whatever_type_they_ask_for() {
    let mut records = records();
    records.retain(|r| r.setting.policy == "full");
    for (keep, stored) in [(0.25, "q8"), (0.1, "k8v4")] {
        let setting = Setting { of: Basis::Bytes, ..setting("chelsea", keep) };
        records.extend((0..12).flat_map(|i| {
            ["easy", "hard"].map(|task| {
                let mut r = record(task, &i.to_string(), setting.clone(), 1.0);
                r.setup = stored.into();
                r
            })
        }));
    }
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(text.contains("| chelsea 25% |") && text.contains("| chelsea 10% |"), "{text}");
    assert!(text.contains("f16, or what the budget makes it") && !text.contains(" in q8"), "{text}");
    // Beside shares of the entries they say what they are.
    records.extend(self::records());
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(text.contains("| chelsea --kv-budget 25% |") && text.contains("| chelsea 25% |"), "{text}");
    // A type that was asked for beside a budget is said, also where it is that of the full cache, and is no duplicate.
    let mut asked: Vec<Record> = records.iter().filter(|r| r.setting.of == Basis::Bytes).cloned().collect();
    for r in &mut asked {
        (r.setup, r.score) = ("f16".into(), 0.5);
    }
    records.extend(asked);
    let text = Report::new(&records, &[]).unwrap().markdown();
    let row = |start: &str| text.lines().find(|l| l.starts_with(&format!("| {start} |"))).unwrap_or_default();
    assert!(row("chelsea in f16 --kv-budget 25%").contains("| 24 | 50.0 ["), "{text}");
    assert!(row("chelsea --kv-budget 25%").contains("| 24 | 100.0 ["), "{text}");
}

#[test]
fn scores_by_length_and_task_are_of_samples_that_all_have() {
    // Streaming misses one sample of 2,048 tokens, on which all others fail.
    let mut records = records();
    for r in records.iter_mut().filter(|r| r.task == "easy" && r.sample == "2") {
        r.score = 0.0;
    }
    records.retain(|r| r.setting.policy != "streaming" || r.task != "easy" || r.sample != "2");
    let text = Report::new(&records, &[]).unwrap().markdown();
    let lengths = text.split("### By length").nth(1).unwrap();
    assert!(lengths.contains("| full | 100.0 | 100.0 |"), "{lengths}");
    let tasks = text.split("### By task").nth(1).unwrap();
    assert!(tasks.contains("| full | 100.0 | 100.0 |") && tasks.contains("| streaming 50% | 100.0 | 0.0 |"), "{tasks}");
    // Who lacks a whole length is no part of the comparison there.
    records.retain(|r| r.setting.policy != "streaming" || r.length == 4096);
    let text = Report::new(&records, &[]).unwrap().markdown();
    let lengths = text.split("### By length").nth(1).unwrap();
    assert!(lengths.contains("| streaming 50% | – | 50.0 |"), "{lengths}");
}

#[test]
fn a_result_found_twice_counts_once_and_missing_ones_are_said() {
    let mut twice = records();
    twice.extend(records());
    let once = Report::new(&records(), &[]).unwrap();
    assert_eq!(Report::new(&twice, &[]).unwrap().markdown(), once.markdown());
    let mut part = records();
    part.retain(|r| r.setting.policy != "streaming" || r.task == "easy");
    let text = Report::new(&part, &[]).unwrap().markdown();
    assert!(text.contains("Not every setting has every sample: streaming 50% (12 of 24)"), "{text}");
    // A mean over easy tasks alone would look like a win.
    assert!(text.contains("| streaming 50% * |") && text.contains("was not run on all samples"), "{text}");
    assert!(!text.contains("| streaming | 100.0"), "{text}");
}

#[test]
fn means_are_compared_on_samples_that_all_have() {
    // Of streaming only the first half of the samples, on which chelsea does worse than on the others.
    let mut records = records();
    records.retain(|r| r.setting.policy != "streaming" || r.sample.parse::<u32>().unwrap() < 6);
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(text.contains("all share: here 12"), "{text}");
    let row = |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap_or_default();
    assert!(row("| chelsea 25% |").contains("| 24 | 95.8 ["), "the table has all samples: {text}");
    let at_equal_bytes = text.split("### Scores at equal bytes").nth(1).unwrap();
    assert!(at_equal_bytes.contains("| chelsea | 91.7 | 100.0 |"), "one of six, not one of twelve: {text}");
    let report = Report::new(&records, &[]).unwrap();
    let (_, plot) = report.plots().find(|(path, _)| path.ends_with("-score.svg")).unwrap();
    assert!(plot.contains("12 samples") && plot.contains("streaming"));
}

#[test]
fn one_name_for_two_specifications_is_spelled_out_and_two_for_one_are_one() {
    let mut records = records();
    for r in records.iter_mut().filter(|r| r.setting.policy == "chelsea") {
        r.spec = "chelsea:lam=1".into();
        if r.task == "easy" {
            r.setting.policy = "chelsea:lam=1".into();
        }
    }
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(text.contains("| chelsea 25% | 25% | 24 |") && !text.contains("lam"), "{text}");
    let mut older = records.clone();
    for r in older.iter_mut().filter(|r| r.spec == "chelsea:lam=1") {
        (r.spec, r.score) = ("chelsea:lam=0".into(), 0.0);
    }
    records.extend(older);
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(text.contains("| chelsea:lam=1 25% |") && text.contains("| chelsea:lam=0 25% |"), "{text}");
}

#[test]
fn schedules_are_told_apart() {
    let online = |schedule: &'static str, score: f64| {
        let setting = Setting { mode: Mode::Online, ..setting("chelsea", 0.25) };
        (0..6).map(move |i| {
            let mut r = record("easy", &i.to_string(), setting.clone(), score);
            r.setup = format!("f16,{schedule}");
            r
        })
    };
    let both: Vec<Record> = online("once", 1.0).chain(online("remerge", 0.5)).collect();
    let text = Report::new(&both, &[]).unwrap().markdown();
    assert!(text.contains("| chelsea, once 25% |") && text.contains("| chelsea, remerge 25% |"), "{text}");
    let one: Vec<Record> = online("once", 1.0).collect();
    assert!(!Report::new(&one, &[]).unwrap().markdown().contains(", once"));
}

#[test]
fn results_that_contradict_each_other_are_said() {
    let mut twice = records();
    let other = record("easy", "3", setting("chelsea", 0.25), 0.5);
    twice.push(other);
    let text = Report::new(&twice, &[]).unwrap().markdown();
    assert!(text.contains("1 results were there twice with different figures"), "{text}");
}

#[test]
fn policies_can_be_picked() {
    let text = Report::new(&records(), &["chelsea".to_owned()]).unwrap().markdown();
    assert!(text.contains("chelsea 25%") && text.contains("| full |") && !text.contains("streaming"), "{text}");
}

#[test]
fn few_samples_are_warned_of() {
    let few: Vec<Record> = records().into_iter().filter(|r| r.sample.len() == 1 && r.sample < "4".into()).collect();
    let text = Report::new(&few, &[]).unwrap().markdown();
    assert!(text.contains("too narrow"), "{text}");
    assert!(!Report::new(&records(), &[]).unwrap().markdown().contains("too narrow"));
}

#[test]
fn divergence_is_no_score() {
    let mut records = Vec::new();
    for i in 0..12 {
        for (policy, keep, kl) in [("full", 1.0, 0.0), ("chelsea", 0.25, 0.1), ("streaming", 0.25, 0.3)] {
            let mut r = record("continuation", &i.to_string(), setting(policy, keep), 0.9);
            r.asked[0].kl = Some(kl + 0.001 * f64::from(i));
            records.push(r);
        }
    }
    let text = Report::new(&records, &[]).unwrap().markdown();
    assert!(!text.contains("### Scores"), "{text}");
    let row = text.lines().find(|l| l.starts_with("| streaming 25%")).unwrap();
    assert!(row.contains("| 0.30") && row.contains("+0.200") && row.ends_with(" |") && row.contains("worse"), "{row}");
}

#[test]
fn an_empty_report_is_still_a_report() {
    let report = Report::new(&[], &[]).unwrap();
    assert_eq!(report.plots().count(), 0);
    assert!(report.markdown().starts_with("# "));
}
