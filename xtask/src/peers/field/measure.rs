//! Runs of every engine in turns.

use super::engine::{Contender, OWN, OWN_CACHES, Peer, contenders};
use super::kept::{Machine, Read, Results, Run, today};
use crate::peers::measure::{instructions, median};
use crate::process::{root, shown};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be measured on each model.
pub struct Plan {
    pub program: PathBuf,
    /// The Python that has a peer, or why there is none; peers that are not in it do not run.
    pub pythons: BTreeMap<Peer, Result<PathBuf, String>>,
    pub threads: u32,
    pub trials: u32,
    /// Tokens of each prompt, and of each answer.
    pub prompts: Vec<usize>,
    pub generate: usize,
    /// Where results are kept while they come.
    pub keep_in: PathBuf,
}

#[derive(Deserialize)]
struct Own {
    machine: Machine,
    end_to_end: Vec<OwnRow>,
}

#[derive(Deserialize)]
struct OwnRow {
    prefill_s: Median,
    decode_s: Median,
    kv_bytes: u64,
    kv_bytes_peak: u64,
    kv_bytes_full: u64,
}

#[derive(Deserialize)]
struct Median {
    median: f64,
}

#[derive(Deserialize)]
struct PeerReport {
    version: String,
    system: String,
    reads: Vec<Read>,
}

impl Plan {
    /// Measures one model, trial by trial, on top of what is known of it.
    pub fn run(&self, model: &str, file: &Path, known: Option<Results>) -> Result<Results> {
        let mut out = known.unwrap_or_else(|| Results {
            model: model.to_owned(),
            machine: Machine::default(),
            date: today(),
            threads: self.threads,
            trials: 0,
            versions: BTreeMap::new(),
            runs: Vec::new(),
        });
        ensure!(out.model == model, "results of {} are no trials of {model}", out.model);
        ensure!(
            out.threads == self.threads,
            "results with {} threads are not those with {}",
            out.threads,
            self.threads
        );
        for _ in 0..self.trials {
            let trial = out.trials;
            out.trials += 1;
            eprintln!("{model}: trial {}", out.trials);
            let bytes_a_token = self.own(file, trial, &mut out)?;
            for contender in contenders(bytes_a_token).iter().filter(|c| self.pythons.contains_key(&c.peer)) {
                let wanted = fastest(&out.runs, contender.peer.name(), contender.cache);
                for (setting, args) in &contender.settings {
                    if wanted.as_ref().is_none_or(|wanted| wanted.contains(setting)) {
                        let run = self.peer(contender, setting, args, file, trial, &mut out.versions);
                        out.runs.push(run);
                        // A comparison that is broken off keeps what it has.
                        out.write(&self.keep_in.join(out.file_name()))?;
                    }
                }
            }
        }
        eprintln!("kept: {}", self.keep_in.join(out.file_name()).display());
        Ok(out)
    }

    /// Runs Chelsea under every budget; bytes that a token takes in a full cache of 16 bits.
    fn own(&self, file: &Path, trial: u32, out: &mut Results) -> Result<f64> {
        let mut reads = vec![Vec::new(); OWN_CACHES.len()];
        let mut bytes_a_token = 0.0;
        let shares: Vec<&str> = OWN_CACHES.iter().filter_map(|(_, share)| *share).collect();
        for &prompt in &self.prompts {
            let mut command = Command::new(&self.program);
            command.args(["bench", "--json", "--what", "end-to-end", "--trials", "1", "--keeps", "1"]);
            command.args(["--threads", &self.threads.to_string(), "--kv-budgets", &shares.join(",")]);
            command.args(["--prompt", &prompt.to_string(), "--generate", &self.generate.to_string(), "-m"]).arg(file);
            let own: Own = json(&mut command).map_err(anyhow::Error::msg)?;
            ensure!(own.end_to_end.len() == OWN_CACHES.len(), "`{}` told of other budgets", shown(&command));
            for (reads, row) in reads.iter_mut().zip(&own.end_to_end) {
                bytes_a_token = row.kv_bytes_full as f64 / (prompt + self.generate) as f64;
                reads.push(Read {
                    prompt,
                    prompt_s: row.prefill_s.median,
                    generate: self.generate,
                    decode_s: row.decode_s.median,
                    kv_bytes: row.kv_bytes,
                    kv_bytes_peak: row.kv_bytes_peak,
                });
            }
            let named = own.machine.cpu == out.machine.cpu && own.machine.products == out.machine.products;
            ensure!(out.runs.is_empty() || named, "these results are of another kind of machine: {}", out.title());
            let (version, machine) = (self.version()?, &own.machine);
            out.versions.insert(OWN.to_owned(), format!("{version}; {}, {}", machine.products, machine.attention));
            out.machine = own.machine;
        }
        out.runs.extend(OWN_CACHES.iter().zip(reads).map(|((cache, _), reads)| Run {
            trial,
            engine: OWN.to_owned(),
            cache: (*cache).to_owned(),
            setting: String::new(),
            failure: None,
            reads,
        }));
        Ok(bytes_a_token)
    }

