//! Matching, merging and attention against the oracles of `scripts/oracle`, on every case in `tests/data`
//! and, if it is set, in the folder that `CHELSEA_GOLDEN_DIR` names.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_kv::matching::{Edge, Measure, Scratch, match_chunks, normalise};
use chelsea_kv::merge::merge_head;
use chelsea_kv::policy::{Chelsea, ChelseaPlain, HeadView, Plan, Policy, RoundShare, View};
use chelsea_kv::scratch::ScratchMeter;
use chelsea_kv::{Dtype, Head, QueryPower, Rotary, attention};
use common::Uniform;
use serde_json::Value;
use std::path::{Path, PathBuf};

const TOLERANCE: f32 = 1e-5;

struct Case {
    name: String,
    data: Value,
}

impl Case {
    fn floats(&self, key: &str) -> Vec<f32> {
        fn flatten(value: &Value, out: &mut Vec<f32>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| flatten(item, out)),
                number => out.push(number.as_f64().expect("a number") as f32),
            }
        }
        let mut out = Vec::new();
        flatten(&self.data[key], &mut out);
        assert!(!out.is_empty(), "{} has no {key}", self.name);
        out
    }

    fn ints(&self, key: &str) -> Vec<usize> {
        self.floats(key).into_iter().map(|x| x as usize).collect()
    }

    fn int(&self, key: &str) -> usize {
        self.ints(key)[0]
    }

    fn double(&self, key: &str) -> f64 {
        self.data[key].as_f64().expect("a number")
    }

    /// Lengths of the first two axes of a three-dimensional array, and of the last.
    fn dims(&self, key: &str) -> [usize; 3] {
        let outer = &self.data[key];
        let len = |v: &Value| v.as_array().expect("an array").len();
        [len(outer), len(&outer[0]), len(&outer[0][0])]
    }

    /// Heads `[heads][tokens]` of the case's keys, values and counts, each token at its own position.
    fn heads(&self) -> Vec<Head> {
        let [heads, tokens, dim] = self.dims("K");
        let (keys, values, counts) = (self.floats("K"), self.floats("V"), self.floats("n"));
        let make = |h: usize| {
            let mut head = Head::new(dim, Dtype::F32);
            for t in 0..tokens {
                let row = (h * tokens + t) * dim;
                let count = counts[h * tokens + t] as u32;
                head.push(&keys[row..row + dim], &values[row..row + dim], count, t as f32);
            }
            head
        };
        (0..heads).map(make).collect()
    }
}

fn cases(global: bool) -> Vec<Case> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data")];
    folders.extend(std::env::var_os("CHELSEA_GOLDEN_DIR").map(PathBuf::from));
    let read = |path: &Path| {
        let name = path.file_stem()?.to_str()?.to_owned();
        let wanted = name.starts_with("golden_") && name.starts_with("golden_global_") == global;
        (wanted && path.extension()? == "json").then(|| {
            let data = serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
            Case { name, data }
        })
    };
    let mut cases: Vec<Case> = Vec::new();
    for folder in folders {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        cases.extend(entries.filter_map(|entry| read(&entry.expect("listed").path())));
    }
    assert!(cases.len() >= 3, "the golden cases are missing");
    cases
}

fn assert_close(case: &Case, what: &str, got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len(), "{}: length of {what}", case.name);
    for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
        assert!((g - w).abs() <= TOLERANCE * w.abs().max(1.0), "{}: {what}[{i}] is {g}, not {w}", case.name);
    }
}

fn assert_head(case: &Case, head: &Head, keys: &[f32], values: &[f32], counts: &[f32]) {
    let dim = head.head_dim();
    let (mut k, mut v) = (vec![0.0; head.len() * dim], vec![0.0; head.len() * dim]);
    for i in 0..head.len() {
        head.read_key(i, &mut k[i * dim..][..dim]);
        head.read_value(i, &mut v[i * dim..][..dim]);
    }
    let n: Vec<f32> = (0..head.len()).map(|i| head.count(i) as f32).collect();
    assert_eq!(n, counts, "{}: counts", case.name);
    assert_close(case, "keys", &k, keys);
    assert_close(case, "values", &v, values);
}

