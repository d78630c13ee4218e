//! What `/metrics` tells, in the text format of Prometheus.
//!
//! Names are vLLM's where they mean the same, with its prefix as an alias, so that dashboards and routers that know those
//! work unchanged; what only a clustered cache has is named `chelsea:kv_*`.

use crate::ApiError;
use chelsea_engine::SchedulerStats;
use chelsea_engine::scheduler::{Outcome, RequestError};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// How long something took, how often.
#[derive(Debug, Clone, Default)]
struct Histogram {
    buckets: [u64; SECONDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = SECONDS.iter().position(|&bound| seconds <= bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str, labels: &str) {
        let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (bound, count) in SECONDS.iter().zip(self.buckets) {
            below += count;
            let _infallible = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _infallible = writeln!(
            out,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {}\n{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}",
            self.count, self.sum, self.count
        );
    }
}

#[derive(Debug, Clone, Default)]
struct Observed {
    first_token: Histogram,
    next_token: Histogram,
    whole: Histogram,
    finished: [u64; 2],
    refused: u64,
    failed: u64,
}

/// What the HTTP side observes.
#[derive(Debug)]
pub struct Metrics {
    labels: String,
    observed: Mutex<Observed>,
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Metrics {
        let name: String =
            model.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { '_' } else { c }).collect();
        Metrics { labels: format!("model_name=\"{name}\""), observed: Mutex::default() }
    }

    /// What every figure is labelled with.
    pub(crate) fn labels(&self) -> &str {
        &self.labels
    }

    fn change(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.observed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.change(|observed| observed.first_token.observe(after));
    }

    pub(crate) fn next_token(&self, after: Duration) {
        self.change(|observed| observed.next_token.observe(after));
    }

    pub(crate) fn finished(&self, outcome: &Outcome, after: Duration) {
        let is_cut = usize::from(crate::answer::finish_reason(outcome.finish) == "length");
        self.change(|observed| {
            observed.whole.observe(after);
            observed.finished[is_cut] += 1;
        });
    }

    /// Counts a request that is not answered, and says so as HTTP does.
    pub(crate) fn refused(&self, error: RequestError) -> ApiError {
        let error = ApiError::from(error);
        self.change(|observed| {
            *(if error.status.is_server_error() { &mut observed.failed } else { &mut observed.refused }) += 1
        });
        if error.status.is_server_error() {
            tracing::error!("a request failed: {}", error.message);
        }
        error
    }

    /// Everything, as of now.
    pub(crate) fn text(&self, stats: &SchedulerStats) -> String {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let labels = &self.labels;
        let mut out = String::new();
        for Row { names, kind, value, help } in rows(stats, &observed) {
            for prefix in names.prefixes() {
                let name = format!("{prefix}:{}", names.name());
                let _infallible =
                    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}");
            }
        }
        for prefix in BOTH {
            let name = format!("{prefix}:request_success_total");
            let _infallible = writeln!(out, "# HELP {name} Requests that were answered.\n# TYPE {name} counter");
            for (reason, count) in ["stop", "length"].iter().zip(observed.finished) {
                let _infallible = writeln!(out, "{name}{{{labels},finished_reason=\"{reason}\"}} {count}");
            }
            for (name, histogram, help) in observed.times() {
                histogram.write(&mut out, &format!("{prefix}:{name}"), help, labels);
            }
        }
        out
    }
}

impl Observed {
    /// How long things took, by name, with what the name means.
    fn times(&self) -> [(&'static str, &Histogram, &'static str); 3] {
        [
            ("time_to_first_token_seconds", &self.first_token, "From a request to its first token."),
            ("time_per_output_token_seconds", &self.next_token, "From one token to the next."),
            ("e2e_request_latency_seconds", &self.whole, "From a request to the end of its answer."),
        ]
    }
}

/// Prefixes of what both mean alike.
const BOTH: &[&str] = &["chelsea", "vllm"];

/// Under which names a figure is told.
#[derive(Clone, Copy)]
enum Names {
    /// vLLM has the same.
    Both(&'static str),
    /// Only this server has it.
    Own(&'static str),
}

use Names::{Both, Own};

impl Names {
    fn name(self) -> &'static str {
        match self {
            Both(name) | Own(name) => name,
        }
    }

    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Both(_) => BOTH,
            Own(_) => &BOTH[..1],
        }
    }
}

