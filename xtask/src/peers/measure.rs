//! Runs of both engines in turns.

use crate::process::{program, root, shown};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// Tokens of the timed prompt.
pub const PREFILL: usize = 512;
/// Tokens timed at each depth; `chelsea bench` adds each one's share of the clustering that comes every 64.
const DECODE: usize = 24;
/// A long prompt and its answer.
pub const PROMPT: usize = 8192;
pub const GENERATE: usize = 256;
/// Keep ratios of Chelsea: the whole cache, and a fifth of it.
pub const KEEPS: [&str; 2] = ["1", "0.2"];

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A prompt of [`PREFILL`] tokens from nothing; seconds.
    Prefill,
    /// One token at this depth; seconds.
    Decode(usize),
    /// [`PROMPT`] tokens read and [`GENERATE`] answered; seconds.
    EndToEnd,
}

/// Which engine, in which setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// One of [`KEEPS`].
    Chelsea(&'static str),
    /// Flash attention and weight repacking.
    LlamaCpp { flash: bool, repack: bool },
}

pub const PEER: [Setting; 4] = [
    Setting::LlamaCpp { flash: true, repack: true },
    Setting::LlamaCpp { flash: true, repack: false },
    Setting::LlamaCpp { flash: false, repack: true },
    Setting::LlamaCpp { flash: false, repack: false },
];

/// Seconds by work and setting, one a trial.
pub type Times = BTreeMap<(Work, Setting), Vec<f64>>;

/// What is to be compared on one model.
pub struct Plan {
    pub name: String,
    pub file: PathBuf,
    pub python: PathBuf,
    pub threads: u32,
    pub trials: u32,
    pub end_to_end_trials: u32,
    pub depths: Vec<usize>,
}

/// What was measured on one model.
pub struct Comparison {
    pub model: String,
    pub threads: u32,
    pub trials: u32,
    pub end_to_end_trials: u32,
    /// Processor and instructions, as Chelsea tells them.
    pub machine: String,
    /// Version and instructions of llama.cpp.
    pub peer: String,
    pub times: Times,
    /// Settings of llama.cpp that fail on this machine.
    pub broken: BTreeSet<Setting>,
    /// Peak bytes of Chelsea's cache over the long prompt, by keep ratio, and those of a full cache.
    pub peak: BTreeMap<&'static str, (u64, u64)>,
}

#[derive(Deserialize)]
struct Own {
    machine: Machine,
    #[serde(default)]
    depth: Vec<DepthRow>,
    #[serde(default)]
    end_to_end: Vec<EndToEndRow>,
}

#[derive(Deserialize)]
struct Machine {
    cpu: Option<String>,
    products: String,
    attention: String,
}

#[derive(Deserialize)]
struct Median {
    median: f64,
}

#[derive(Deserialize)]
struct DepthRow {
    depth: usize,
    budget: String,
    prefill_s: Option<Median>,
    decode_ms: Option<Median>,
}

#[derive(Deserialize)]
struct EndToEndRow {
    total_s: Median,
    kv_bytes_peak: u64,
    kv_bytes_full: u64,
}

#[derive(Deserialize)]
struct Peer {
    prefill_s: BTreeMap<String, f64>,
    decode_s: BTreeMap<String, f64>,
    end_to_end: Option<PeerEndToEnd>,
    version: String,
    system: String,
}

#[derive(Deserialize)]
struct PeerEndToEnd {
    prefill_s: f64,
    decode_s: f64,
}