/// Attention of every query by itself: it sees all entries.
fn attend_all(head: &Head, queries: &[f32]) -> Vec<f32> {
    let dim = head.head_dim();
    let mut out = vec![0.0; queries.len()];
    for (q, o) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let request = attention::Request { heads: std::slice::from_ref(head), q, n: 1, out: o };
        attention::attend_batch(&mut [request], &attention::Attention::full(1, (dim as f32).sqrt().recip()));
    }
    out
}

fn carry_out(heads: &mut [Head], range: std::ops::Range<usize>, plan: &Plan) {
    for (g, head) in heads.iter_mut().enumerate() {
        if !plan.roots(g).is_empty() {
            merge_head(head, range.clone(), plan.roots(g), &ScratchMeter::default());
        }
    }
}

#[test]
fn the_plain_recipe_agrees_with_its_oracle() {
    for case in cases(false) {
        let [heads, tokens, dim] = case.dims("K");
        let [chunk, sinks, window] = case.ints("params")[..] else { panic!("three parameters") };
        let mut cache = case.heads();
        let rotary = Rotary::plain(dim, 10_000.0);
        let policy = ChelseaPlain { chunk };
        let meter = ScratchMeter::default();
        for (round, merges) in case.ints("r").into_iter().enumerate() {
            let len = cache[0].len();
            let range = sinks..len - window;
            let views = cache.iter().map(|head| HeadView::new(head, range.clone(), &rotary, Vec::new(), 1.0));
            let view = View { heads: views.collect(), tokens, scratch: &meter };
            let plan = policy.plan(&view, (range.len() - merges) * heads).unwrap();
            let assigned = case.ints(&format!("assign{round}"));
            for g in 0..heads {
                let roots = plan.roots(g);
                let survives = |i: usize| i < sinks || i >= range.end || roots[i - sinks] as usize == i - sinks;
                let row: Vec<usize> = (0..len)
                    .scan(0, |next, i| {
                        *next += usize::from(survives(i));
                        Some(*next - 1)
                    })
                    .collect();
                for i in 0..len {
                    let root = if range.contains(&i) { sinks + roots[i - sinks] as usize } else { i };
                    assert_eq!(row[root], assigned[g * len + i], "{}: entry {i} of head {g}", case.name);
                }
            }
            carry_out(&mut cache, range, &plan);
        }
        let (keys, values, counts) = (case.floats("K2"), case.floats("V2"), case.floats("n2"));
        let left = cache[0].len();
        let group = case.dims("q")[0] / heads;
        let (queries, wanted) = (case.floats("q"), case.floats("out"));
        for (h, head) in cache.iter().enumerate() {
            let rows = h * left * dim..(h + 1) * left * dim;
            assert_head(&case, head, &keys[rows.clone()], &values[rows], &counts[h * left..(h + 1) * left]);
            let per_head = case.dims("q")[1] * dim * group;
            let block = h * per_head..(h + 1) * per_head;
            assert_close(&case, "attention", &attend_all(head, &queries[block.clone()]), &wanted[block]);
        }
    }
}