    /// What Chelsea says of its version.
    fn version(&self) -> Result<String> {
        let output = Command::new(&self.program).arg("--version").output().context("Chelsea does not start")?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.split_whitespace().last().unwrap_or("unknown").to_owned())
    }

    /// Runs a peer once. That it fails is a result.
    fn peer(
        &self,
        contender: &Contender,
        setting: &str,
        args: &[String],
        file: &Path,
        trial: u32,
        versions: &mut BTreeMap<String, String>,
    ) -> Run {
        let peer = contender.peer;
        let report = self.report(contender, args, file);
        let (failure, reads) = match report {
            Ok(report) => {
                let version = match instructions(&report.system) {
                    on if on.is_empty() => format!("{}; {}", report.version, report.system),
                    on => format!("{}; {on}", report.version),
                };
                versions.insert(peer.name().to_owned(), version);
                (None, report.reads)
            }
            Err(failure) => {
                eprintln!("{}, {}, {setting}: {failure}", peer.name(), contender.cache);
                (Some(failure), Vec::new())
            }
        };
        let (engine, cache) = (peer.name().to_owned(), contender.cache.to_owned());
        Run { trial, engine, cache, setting: setting.to_owned(), failure, reads }
    }

    fn report(&self, contender: &Contender, args: &[String], file: &Path) -> Result<PeerReport, String> {
        let python = match self.pythons.get(&contender.peer) {
            Some(Ok(python)) => python,
            Some(Err(why)) => return Err(why.clone()),
            None => return Err("not asked for".to_owned()),
        };
        let prompts: Vec<String> = self.prompts.iter().map(usize::to_string).collect();
        let mut command = Command::new(python);
        // A crash is reported; a debugger that llama.cpp starts to print where it was would take longer than the run.
        command.env("GGML_NO_BACKTRACE", "1");
        command.arg(root().join("scripts").join("peers").join(contender.peer.script())).arg(file);
        command.args(["--threads", &self.threads.to_string(), "--prompts", &prompts.join(",")]);
        command.args(["--generate", &self.generate.to_string()]).args(&contender.args).args(args);
        json(&mut command)
    }
}

/// The settings of a row that were fastest at something in its first trial; none if it had no trial yet.
fn fastest(runs: &[Run], engine: &str, cache: &str) -> Option<BTreeSet<String>> {
    let of_row = || runs.iter().filter(|run| run.engine == engine && run.cache == cache);
    let first = of_row().map(|run| run.trial).min()?;
    let first: Vec<&Run> = of_row().filter(|run| run.trial == first).collect();
    let prompts: BTreeSet<usize> = first.iter().flat_map(|run| &run.reads).map(|read| read.prompt).collect();
    let mut found = BTreeSet::new();
    for prompt in prompts {
        for seconds in [|read: &Read| read.prompt_s, |read: &Read| read.decode_s] {
            found.extend(best(&first, prompt, seconds).map(|(setting, _)| setting.to_owned()));
        }
    }
    Some(found)
}

