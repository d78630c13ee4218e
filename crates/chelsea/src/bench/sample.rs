//! A report for tests, with rows of every kind.

use super::attention::Attention;
use super::report::{Machine, Report};
use super::trials::Spread;
use super::{attention, batch, depth, end_to_end, matching, mixed, split};

fn spread(median: f64) -> Spread {
    Spread { median, min: 0.5 * median, max: 2.0 * median }
}

/// A report with rows of every kind.
pub fn sample() -> Report {
    let depths = [(2048, "100%", 8.0), (2048, "20%", 4.0), (8192, "100%", 20.0), (8192, "20%", 5.0)];
    Report {
        model: "m".into(),
        machine: Machine::here(2),
        trials: 3,
        prefill: 512,
        decode: 32,
        policy: "chelsea".into(),
        filled: "random entries",
        weight_bytes: 1 << 20,
        cancelled: false,
        depth: depths
            .map(|(depth, budget, ms)| depth::Row {
                depth,
                budget: budget.into(),
                entries_a_head: 10.0,
                kv_bytes: depth * 100,
                prefill_s: None,
                prefill_tokens_per_s: None,
                decode_ms: Some(spread(ms)),
                decode_tokens_per_s: Some(1e3 / ms),
            })
            .into(),
        batch: [1, 4]
            .map(|sequences| batch::Row {
                depth: 2048,
                budget: "20%".into(),
                sequences,
                kv_bytes: 1 << 20,
                step_ms: spread(10.0),
                tokens_per_s: 100.0 * sequences as f64,
            })
            .into(),
        mixed: vec![mixed::Row {
            depth: 2048,
            budget: "20%".into(),
            sequences: 8,
            chunk: 128,
            decode_ms: spread(20.0),
            read_ms: spread(80.0),
            together_ms: spread(90.0),
            share: 0.9,
        }],
        end_to_end: ["100%", "20%"]
            .map(|budget| end_to_end::Row {
                budget: budget.into(),
                prompt: 8192,
                generated: 256,
                total_s: spread(if budget == "20%" { 5.0 } else { 10.0 }),
                prefill_s: spread(4.0),
                clustering_s: spread(0.1),
                decode_s: spread(1.0),
                kv_bytes: 100,
                kv_bytes_peak: 250,
                kv_bytes_full: 1000,
            })
            .into(),
        attention: Some(Attention {
            ram_gb_per_s: spread(20.0),
            rows: vec![attention::Row {
                depth: 8192,
                budget: "100%".into(),
                bytes: 1 << 30,
                decode_ms: spread(70.0),
                decode_gb_per_s: 15.0,
                decode_gflop_per_s: 30.0,
                queries: 0,
                prefill_layer_ms: None,
                prefill_gflop_per_s: None,
            }],
        }),
        matching: vec![matching::Row {
            depth: 8192,
            budget: "20%".into(),
            online_us: Some(spread(12.0)),
            share_of_prefill: Some(spread(0.021)),
            one_shot_us: None,
        }],
        split: vec![split::Row {
            depth: 8192,
            budget: "100%".into(),
            work: "decode",
            tokens: 64,
            ms: [4.0, 1.0, 4.0, 0.0, 0.5, 0.5],
        }],
    }
}
