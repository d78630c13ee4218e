//! The forward pass by definition, in f64: one token after another, every product a double loop.

use super::tiny::{Tiny, TinyRope};

impl Tiny {
    /// Rotary frequencies, and the factor on cosine and sine, as the papers give them.
    pub fn frequencies(&self) -> (Vec<f64>, f64) {
        let dims = self.head_dim as f64;
        let plain: Vec<f64> = (0..self.head_dim / 2).map(|i| self.base.powf(-2.0 * i as f64 / dims)).collect();
        let tau = 2.0 * std::f64::consts::PI;
        match self.rope {
            TinyRope::Plain => (plain, 1.0),
            TinyRope::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
            TinyRope::Llama3 { factor, low, high, original } => {
                let scaled = plain.iter().map(|&f| {
                    let wavelength = tau / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                });
                (scaled.collect(), 1.0)
            }
            TinyRope::Yarn { factor, original } => {
                // Pairs with more than 32 turns over the original context stay, with less than 1 are divided.
                let pair_of = |turns: f64| dims * (original / (turns * tau)).ln() / (2.0 * self.base.ln());
                let low = pair_of(32.0).floor().max(0.0);
                let high = pair_of(1.0).ceil().min(dims - 1.0);
                let scaled = plain.iter().enumerate().map(|(i, &f)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                });
                (scaled.collect(), 0.1 * factor.ln() + 1.0)
            }
        }
    }

    /// Logits of every position.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let (frequencies, scale) = self.frequencies();
        let (d, group) = (self.head_dim, self.q_heads / self.kv_heads);
        // Keys and values of all earlier tokens, by layer.
        let mut past: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![Vec::new(); self.layers];
        let turn = |head: &mut [f64], position: usize| {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (x, y) = (head[i], head[i + d / 2]);
                head[i] = (x * cos - y * sin) * scale;
                head[i + d / 2] = (y * cos + x * sin) * scale;
            }
        };
        let mut all = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let embedding = self.weight("token_embd.weight");
            let mut x: Vec<f64> =
                embedding[token as usize * self.hidden..][..self.hidden].iter().map(|&x| x.into()).collect();
            for (layer, past) in past.iter_mut().enumerate() {
                let name = |part: &str| format!("blk.{layer}.{part}");
                let normed = self.norm(&x, &name("attn_norm.weight"));
                let mut q = self.product(&normed, &name("attn_q"));
                let mut k = self.product(&normed, &name("attn_k"));
                let v = self.product(&normed, &name("attn_v"));
                for (heads, norm) in [(&mut q, "attn_q_norm.weight"), (&mut k, "attn_k_norm.weight")] {
                    for head in heads.chunks_mut(d) {
                        if self.qk_norm {
                            head.copy_from_slice(&self.norm(head, &name(norm)));
                        }
                        turn(head, position);
                    }
                }
                past.push((k, v));
                // A token sees itself and the window - 1 before it.
                let seen = &past[past.len().saturating_sub(self.window.unwrap_or(usize::MAX))..];
                let mut attended = vec![0.0; self.q_heads * d];
                for (h, out) in attended.chunks_mut(d).enumerate() {
                    let (query, kv) = (&q[h * d..][..d], h / group * d);
                    let scores: Vec<f64> =
                        seen.iter().map(|(k, _)| (dot(query, &k[kv..][..d]) / (d as f64).sqrt()).exp()).collect();
                    let total: f64 = scores.iter().sum();
                    for ((_, v), score) in seen.iter().zip(&scores) {
                        out.iter_mut().zip(&v[kv..][..d]).for_each(|(out, v)| *out += score / total * v);
                    }
                }
                add(&mut x, &self.product(&attended, &name("attn_output")));
                let normed = self.norm(&x, &name("ffn_norm.weight"));
                let gate = self.product(&normed, &name("ffn_gate"));
                let up = self.product(&normed, &name("ffn_up"));
                let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(&mut x, &self.product(&inner, &name("ffn_down")));
            }
            let normed = self.norm(&x, "output_norm.weight");
            all.push(self.product(&normed, if self.tied { "token_embd" } else { "output" }));
        }
        all
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let scale = (dot(x, x) / x.len() as f64 + self.eps).sqrt();
        x.iter().zip(self.weight(name)).map(|(x, &w)| x / scale * f64::from(w)).collect()
    }

    fn product(&self, x: &[f64], name: &str) -> Vec<f64> {
        let rows = self.weight(&format!("{name}.weight")).chunks(x.len());
        let bias = self.weights.get(&format!("{name}.bias"));
        rows.enumerate()
            .map(|(i, row)| {
                let sum: f64 = row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
                sum + bias.map_or(0.0, |bias| bias.1[i].into())
            })
            .collect()
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