/// The setting with the least median of these seconds after a prompt, and that median. Where settings ran in different
/// numbers of trials, only those that ran in the most are compared.
pub fn best<'a>(runs: &[&'a Run], prompt: usize, seconds: fn(&Read) -> f64) -> Option<(&'a str, f64)> {
    let mut by_setting: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in runs {
        let times = run.reads.iter().filter(|read| read.prompt == prompt).map(seconds);
        by_setting.entry(&run.setting).or_default().extend(times);
    }
    let most = by_setting.values().map(Vec::len).max().filter(|&most| most > 0)?;
    let medians = by_setting.iter().filter(|(_, times)| times.len() == most).map(|(s, times)| (*s, median(times)));
    medians.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// What the command prints; or in few words how it ended.
fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T, String> {
    let output = command.output().map_err(|error| format!("`{}` does not start: {error}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
        // A crash leaves no last word of its own.
        return Err(match output.status.code() {
            Some(_) if !last.is_empty() => last.to_owned(),
            _ => match said.lines().find_map(|line| line.find("GGML_ASSERT").map(|at| line[at..].trim())) {
                Some(assertion) => format!("crashes ({}, {assertion})", output.status),
                None => format!("crashes ({})", output.status),
            },
        });
    }
    let report =
        serde_json::from_slice(&output.stdout).with_context(|| format!("`{}` printed no report", shown(command)));
    report.map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trial: u32, setting: &str, times: &[(usize, f64, f64)]) -> Run {
        let read = |&(prompt, prompt_s, decode_s): &(usize, f64, f64)| Read {
            prompt,
            prompt_s,
            generate: 64,
            decode_s,
            kv_bytes: 1,
            kv_bytes_peak: 1,
        };
        Run {
            trial,
            engine: "e".into(),
            cache: "c".into(),
            setting: setting.into(),
            failure: times.is_empty().then(|| "crashes".into()),
            reads: times.iter().map(read).collect(),
        }
    }

    #[test]
    fn settings_go_on_that_were_fastest_at_something() {
        let runs = [
            run(0, "a", &[(512, 1.0, 5.0), (4096, 9.0, 9.0)]),
            run(0, "b", &[(512, 2.0, 6.0), (4096, 8.0, 9.5)]),
            run(0, "slow", &[(512, 3.0, 7.0), (4096, 10.0, 11.0)]),
            run(0, "broken", &[]),
        ];
        assert_eq!(fastest(&runs, "e", "c"), Some(BTreeSet::from(["a".to_owned(), "b".to_owned()])));
        assert_eq!(fastest(&runs, "e", "another"), None);
        assert_eq!(fastest(&runs[3..], "e", "c"), Some(BTreeSet::new()));
    }

    #[test]
    fn a_setting_that_was_dropped_does_not_win_by_its_one_trial() {
        let runs = [
            run(0, "a", &[(512, 2.0, 1.0)]),
            run(0, "lucky", &[(512, 1.0, 1.0)]),
            run(1, "a", &[(512, 3.0, 1.0)]),
            run(2, "a", &[(512, 2.5, 1.0)]),
        ];
        let runs: Vec<&Run> = runs.iter().collect();
        assert_eq!(best(&runs, 512, |read| read.prompt_s), Some(("a", 2.5)));
        assert_eq!(best(&runs, 9, |read| read.prompt_s), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_crash_is_told_by_its_signal_and_an_error_by_its_last_line() {
        let run = |script: &str| json::<Vec<u32>>(Command::new("sh").args(["-c", script])).expect_err("it fails");
        assert!(run("echo loading >&2; kill -ILL $$").contains("signal: 4"));
        let assertion = run("echo 'a.cpp:1: GGML_ASSERT(n > 0) failed' >&2; echo no gdb >&2; kill -ABRT $$");
        assert!(assertion.contains("signal: 6") && assertion.contains(", GGML_ASSERT(n > 0) failed)"), "{assertion}");
        assert_eq!(run("echo loading >&2; echo it cannot >&2; exit 3"), "it cannot");
        assert!(run("exit 3").contains("exit status: 3"));
        assert!(run("echo nonsense").contains("printed no report"));
    }
}
