//! Results as tables.

use super::engine::{DEFAULT, Kind, OWN, OWN_CACHES, Peer, kind};
use super::kept::{Read, Results, Run};
use super::measure::best;
use crate::peers::table::HEADING;
use crate::table;
use std::collections::{BTreeMap, BTreeSet};

/// What is timed: tokens of a prompt, or those of the answer after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Prompt(usize),
    Answer(usize),
}

/// One type of cache of one engine.
struct Row<'a> {
    engine: &'a str,
    cache: &'a str,
    runs: Vec<&'a Run>,
}

impl Work {
    fn prompt(self) -> usize {
        let (Work::Prompt(prompt) | Work::Answer(prompt)) = self;
        prompt
    }

    fn name(self) -> String {
        match self {
            Work::Prompt(prompt) => format!("prompt of {prompt}"),
            Work::Answer(prompt) => format!("answer at {prompt}"),
        }
    }

    /// Seconds a token.
    fn seconds(self) -> fn(&Read) -> f64 {
        match self {
            Work::Prompt(_) => |read| read.prompt_s / read.prompt as f64,
            Work::Answer(_) => |read| read.decode_s / read.generate as f64,
        }
    }
}

impl<'a> Row<'a> {
    /// The fastest setting at a work, and its tokens per second.
    fn speed(&self, work: Work) -> Option<(&'a str, f64)> {
        best(&self.runs, work.prompt(), work.seconds()).map(|(setting, seconds)| (setting, 1.0 / seconds))
    }

    /// Bytes of the cache after a prompt and its answer, and at the peak.
    fn bytes(&self, prompt: usize) -> Option<(u64, u64)> {
        let read = self.runs.iter().flat_map(|run| &run.reads).find(|read| read.prompt == prompt)?;
        Some((read.kv_bytes, read.kv_bytes_peak))
    }

    /// The settings that are shown: one name if one was fastest at everything.
    fn settings(&self, works: &[Work]) -> String {
        let mut by_setting: Vec<(&str, Vec<String>)> = Vec::new();
        for &work in works {
            let Some((setting, _)) = self.speed(work) else { continue };
            match by_setting.iter_mut().find(|(known, _)| *known == setting) {
                Some((_, works)) => works.push(work.name()),
                None => by_setting.push((setting, vec![work.name()])),
            }
        }
        let mut text = match by_setting.as_slice() {
            [(setting, _)] => (*setting).to_owned(),
            all => all.iter().map(|(s, works)| format!("{s} ({})", works.join(", "))).collect::<Vec<_>>().join("; "),
        };
        for (why, settings) in self.failures() {
            text += if text.is_empty() { "" } else { "; " };
            // Where nothing ran, all ended alike as a rule, and one word for all will do.
            let all = settings.len() == self.runs.iter().map(|run| &run.setting).collect::<BTreeSet<_>>().len();
            let settings: Vec<&str> = settings.into_iter().filter(|setting| !setting.is_empty()).collect();
            text += &if all || settings.is_empty() { why } else { format!("{}: {why}", settings.join(" and ")) };
        }
        text
    }

    /// Why runs have no times, and the settings of which that is true.
    fn failures(&self) -> BTreeMap<String, BTreeSet<&'a str>> {
        let mut failures: BTreeMap<String, BTreeSet<&'a str>> = BTreeMap::new();
        for run in &self.runs {
            if let Some(why) = &run.failure {
                failures.entry(why.replace('|', "/")).or_default().insert(&run.setting);
            }
        }
        failures
    }
}

fn rows(results: &Results) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for run in &results.runs {
        match rows.iter_mut().find(|row| row.engine == run.engine && row.cache == run.cache) {
            Some(row) => row.runs.push(run),
            None => rows.push(Row { engine: &run.engine, cache: &run.cache, runs: vec![run] }),
        }
    }
    rows
}

fn prompts(results: &Results) -> BTreeSet<usize> {
    results.runs.iter().flat_map(|run| &run.reads).map(|read| read.prompt).collect()
}

fn works(results: &Results) -> Vec<Work> {
    prompts(results).into_iter().flat_map(|prompt| [Work::Prompt(prompt), Work::Answer(prompt)]).collect()
}