/// One figure.
struct Row {
    names: Names,
    kind: &'static str,
    value: f64,
    help: &'static str,
}

/// All figures but those of times and ends.
#[rustfmt::skip] // one line for each
fn rows(stats: &SchedulerStats, observed: &Observed) -> Vec<Row> {
    let gauge = |names, value, help| Row { names, kind: "gauge", value, help };
    let counter = |names, value: u64, help| Row { names, kind: "counter", value: value as f64, help };
    let seconds = |names, value: Duration, help| Row { names, kind: "counter", value: value.as_secs_f64(), help };
    let number = |names, value: usize, help| gauge(names, value as f64, help);
    let share = stats.kv_bytes as f64 / stats.kv_limit.max(1) as f64;
    let prompts = stats.prompt_tokens + stats.cached_tokens;
    vec![
        number(Both("num_requests_running"), stats.running + stats.reading, "Requests that are read or answered."),
        number(Both("num_requests_waiting"), stats.waiting, "Requests that wait for their turn."),
        gauge(Both("kv_cache_usage_perc"), share, "Bytes of all caches, as a share of their limit (1 is all)."),
        counter(Both("prompt_tokens_total"), prompts, "Tokens of prompts."),
        counter(Both("generation_tokens_total"), stats.generated_tokens, "Tokens that were generated."),
        counter(Both("prefix_cache_queries_total"), prompts, "Tokens that were looked up."),
        counter(Both("prefix_cache_hits_total"), stats.cached_tokens, "Tokens that were found in checkpoints."),
        counter(Both("num_preemptions_total"), stats.stepped_aside, "Times that a request stepped aside for want of memory."),
        number(Own("kv_bytes"), stats.kv_bytes, "Bytes of all caches, checkpoints and scratch."),
        number(Own("kv_bytes_limit"), stats.kv_limit, "Bytes that they may take."),
        number(Own("kv_bytes_mapped"), stats.kv_bytes_mapped, "Bytes of keys and values that are read from files, beside kv_bytes."),
        number(Own("parked"), stats.parked, "Requests that wait with their caches in files."),
        counter(Own("parks_total"), stats.parks, "Times that a cache was put into a file to make room."),
        counter(Own("squeezes_total"), stats.squeezed, "Times that a cache was clustered below its budget to make room, as its request allows."),
        number(Own("kv_bytes_full"), stats.kv_bytes_full, "Bytes that full 16-bit caches of running requests would take."),
        number(Own("kv_entries"), stats.kv_entries, "Entries in the caches of running requests."),
        number(Own("kv_tokens"), stats.kv_tokens, "Tokens that these caches have seen."),
        number(Own("kv_checkpoints"), stats.checkpoints, "Checkpoints on the shelf."),
        counter(Own("shelf_hits_total"), stats.shelf_hits, "Prompts that went on from a checkpoint."),
        counter(Own("shelf_misses_total"), stats.shelf_misses, "Prompts that were read from their beginning."),
        counter(Own("requests_cancelled_total"), stats.cancelled, "Requests whose client went away."),
        counter(Own("requests_refused_total"), observed.refused, "Requests that were refused."),
        counter(Own("requests_failed_total"), observed.failed, "Requests that failed."),
        counter(Own("compactions_total"), stats.compactions, "Compactions of the caches of ended requests."),
        counter(Own("compactions_aside_total"), stats.compactions_aside, "Compactions of prompts that were made beside the answers of others."),
        seconds(Own("clustering_seconds_total"), stats.clustering, "Time spent clustering for ended requests."),
        seconds(Own("step_seconds_total"), stats.busy, "Time spent in steps."),
        counter(Own("steps_total"), stats.steps, "Steps."),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_below_them() {
        let metrics = Metrics::new("a \"model\"");
        for millis in [1, 7, 7, 400_000] {
            metrics.first_token(Duration::from_millis(millis));
        }
        let text = metrics.text(&SchedulerStats { kv_limit: 100, kv_bytes: 25, ..SchedulerStats::default() });
        for line in [
            "chelsea:time_to_first_token_seconds_bucket{model_name=\"a _model_\",le=\"0.005\"} 1",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a _model_\",le=\"0.01\"} 3",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a _model_\",le=\"+Inf\"} 4",
            "vllm:kv_cache_usage_perc{model_name=\"a _model_\"} 0.25",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let mut types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let told = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), told, "each name is told once");
    }
}