impl Plan {
    /// Runs everything, in turns.
    pub fn run(&self) -> Result<Comparison> {
        let mut out = Comparison {
            model: self.name.clone(),
            threads: self.threads,
            trials: self.trials,
            end_to_end_trials: self.end_to_end_trials,
            machine: String::new(),
            peer: String::new(),
            times: Times::new(),
            broken: BTreeSet::new(),
            peak: BTreeMap::new(),
        };
        for trial in 0..self.trials {
            eprintln!("{}: trial {} of {}", self.name, trial + 1, self.trials);
            self.own_depths(&mut out)?;
            for setting in &PEER {
                self.peer_depths_or_leave_out(setting, &mut out)?;
            }
        }
        if self.end_to_end_trials > 0 {
            let candidates = contenders(&out.times, &self.depths);
            for trial in 0..self.end_to_end_trials {
                eprintln!("{}: prompt and answer, trial {} of {}", self.name, trial + 1, self.end_to_end_trials);
                for keep in KEEPS {
                    self.own_end_to_end(keep, &mut out)?;
                }
                for setting in &candidates {
                    self.peer_end_to_end(setting, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    fn own(&self, args: &[&str]) -> Result<Own> {
        let mut command = Command::new(program());
        command.args(["bench", "--json", "--trials", "1", "--threads", &self.threads.to_string()]).args(args);
        // The same storage on both sides, whatever the model's own.
        command.args(["--kv-type", "f16", "-m"]).arg(&self.file);
        json(&mut command)
    }

    fn own_depths(&self, out: &mut Comparison) -> Result<()> {
        let depths: Vec<String> = self.depths.iter().map(usize::to_string).collect();
        let (keeps, decode) = (KEEPS.join(","), DECODE.to_string());
        let base = ["--decode", &decode, "--keeps", &keeps, "--prefill"];
        let own = self.own(&[&base[..], &["0", "--depths", &depths.join(",")]].concat())?;
        for row in &own.depth {
            let Some(keep) = keep_of(&row.budget) else { bail!("`{}` is no setting of this comparison", row.budget) };
            let ms = row.decode_ms.as_ref().context("a depth without its decode time")?.median;
            put(out, Work::Decode(row.depth), Setting::Chelsea(keep), ms / 1e3);
        }
        let prefill = PREFILL.to_string();
        let own = self.own(&["--decode", "0", "--keeps", "1", "--depths", "0", "--prefill", &prefill])?;
        let seconds = own.depth.first().and_then(|row| row.prefill_s.as_ref()).context("no prefill time")?;
        put(out, Work::Prefill, Setting::Chelsea(KEEPS[0]), seconds.median);
        let m = own.machine;
        out.machine = format!(
            "{}; Chelsea: products {}, attention {}",
            m.cpu.as_deref().unwrap_or("unknown processor"),
            m.products,
            m.attention
        );
        Ok(())
    }

    fn own_end_to_end(&self, keep: &'static str, out: &mut Comparison) -> Result<()> {
        let (prompt, generate) = (PROMPT.to_string(), GENERATE.to_string());
        let own = self.own(&["--what", "end-to-end", "--prompt", &prompt, "--generate", &generate, "--keeps", keep])?;
        let row = own.end_to_end.first().context("no time for the long prompt")?;
        put(out, Work::EndToEnd, Setting::Chelsea(keep), row.total_s.median);
        out.peak.insert(keep, (row.kv_bytes_peak, row.kv_bytes_full));
        Ok(())
    }

    fn peer(&self, setting: &Setting, args: &[&str]) -> Result<Peer> {
        let Setting::LlamaCpp { flash, repack } = setting else { bail!("{setting:?} is not llama.cpp") };
        let flag = |on: &bool| if *on { "1" } else { "0" };
        let mut command = Command::new(&self.python);
        command.arg(root().join("scripts").join("peers").join("llama_cpp_bench.py")).arg(&self.file);
        command.args(["--threads", &self.threads.to_string(), "--flash", flag(flash), "--repack", flag(repack)]);
        json(command.args(args))
    }

    /// A setting that fails, as llama.cpp's tiles do on some virtual machines, is left out from then on: the
    /// others are still worth comparing with.
    fn peer_depths_or_leave_out(&self, setting: &Setting, out: &mut Comparison) -> Result<()> {
        if out.broken.contains(setting) {
            return Ok(());
        }
        let Err(error) = self.peer_depths(setting, out) else { return Ok(()) };
        out.broken.insert(setting.clone());
        out.times.retain(|(_, of), _| of != setting);
        ensure!(out.broken.len() < PEER.len(), "llama.cpp fails in all its settings: {error:#}");
        eprintln!("left out: {error:#}");
        Ok(())
    }

    fn peer_depths(&self, setting: &Setting, out: &mut Comparison) -> Result<()> {
        let depths: Vec<String> = self.depths.iter().map(usize::to_string).collect();
        let (prefill, decode) = (PREFILL.to_string(), DECODE.to_string());
        let args = ["--prefill", &prefill, "--decode", &decode, "--depths", &depths.join(",")];
        let peer = self.peer(setting, &args)?;
        for seconds in peer.prefill_s.into_values() {
            put(out, Work::Prefill, setting.clone(), seconds);
        }
        for (depth, seconds) in peer.decode_s {
            put(out, Work::Decode(depth.parse()?), setting.clone(), seconds);
        }
        out.peer = format!("llama-cpp-python {} ({})", peer.version, instructions(&peer.system));
        Ok(())
    }

    fn peer_end_to_end(&self, setting: &Setting, out: &mut Comparison) -> Result<()> {
        let (prompt, generate) = (PROMPT.to_string(), GENERATE.to_string());
        let args = ["--prefill", "0", "--decode", "0", "--prompt", &prompt, "--generate", &generate];
        let times = self.peer(setting, &args)?.end_to_end.context("no time for the long prompt")?;
        put(out, Work::EndToEnd, setting.clone(), times.prefill_s + times.decode_s);
        Ok(())
    }
}

fn put(out: &mut Comparison, work: Work, setting: Setting, seconds: f64) {
    out.times.entry((work, setting)).or_default().push(seconds);
}

/// The keep ratio behind the name that Chelsea's report gives a setting.
fn keep_of(budget: &str) -> Option<&'static str> {
    let percent: f64 = budget.strip_suffix('%')?.parse().ok()?;
    KEEPS.into_iter().find(|keep| keep.parse::<f64>().is_ok_and(|keep| (100.0 * keep - percent).abs() < 1e-6))
}

/// The instructions that are on, out of `AVX2 = 1 | AVX512 = 0 | ..`.
pub fn instructions(system: &str) -> String {
    let parts = system.split(['|', ':']).filter_map(|part| part.trim().strip_suffix(" = 1"));
    parts.collect::<Vec<_>>().join(", ")
}

/// The peer's settings that were fastest at prefill and at the greatest depth: one of them is the one to beat over a
/// long prompt, and the others would cost minutes each.
pub fn contenders(times: &Times, depths: &[usize]) -> Vec<Setting> {
    let deepest = Work::Decode(depths.iter().max().copied().unwrap_or(0));
    let mut found: Vec<Setting> =
        [Work::Prefill, deepest].iter().filter_map(|&work| best(times, work)).map(|(setting, _)| setting).collect();
    found.dedup();
    found
}

/// The peer's setting with the least median time at a work, and its times.
pub fn best(times: &Times, work: Work) -> Option<(Setting, &[f64])> {
    PEER.iter()
        .filter_map(|setting| times.get(&(work, setting.clone())).map(|times| (setting.clone(), times.as_slice())))
        .min_by(|a, b| median(a.1).total_cmp(&median(b.1)))
}

/// The middle value, or the mean of the two middle ones; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {}\n{said}", shown(command), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{}` printed no report", shown(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_is_fastest_in_the_median_counts() {
        let mut times = Times::new();
        times.insert((Work::Prefill, PEER[0].clone()), vec![1.0, 9.0, 2.0]);
        times.insert((Work::Prefill, PEER[3].clone()), vec![0.5, 3.0, 4.0]);
        times.insert((Work::Prefill, Setting::Chelsea("1")), vec![0.1]);
        times.insert((Work::Decode(8), PEER[3].clone()), vec![1.0]);
        let (setting, seconds) = best(&times, Work::Prefill).expect("measured");
        assert_eq!((setting, seconds), (PEER[0].clone(), &[1.0, 9.0, 2.0][..]));
        assert!(best(&times, Work::EndToEnd).is_none());
        assert_eq!(contenders(&times, &[0, 8]), [PEER[0].clone(), PEER[3].clone()]);
    }

    #[test]
    fn settings_are_known_by_their_names_in_the_report() {
        assert_eq!(keep_of("100%"), Some("1"));
        assert_eq!(keep_of("20%"), Some("0.2"));
        assert_eq!(keep_of("50%"), None);
        assert_eq!(keep_of("8192 entries"), None);
    }

    #[test]
    fn instructions_that_are_off_are_left_out() {
        assert_eq!(instructions("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | FMA = 1 |"), "SSE3, AVX2, FMA");
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