/// Every row: speeds, beside each how many times that of Chelsea's full cache, then bytes and settings.
fn all_rows(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let (rows, works, prompts) = (rows(results), works(results), prompts(results));
    let mut header = vec!["engine".to_owned(), "cache".to_owned()];
    header.extend(works.iter().map(|work| work.name()));
    header.extend(prompts.iter().map(|prompt| format!("bytes at {prompt}")));
    header.push("setting".to_owned());
    let own = rows.iter().find(|row| row.engine == OWN && row.cache == OWN_CACHES[0].0);
    let cells = |row: &Row<'_>| {
        let mut cells = vec![row.engine.to_owned(), row.cache.to_owned()];
        for &work in &works {
            cells.push(match (row.speed(work), own.and_then(|own| own.speed(work))) {
                (Some((_, speed)), Some((_, own))) => format!("{speed:.1} ({:.2}x)", speed / own),
                (Some((_, speed)), None) => format!("{speed:.1}"),
                (None, _) => "-".to_owned(),
            });
        }
        for &prompt in &prompts {
            cells.push(match row.bytes(prompt) {
                // A peak of a block more than what is left is not worth a word.
                Some((bytes, peak)) if peak as f64 > 1.02 * bytes as f64 => {
                    format!("{}, peak {}", table::bytes(bytes), table::bytes(peak))
                }
                Some((bytes, _)) => table::bytes(bytes),
                None => "-".to_owned(),
            });
        }
        cells.push(row.settings(&works));
        cells
    };
    (header, rows.iter().map(cells).collect())
}

