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
        let mut out = String::new();
        let share = stats.kv_bytes as f64 / stats.kv_limit.max(1) as f64;
        let gauges: &[(&str, f64, &str)] = &[
            ("num_requests_running", (stats.running + stats.reading) as f64, "Requests that are read or answered."),
            ("num_requests_waiting", stats.waiting as f64, "Requests that wait for their turn."),
            ("kv_cache_usage_perc", share, "Bytes of all caches, as a share of their limit (1 is all)."),
        ];
        for (name, value, help) in gauges {
            self.both(&mut out, name, "gauge", *value, help);
        }
        let counters: &[(&str, u64, &str)] = &[
            ("prompt_tokens_total", stats.prompt_tokens + stats.cached_tokens, "Tokens of prompts."),
            ("generation_tokens_total", stats.generated_tokens, "Tokens that were generated."),
            ("prefix_cache_queries_total", stats.prompt_tokens + stats.cached_tokens, "Tokens that were looked up."),
            ("prefix_cache_hits_total", stats.cached_tokens, "Tokens that were found in checkpoints."),
            ("num_preemptions_total", stats.stepped_aside, "Times that a request stepped aside for want of memory."),
        ];
        for (name, value, help) in counters {
            self.both(&mut out, name, "counter", *value as f64, help);
        }
        for prefix in ["chelsea", "vllm"] {
            let name = format!("{prefix}:request_success_total");
            let _infallible = writeln!(out, "# HELP {name} Requests that were answered.\n# TYPE {name} counter");
            for (reason, count) in ["stop", "length"].iter().zip(observed.finished) {
                let _infallible = writeln!(out, "{name}{{{},finished_reason=\"{reason}\"}} {count}", self.labels);
            }
            let times: [(&str, &Histogram, &str); 3] = [
                ("time_to_first_token_seconds", &observed.first_token, "From a request to its first token."),
                ("time_per_output_token_seconds", &observed.next_token, "From one token to the next."),
                ("e2e_request_latency_seconds", &observed.whole, "From a request to the end of its answer."),
            ];
            for (name, histogram, help) in times {
                histogram.write(&mut out, &format!("{prefix}:{name}"), help, &self.labels);
            }
        }
        let own: &[(&str, &str, f64, &str)] = &[
            ("kv_bytes", "gauge", stats.kv_bytes as f64, "Bytes of all caches, checkpoints and scratch."),
            ("kv_bytes_limit", "gauge", stats.kv_limit as f64, "Bytes that they may take."),
            (
                "kv_bytes_mapped",
                "gauge",
                stats.kv_bytes_mapped as f64,
                "Bytes of keys and values that are read from files, beside kv_bytes.",
            ),
            ("parked", "gauge", stats.parked as f64, "Requests that wait with their caches in files."),
            ("parks_total", "counter", stats.parks as f64, "Times that a cache was put into a file to make room."),
            (
                "squeezes_total",
                "counter",
                stats.squeezed as f64,
                "Times that a cache was clustered below its budget to make room, as its request allows.",
            ),
            (
                "kv_bytes_full",
                "gauge",
                stats.kv_bytes_full as f64,
                "Bytes that full 16-bit caches of running requests would take.",
            ),
            ("kv_entries", "gauge", stats.kv_entries as f64, "Entries in the caches of running requests."),
            ("kv_tokens", "gauge", stats.kv_tokens as f64, "Tokens that these caches have seen."),
            ("kv_checkpoints", "gauge", stats.checkpoints as f64, "Checkpoints on the shelf."),
            ("shelf_hits_total", "counter", stats.shelf_hits as f64, "Prompts that went on from a checkpoint."),
            (
                "shelf_misses_total",
                "counter",
                stats.shelf_misses as f64,
                "Prompts that were read from their beginning.",
            ),
            ("requests_cancelled_total", "counter", stats.cancelled as f64, "Requests whose client went away."),
            ("requests_refused_total", "counter", observed.refused as f64, "Requests that were refused."),
            ("requests_failed_total", "counter", observed.failed as f64, "Requests that failed."),
            (
                "clustering_seconds_total",
                "counter",
                stats.clustering.as_secs_f64(),
                "Time spent clustering for ended requests.",
            ),
            ("step_seconds_total", "counter", stats.busy.as_secs_f64(), "Time spent in steps."),
            ("steps_total", "counter", stats.steps as f64, "Steps."),
        ];
        for (name, kind, value, help) in own {
            self.one(&mut out, &format!("chelsea:{name}"), kind, *value, help);
        }
        out
    }

    fn both(&self, out: &mut String, name: &str, kind: &str, value: f64, help: &str) {
        for prefix in ["chelsea", "vllm"] {
            self.one(out, &format!("{prefix}:{name}"), kind, value, help);
        }
    }

    fn one(&self, out: &mut String, name: &str, kind: &str, value: f64, help: &str) {
        let labels = &self.labels;
        let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}");
    }
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
    }
}
