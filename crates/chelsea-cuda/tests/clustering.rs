//! Plans that a device makes against those of the CPU's policy, over heads as models have them: a few topics that come and
//! go, some dimensions far larger than others, offsets that all keys share, sinks, and centroids of earlier compactions.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_cuda::{CudaBackend, CudaStore};
use chelsea_emulator::Schedule;
use chelsea_kv::backend::{Candidates, Clustering, ScratchMeter};
use chelsea_kv::policy::{Chelsea, HeadView, Plan, Policy, View};
use chelsea_kv::{Backend, Dtype, Head, PAGE, Reservation, Rotary};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What is clustered together.
struct Pooled {
    heads: Vec<Head>,
    rotary: Rotary,
    power: Vec<Vec<f32>>,
    first: usize,
    window: usize,
}

/// A head of `n` entries whose keys stay near one of a few topics for a while.
fn head(dim: usize, dtype: Dtype, n: usize, spread: f32, rotary: &Rotary, rng: &mut SmallRng) -> Head {
    let normal = |rng: &mut SmallRng| (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() / 1.41;
    let sizes: Vec<f32> = (0..dim).map(|d| if d % 17 == 3 { 9.0 } else { 0.5 + 0.5 / (1 + d % 8) as f32 }).collect();
    let offset: Vec<f32> = sizes.iter().map(|size| size * 2.0 * normal(rng)).collect();
    let mut topic = || -> [Vec<f32>; 2] { [0, 1].map(|_| (0..dim).map(|_| normal(rng)).collect()) };
    let topics: Vec<[Vec<f32>; 2]> = (0..7).map(|_| topic()).collect();
    let mut head = Head::new(dim, dtype);
    let pairs = rotary.inv_freq.len();
    let (mut at, mut position) = (0, 0.0f32);
    for _ in 0..n {
        if rng.random_range(0..20) == 0 {
            at = rng.random_range(0..topics.len());
        }
        let of_topic = &topics[at];
        let key: Vec<f32> = (0..dim).map(|d| offset[d] + sizes[d] * (of_topic[0][d] + spread * normal(rng))).collect();
        let value: Vec<f32> = (0..dim).map(|d| 0.1 * (of_topic[1][d] + spread * normal(rng))).collect();
        // Some were clustered before.
        let count = if rng.random_range(0..4) == 0 { rng.random_range(2..30) } else { 1 };
        let mean = position + (count - 1) as f32 / 2.0;
        let mut turned = key.clone();
        for i in 0..pairs {
            let (sine, cosine) = (mean * rotary.inv_freq[i]).sin_cos();
            turned[i] = key[i] * cosine - key[i + pairs] * sine;
            turned[i + pairs] = key[i + pairs] * cosine + key[i] * sine;
        }
        head.push(&turned, &value, count, mean);
        position += count as f32;
    }
    head
}

/// Heads of several lengths and spreads, which compete for one budget.
fn pooled(dim: usize, dtype: Dtype, lens: &[usize], seed: u64) -> Pooled {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut rotary = Rotary::plain(dim, 10_000.0);
    if seed.is_multiple_of(2) {
        rotary.inv_freq.truncate(dim / 4);
    }
    let spread = |h: usize| 0.3 * 1.6f32.powi(h as i32 % 4);
    let heads = lens.iter().enumerate().map(|(h, &n)| head(dim, dtype, n, spread(h), &rotary, &mut rng)).collect();
    let mut power = || (0..dim).map(|_| rng.random_range(0.2f32..3.0) / dim as f32).collect();
    Pooled { heads, power: lens.iter().map(|_| power()).collect(), rotary, first: 4, window: 30 }
}

impl Pooled {
    fn candidates(&self, g: usize) -> std::ops::Range<usize> {
        self.first..self.heads[g].len() - self.window
    }

    fn all_candidates(&self) -> usize {
        (0..self.heads.len()).map(|g| self.candidates(g).len()).sum()
    }

    fn clustering<'a>(&'a self, recipe: &'a Chelsea, target: usize) -> Clustering<'a> {
        let candidates = |g: usize| Candidates {
            head: g,
            range: self.candidates(g),
            rotary: &self.rotary,
            query_power: self.power[g].clone(),
            value_scale: None,
        };
        Clustering { recipe, heads: (0..self.heads.len()).map(candidates).collect(), target }
    }

    fn of_cpu(&self, recipe: &Chelsea, target: usize) -> Vec<Vec<Vec<u32>>> {
        let scratch = ScratchMeter::default();
        let of_head = |(g, head)| {
            let scale = self.value_scale(g);
            HeadView::new(head, self.candidates(g), &self.rotary, self.power[g].clone(), scale)
        };
        let view = View { heads: self.heads.iter().enumerate().map(of_head).collect(), tokens: 0, scratch: &scratch };
        let plan: Plan = recipe.plan(&view, target).unwrap();
        (0..self.heads.len())
            .map(|g| {
                let count = self.candidates(g).len();
                let roots: Vec<u32> = match plan.roots(g) {
                    [] => (0..count as u32).collect(),
                    roots => roots.to_vec(),
                };
                chelsea_cuda::twins::cluster::members(self.first, self.heads[g].len(), &roots)
            })
            .collect()
    }

    fn of_device(&self, recipe: &Chelsea, target: usize) -> Vec<Vec<Vec<u32>>> {
        let backend = CudaBackend::new(common::device(Schedule::InOrder), 64 << 20).unwrap();
        let store = backend.import(self.heads.clone(), &Reservation::unbound());
        let store = store.as_any().downcast_ref::<CudaStore>().unwrap();
        let alone = |g: usize| {
            let len = self.heads[g].len();
            (self.first / PAGE * PAGE..len).map(|i| vec![i as u32]).collect::<Vec<_>>()
        };
        let mut all: Vec<Vec<Vec<u32>>> = (0..self.heads.len()).map(alone).collect();
        for (g, clusters) in store.clusters(&self.clustering(recipe, target)).unwrap() {
            all[g] = clusters;
        }
        all
    }

    fn value_scale(&self, g: usize) -> f32 {
        let mut value = vec![0.0; self.heads[g].value_dim()];
        let power = |i| {
            self.heads[g].read_value(i, &mut value);
            value.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
        };
        let range = self.candidates(g);
        let count = range.len() as f64;
        (range.map(power).sum::<f64>() / count) as f32
    }

    /// What all merges of some clusters cost: squared distances of tokens to their centroids, in f64, of rows that nothing was
    /// rounded in.
    fn cost(&self, clusters: &[Vec<Vec<u32>>]) -> f64 {
        let of_head = |(g, clusters): (usize, &Vec<Vec<u32>>)| {
            let (head, scale) = (&self.heads[g], f64::from(self.value_scale(g)));
            let row = |i: u32| {
                let (mut key, mut value) = (vec![0.0; head.key_dim()], vec![0.0; head.value_dim()]);
                head.read_key(i as usize, &mut key);
                head.read_value(i as usize, &mut value);
                self.rotary.turn_back(&mut key, head.position(i as usize));
                let keys = key.iter().zip(&self.power[g]).map(|(x, w)| f64::from(*x) * f64::from(*w).sqrt());
                keys.chain(value.iter().map(|&x| f64::from(x) / scale.sqrt())).collect::<Vec<f64>>()
            };
            let of_cluster = |members: &Vec<u32>| {
                let rows: Vec<(f64, Vec<f64>)> =
                    members.iter().map(|&i| (f64::from(head.count(i as usize)), row(i))).collect();
                let total: f64 = rows.iter().map(|(count, _)| count).sum();
                let mean = |d: usize| rows.iter().map(|(count, row)| count * row[d]).sum::<f64>() / total;
                let mean: Vec<f64> = (0..rows[0].1.len()).map(mean).collect();
                let distance = |row: &[f64]| row.iter().zip(&mean).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
                rows.iter().map(|(count, row)| count * distance(row)).sum::<f64>()
            };
            clusters.iter().filter(|members| members.len() > 1).map(of_cluster).sum::<f64>()
        };
        clusters.iter().enumerate().map(of_head).sum()
    }
}

/// Shapes, and how much is kept of them.
fn cases() -> Vec<(Pooled, f64)> {
    vec![
        (pooled(64, Dtype::F16, &[700, 300, 520, 140], 1), 0.25),
        (pooled(64, Dtype::Q8, &[400, 400], 2), 0.5),
        (pooled(128, Dtype::Q8, &[330, 600], 3), 0.2),
        (pooled(128, Dtype::K8V4, &[450, 100, 40], 4), 0.3),
    ]
}

#[test]
fn a_devices_plan_costs_what_the_cpus_does() {
    let recipe = Chelsea::default();
    for (pooled, keep) in cases() {
        let target = (pooled.all_candidates() as f64 * keep) as usize;
        let [cpu, device] = [pooled.of_cpu(&recipe, target), pooled.of_device(&recipe, target)];
        let beside: usize = (0..pooled.heads.len()).map(|g| pooled.heads[g].len() - pooled.candidates(g).len()).sum();
        let what = format!("{} heads of {}", pooled.heads.len(), pooled.heads[0].key_dim());
        for (g, clusters) in device.iter().enumerate() {
            let mut members: Vec<u32> = clusters.concat();
            members.sort_unstable();
            let all: Vec<u32> = (0..pooled.heads[g].len() as u32).collect();
            assert_eq!(members, all, "{what}: every entry of head {g} is in one cluster");
            let edge = |i: &u32| !pooled.candidates(g).contains(&(*i as usize));
            assert!(clusters.iter().all(|members| members.len() == 1 || !members.iter().any(edge)), "{what}");
        }
        let left = |clusters: &[Vec<Vec<u32>>]| clusters.iter().map(Vec::len).sum::<usize>();
        assert_eq!((left(&device), left(&cpu)), (target + beside, target + beside), "{what}");
        let (of_cpu, of_device) = (pooled.cost(&cpu), pooled.cost(&device));
        let same: usize = cpu.iter().zip(&device).map(|(x, y)| x.iter().filter(|c| y.contains(c)).count()).sum();
        println!("{what}: {of_cpu} on the CPU, {of_device} on the device, {same} of {} clusters alike", left(&cpu));
        assert!((of_device / of_cpu - 1.0).abs() <= 1e-3, "{what}: {of_cpu} on the CPU, {of_device} on the device");
    }
}