#[test]
fn the_global_recipe_agrees_with_its_oracle() {
    for case in cases(true) {
        let [heads, tokens, dim] = case.dims("K");
        let shape = Uniform {
            layers: case.int("L"),
            kv_heads: case.int("H"),
            q_heads: case.int("H") * case.int("Gq"),
            head_dim: dim,
        };
        let rotary = Rotary::plain(dim, 10_000.0);
        let mut cache = case.heads();
        let range = case.int("S")..tokens - case.int("W");
        let power = query_power(&case, shape);
        let scales = case.floats("sv");
        let meter = ScratchMeter::default();
        let views: Vec<HeadView> =
            (0..heads).map(|g| HeadView::new(&cache[g], range.clone(), &rotary, power.weights(g), scales[g])).collect();
        let (weights, features) = (case.floats("w"), case.floats("F"));
        for (g, head) in views.iter().enumerate() {
            assert_close(&case, "query power", head.query_power(), &weights[g * dim..][..dim]);
            let mut before = vec![0.0; dim];
            for i in 0..head.len() {
                head.read_feature(i, &mut before);
                let row = (g * tokens + range.start + i) * dim;
                assert_close(&case, "keys before RoPE", &before, &features[row..row + dim]);
            }
        }
        let policy = Chelsea {
            chunk: case.int("chunk"),
            round_share: RoundShare::Fixed(case.double("frac")),
            floor: case.double("floor"),
            value_weight: case.double("lam"),
            recent: 0.0,
            rounded: false,
            drop: false,
        };
        let view = View { heads: views, tokens, scratch: &meter };
        let plan = policy.plan(&view, case.int("total")).unwrap();
        let rounded = Chelsea { rounded: true, ..policy.clone() }.plan(&view, case.int("total")).unwrap();
        let exact = spread(&view, &plan, policy.value_weight);
        let ratio = spread(&view, &rounded, policy.value_weight) / exact;
        assert!(ratio < 1.02, "{}: rounded rows lose {ratio} times as much", case.name);
        carry_out(&mut cache, range, &plan);
        for (g, head) in cache.iter().enumerate() {
            let part = |key: &str| case.floats(&format!("{key}_{g}"));
            assert_head(&case, head, &part("K2"), &part("V2"), &part("n2"));
            assert_close(&case, "attention", &attend_all(head, &part("q")), &part("out"));
        }
    }
}

/// What a plan costs: how far all candidates lie from the centroids of their clusters.
fn spread(view: &View<'_>, plan: &Plan, value_weight: f64) -> f64 {
    let mut sum = 0.0;
    for (g, head) in view.heads.iter().enumerate().filter(|(g, _)| !plan.roots(*g).is_empty()) {
        let (roots, dims) = (plan.roots(g), head.dims());
        let factor = (value_weight / f64::from(head.value_scale())).sqrt();
        let row = |i: usize| -> Vec<f64> {
            let (mut key, mut value) = (vec![0.0; dims.key], vec![0.0; dims.value]);
            head.read_feature(i, &mut key);
            head.read_value(i, &mut value);
            let keys = key.iter().zip(head.query_power()).map(|(&x, &w)| f64::from(x) * f64::from(w).sqrt());
            keys.chain(value.iter().map(|&x| f64::from(x) * factor)).collect()
        };
        let rows: Vec<Vec<f64>> = (0..head.len()).map(row).collect();
        for root in (0..head.len()).filter(|&i| roots[i] as usize == i) {
            let members: Vec<usize> = (0..head.len()).filter(|&i| roots[i] as usize == root).collect();
            let weigh = |i: usize| f64::from(head.count(i));
            let total: f64 = members.iter().map(|&i| weigh(i)).sum();
            sum += (0..rows[root].len())
                .map(|k| {
                    let mean = members.iter().map(|&i| weigh(i) * rows[i][k]).sum::<f64>() / total;
                    members.iter().map(|&i| weigh(i) * (rows[i][k] - mean).powi(2)).sum::<f64>()
                })
                .sum::<f64>();
        }
    }
    sum
}

/// The power of the case's queries, `[L][q_heads][N][d]`, given to the cache as `[N][q_heads][d]`.
fn query_power(case: &Case, shape: Uniform) -> QueryPower {
    let (queries, dim) = (case.floats("Q"), shape.head_dim);
    let n = queries.len() / (shape.layers * shape.q_heads * dim);
    let mut power = QueryPower::new(shape.shape());
    for layer in 0..shape.layers {
        let mut block = Vec::new();
        for t in 0..n {
            for h in 0..shape.q_heads {
                block.extend_from_slice(&queries[((layer * shape.q_heads + h) * n + t) * dim..][..dim]);
            }
        }
        power.observe(layer, &block, n);
    }
    power
}