/// Chelsea's caches beside the fastest of their like.
fn beside(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let (rows, works) = (rows(results), works(results));
    let pairs: [(&str, &str, &[Kind]); 5] = [
        (OWN_CACHES[0].0, "the fastest in 16 bits", &[Kind::Bits16]),
        (OWN_CACHES[1].0, "the fastest in 8 bits", &[Kind::Bits8]),
        (OWN_CACHES[2].0, "the fastest in 4 bits", &[Kind::Bits4]),
        (DEFAULT, "eviction to a quarter", &[Kind::Evicted]),
        (DEFAULT, "the fastest of all", &[Kind::Bits16, Kind::Bits8, Kind::Bits4, Kind::Evicted]),
    ];
    let mut header = vec!["Chelsea".to_owned(), "beside".to_owned()];
    header.extend(works.iter().map(|work| work.name()));
    let line = |(cache, of, kinds): (&str, &str, &[Kind])| {
        let own = rows.iter().find(|row| row.engine == OWN && row.cache == cache);
        let mut cells = vec![cache.to_owned(), of.to_owned()];
        for &work in &works {
            let peers = rows.iter().filter(|row| row.engine != OWN && kinds.contains(&kind(row.cache)));
            let fastest = peers
                .filter_map(|row| row.speed(work).map(|(_, speed)| (row, speed)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            cells.push(match (own.and_then(|own| own.speed(work)), fastest) {
                (Some((_, own)), Some((row, speed))) => format!("{:.2}x ({}, {})", own / speed, row.engine, row.cache),
                _ => "-".to_owned(),
            });
        }
        cells
    };
    (header, pairs.map(line).to_vec())
}

fn caption(results: &Results) -> String {
    let mut text = format!(
        "{}: {} threads, answers of {} tokens, {}. Interleaved trials: {}.",
        results.title(),
        results.threads,
        results.runs.iter().flat_map(|run| &run.reads).next().map_or(0, |read| read.generate),
        results.date,
        results.trials,
    );
    for engine in [OWN].into_iter().chain(Peer::ALL.map(Peer::name)) {
        let Some(version) = results.versions.get(engine) else {
            text += &format!(" {engine}: did not run.");
            continue;
        };
        let runs = results.runs.iter().filter(|run| run.engine == engine && run.failure.is_none());
        let trials = runs.map(|run| run.trial).collect::<BTreeSet<_>>().len();
        let some = if trials < results.trials as usize { format!(" (in {trials} of them)") } else { String::new() };
        text += &format!(" {engine}{some}: {version}.");
    }
    text
}

/// For the terminal.
pub fn text(results: &Results) -> String {
    let render = |(header, rows): (Vec<String>, Vec<Vec<String>>)| {
        table::render(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
    };
    format!("{}\n\n{}\n\n{}", caption(results), render(all_rows(results)), render(beside(results)))
}

/// For `docs/lab/field.md`.
pub fn markdown(all: &[Results]) -> String {
    let mut out = String::new();
    for results in all {
        out += &format!("{HEADING}{}\n\n{}\n\n", results.title(), caption(results));
        for (header, rows) in [all_rows(results), beside(results)] {
            let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
            out += &line(&header);
            out += &line(&header.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
            rows.iter().for_each(|row| out += &line(row));
            out += "\n";
        }
        out += &format!("[Every run](../results/{}).\n\n", results.file_name());
    }
    out.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::kept::Machine;
    use super::*;

    fn results() -> Results {
        let run = |engine: &str, cache: &str, setting: &str, times: Option<(f64, f64)>, peak| Run {
            trial: 0,
            engine: engine.into(),
            cache: cache.into(),
            setting: setting.into(),
            failure: times.is_none().then(|| "crashes (signal: 4 (SIGILL))".into()),
            reads: times
                .map(|(prompt_s, decode_s)| Read {
                    prompt: 512,
                    prompt_s,
                    generate: 64,
                    decode_s,
                    kv_bytes: 1 << 20,
                    kv_bytes_peak: peak,
                })
                .into_iter()
                .collect(),
        };
        Results {
            model: "m".into(),
            machine: Machine { cpu: Some("A".into()), products: "AVX2".into(), attention: "Avx2".into() },
            date: "2000-01-01".into(),
            threads: 2,
            trials: 1,
            versions: BTreeMap::from([("llama.cpp".into(), "1.0".into())]),
            runs: vec![
                run(OWN, "f16", "", Some((1.0, 1.0)), 1 << 20),
                run(OWN, DEFAULT, "", Some((1.0, 0.5)), 2 << 20),
                run("llama.cpp", "f16", "flash on", Some((2.0, 4.0)), 1 << 20),
                run("llama.cpp", "f16", "flash off", Some((4.0, 2.0)), 1 << 20),
                run("ik_llama.cpp", "q8_0, Hadamard", "flash on", None, 0),
            ],
        }
    }

    #[test]
    fn each_row_shows_its_best_setting_beside_the_full_cache() {
        let (header, rows) = all_rows(&results());
        assert_eq!(header[2..], ["prompt of 512", "answer at 512", "bytes at 512", "setting"]);
        let expected = ["llama.cpp", "f16", "256.0 (0.50x)", "32.0 (0.50x)", "1.0 MiB"];
        assert_eq!(rows[2][..5], expected);
        assert_eq!(rows[2][5], "flash on (prompt of 512); flash off (answer at 512)");
        assert_eq!(rows[1][3], "128.0 (2.00x)");
        assert_eq!(rows[1][4], "1.0 MiB, peak 2.0 MiB");
    }

    #[test]
    fn a_crash_has_a_row_that_says_so() {
        let (_, rows) = all_rows(&results());
        let crashed = &rows[3];
        assert_eq!(crashed[..5], ["ik_llama.cpp", "q8_0, Hadamard", "-", "-", "-"]);
        assert_eq!(crashed[5], "crashes (signal: 4 (SIGILL))");
        let mut results = results();
        let times = results.runs[2].reads.clone();
        results.runs.push(Run { setting: "flash off".into(), failure: None, reads: times, ..results.runs[4].clone() });
        assert_eq!(all_rows(&results).1[3][5], "flash off; flash on: crashes (signal: 4 (SIGILL))");
    }

    #[test]
    fn caches_stand_beside_the_fastest_of_their_like() {
        let (_, rows) = beside(&results());
        assert_eq!(rows[0][2..], ["2.00x (llama.cpp, f16)", "2.00x (llama.cpp, f16)"]);
        assert_eq!(rows[1][2..], ["-", "-"]);
        assert_eq!(rows[4][1..], ["the fastest of all", "2.00x (llama.cpp, f16)", "4.00x (llama.cpp, f16)"]);
    }

    #[test]
    fn both_forms_tell_versions_and_date() {
        let text = text(&results());
        assert!(text.contains("2 threads, answers of 64 tokens, 2000-01-01. Interleaved trials: 1."), "{text}");
        assert!(text.contains("llama.cpp: 1.0.") && text.contains("OpenVINO GenAI: did not run."), "{text}");
        let page = markdown(&[results()]);
        assert!(page.starts_with("#### m on A, AVX2\n\n"), "{page}");
        assert!(page.contains("](../results/field-m-on-a-avx2.json)."), "{page}");
        assert!(page.contains("| --- |"), "{page}");
    }
}