/// The matching itself, by definition, in double precision.
fn match_by_definition(rows: &[f32], dim: usize, chunk: usize, cost: impl Fn(&[f32], &[f32]) -> f64) -> Vec<Edge> {
    let row = |i: usize| &rows[i * dim..][..dim];
    let n = rows.len() / dim;
    let mut edges = Vec::new();
    for start in (0..n).step_by(chunk) {
        let end = (start + chunk).min(n);
        for a in (start + 1..end).step_by(2) {
            let mut best = (start, f64::INFINITY);
            for b in (start..end).step_by(2) {
                let c = cost(row(a), row(b));
                if c < best.1 {
                    best = (b, c);
                }
            }
            edges.push(Edge { a: a as u32, b: best.0 as u32, cost: best.1 as f32 });
        }
    }
    edges
}

#[test]
fn matching_agrees_with_its_definition_at_every_size() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    for (n, dim, chunk) in [(1, 4, 8), (2, 4, 8), (65, 3, 64), (300, 64, 256), (131, 80, 37), (500, 128, 100)] {
        let mut rows: Vec<f32> = (0..n * dim).map(|_| random()).collect();
        let copies = n / 3;
        rows.copy_within(0..copies * dim, (n - copies) * dim);
        let mut scratch = Scratch::default();
        let mut edges = Vec::new();
        match_chunks(&rows, dim, chunk, Measure::SquaredDistance, &mut scratch, &mut edges);
        let distance = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert_same(&edges, &match_by_definition(&rows, dim, chunk, distance));
        normalise(&mut rows, dim);
        edges.clear();
        match_chunks(&rows, dim, chunk, Measure::Cosine, &mut scratch, &mut edges);
        let cosine = |x: &[f32], y: &[f32]| 1.0 - x.iter().zip(y).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        assert_same(&edges, &match_by_definition(&rows, dim, chunk, cosine));
    }
}

fn assert_same(got: &[Edge], wanted: &[Edge]) {
    assert_eq!(got.len(), wanted.len());
    for (g, w) in got.iter().zip(wanted) {
        assert!(g.a == w.a && g.b == w.b && (g.cost - w.cost).abs() < 1e-4, "{g:?} instead of {w:?}");
        assert!(w.cost != 0.0 || g.cost == 0.0, "equal entries cost nothing");
    }
}

#[test]
fn a_large_common_offset_does_not_blur_ties() {
    // Two pairs of equal rows among rows that differ by little beside their length.
    let dim = 64;
    let rows: Vec<f32> =
        (0..40).flat_map(|i| (0..dim).map(move |k| 300.0 + ((i % 20) * 7 + k) as f32 * 1e-3)).collect();
    let mut edges = Vec::new();
    match_chunks(&rows, dim, 64, Measure::SquaredDistance, &mut Scratch::default(), &mut edges);
    // Row a equals row a +- 20, which is odd like a; its nearest even rows are a - 1 and a + 1, and
    // those 20 away from them: the lowest of equally near ones is taken.
    for edge in &edges {
        let distance = |b: u32| kernel_distance(&rows, dim, edge.a, b);
        let nearest = (0..40).step_by(2).map(distance).fold(f32::INFINITY, f32::min);
        assert_eq!(edge.cost, nearest);
        assert_eq!((0..40).step_by(2).find(|&b| distance(b) == nearest), Some(edge.b));
    }
}

fn kernel_distance(rows: &[f32], dim: usize, a: u32, b: u32) -> f32 {
    let mut sums = [0.0f32; 8];
    for k in 0..dim {
        let difference = rows[a as usize * dim + k] - rows[b as usize * dim + k];
        sums[k % 8] += difference * difference;
    }
    sums.iter().sum()
}
