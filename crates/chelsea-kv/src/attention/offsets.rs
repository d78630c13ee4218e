//! What scores get back for the offset that keys are stored without ([`crate::offset`]): one number for each row of queries
//! and each anchor.
//!
//! Row `r` gets the product of its query and the offset turned to the anchor, which is a sum of waves, one for each rotary
//! pair: `c_i cos(a t_i) + s_i sin(a t_i)`, with the same cosines and sines for all rows. They are turned on from one vector
//! of anchors to the next.

#![allow(unsafe_code)]

use super::block::at_least;
use super::job::Job;
use super::simd::Simd;
use crate::offset::{Offset, anchor, middle};
use crate::page::Page;
use crate::rotary::sin_cos_of_turns;
use crate::{PAGE, TILE};

/// Room for what rows get back.
#[derive(Default)]
pub(super) struct Room {
    /// `[rows][stride]`.
    table: Vec<f32>,
    /// Of each row what dimensions that are not turned add up to, and of each rotary pair the factors of cosine and sine:
    /// `[rows][1 + 2 * pairs]`.
    factors: Vec<f32>,
    /// Of each rotary pair: cosines and sines of a vector of anchors.
    waves: Vec<[[f32; TILE]; 2]>,
    steps: Steps,
}

/// Of each rotary pair, cosines and sines from an anchor to those that follow, and to the one after all of these; kept from
/// block to block.
#[derive(Default)]
struct Steps {
    turns: Vec<f64>,
    lanes: Vec<[[f32; TILE]; 2]>,
    far: Vec<[f32; 2]>,
}

impl Steps {
    fn of(&mut self, turns: &[f64]) {
        if self.turns == turns {
            return;
        }
        let wave = |turns: f64| {
            let (sin, cos) = sin_cos_of_turns(turns);
            [cos, sin]
        };
        self.turns = turns.to_vec();
        self.far = turns.iter().map(|turns| wave(turns * TILE as f64)).collect();
        let lanes = |turns: &f64| {
            let waves: [[f32; 2]; TILE] = core::array::from_fn(|lane| wave(turns * lane as f64));
            [waves.map(|[cos, _]| cos), waves.map(|[_, sin]| sin)]
        };
        self.lanes = turns.iter().map(lanes).collect();
    }
}

/// Turns cosines and sines on by another pair's.
#[inline(always)]
fn turn([coss, sins]: &mut [[f32; TILE]; 2], [by_cos, by_sin]: [f32; 2]) {
    for (cos, sin) in coss.iter_mut().zip(sins) {
        (*cos, *sin) = (*cos * by_cos - *sin * by_sin, *sin * by_cos + *cos * by_sin);
    }
}

/// What the rows of a block get back at the anchors of its pages.
#[derive(Clone, Copy)]
pub(super) struct Offsets<'a> {
    /// `[rows][stride]`, with a vector of room behind each row's last anchor.
    table: &'a [f32],
    stride: usize,
    /// The anchor that rows begin with.
    first: usize,
    /// Anchors of a row.
    len: usize,
}

impl<'a> Offsets<'a> {
    /// Of a job whose head stores keys without `offset`; `scale` is the factor on queries.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    pub unsafe fn of<S: Simd>(job: &Job<'_>, offset: &Offset, scale: f32, room: &'a mut Room) -> Self {
        // SAFETY: the caller's promise.
        let (first, last) = unsafe { anchors::<S>(job) };
        let (rows, len) = (job.rows.len(), last - first + 1);
        let stride = len.next_multiple_of(TILE) + TILE;
        let pairs = offset.turns().len();
        let Room { table, factors, waves, steps } = room;
        let table = at_least(table, rows * stride);
        steps.of(offset.turns());
        let width = 1 + 2 * pairs;
        let factors = at_least(factors, rows * width);
        let (xs, rest) = offset.mean().split_at(pairs);
        let (ys, rest) = rest.split_at(pairs);
        for (r, of_row) in factors.chunks_exact_mut(width).enumerate() {
            let query = job.query(r);
            of_row[0] = scale * query[2 * pairs..].iter().zip(rest).map(|(q, x)| q * x).sum::<f32>();
            let q = query.iter().zip(&query[pairs..]);
            for ((of_pair, (qx, qy)), (x, y)) in of_row[1..].chunks_exact_mut(2).zip(q).zip(xs.iter().zip(ys)) {
                of_pair[0] = scale * (qx * x + qy * y);
                of_pair[1] = scale * (qy * x - qx * y);
            }
        }
        // The first vector of anchors.
        waves.clear();
        waves.extend(steps.lanes.iter().zip(offset.turns()).map(|(lanes, turns)| {
            let (sin, cos) = sin_cos_of_turns(turns * middle(first));
            let mut wave = *lanes;
            turn(&mut wave, [cos, sin]);
            wave
        }));
        for at in (0..len).step_by(TILE) {
            for (factors, out) in factors.chunks_exact(width).zip(table.chunks_exact_mut(stride)) {
                let out = &mut out[at..][..TILE];
                for part in (0..TILE).step_by(S::LANES) {
                    // SAFETY: waves hold TILE numbers, and so does the part of the row; the caller promises the
                    // instruction set.
                    unsafe {
                        let mut sum = S::splat(factors[0]);
                        for (wave, of_pair) in waves.iter().zip(factors[1..].chunks_exact(2)) {
                            sum = S::mul_add(S::load(wave[0].as_ptr().add(part)), S::splat(of_pair[0]), sum);
                            sum = S::mul_add(S::load(wave[1].as_ptr().add(part)), S::splat(of_pair[1]), sum);
                        }
                        S::store(out.as_mut_ptr().add(part), sum);
                    }
                }
            }
            for (wave, &far) in waves.iter_mut().zip(&steps.far) {
                turn(wave, far);
            }
        }
        Offsets { table, stride, first, len }
    }

    /// Where the entries of a page find what they get back.
    #[inline(always)]
    pub fn on<S: Simd>(self, page: &Page) -> OnPage<'a> {
        let mut on = OnPage { offsets: self, index: [0; PAGE], base: [0; PAGE / MIN_LANES], far: 0 };
        let (first, last) = (self.first as i32, (self.len - 1) as i32);
        // Slots past the last entry hold any position.
        for (index, position) in on.index.iter_mut().zip(page.positions()) {
            *index = (anchor(*position) as i32 - first).clamp(0, last) as u32;
        }
        for (v, vector) in on.index.chunks_exact_mut(S::LANES).enumerate() {
            let base = vector.iter().copied().fold(u32::MAX, u32::min);
            let most = vector.iter().copied().fold(0, u32::max);
            on.base[v] = base;
            on.far |= u32::from((most - base) as usize >= S::LANES) << v;
            vector.iter_mut().for_each(|index| *index -= base);
        }
        on
    }
}

/// Lanes of the smallest vector.
const MIN_LANES: usize = 4;

/// Which numbers the entries of a page get back.
pub(super) struct OnPage<'a> {
    offsets: Offsets<'a>,
    /// Anchors of the entries, counted from the base of their vector.
    index: [u32; PAGE],
    /// The first anchor of each vector of entries, counted from the table's first.
    base: [u32; PAGE / MIN_LANES],
    /// Vectors whose anchors are further apart than a vector is long, a bit each.
    far: u32,
}

impl OnPage<'_> {
    /// What row `r` gets back for the vector of entries that begins with entry `at`.
    ///
    /// # Safety
    /// `S`'s instruction set is available.
    #[inline(always)]
    pub unsafe fn row<S: Simd>(&self, r: usize, at: usize) -> S::V {
        let v = at / S::LANES;
        let index = &self.index[at..][..S::LANES];
        let table = &self.offsets.table[r * self.offsets.stride + self.base[v] as usize..];
        assert!(table.len() >= S::LANES);
        // SAFETY: a vector of numbers and as many indices, which are below it unless the vector is marked; the caller
        // promises the instruction set.
        unsafe {
            if self.far >> v & 1 == 0 {
                return S::pick(table.as_ptr(), index.as_ptr());
            }
            let mut some = [0.0f32; TILE];
            some.iter_mut().zip(index).for_each(|(x, &index)| *x = table[index as usize]);
            S::load(some.as_ptr())
        }
    }
}

/// Pages ahead whose positions are asked for.
const AHEAD: usize = 6;

/// The first and the last anchor of the entries that a job walks.
///
/// # Safety
/// `S`'s instruction set is available.
#[inline(always)]
unsafe fn anchors<S: Simd>(job: &Job<'_>) -> (usize, usize) {
    // Positions are no less than 0, so that their bits are ordered as they are.
    let (mut least, mut most) = (u32::MAX, 0);
    let mut take = |positions: &[f32]| {
        for position in positions {
            let bits = position.to_bits() & !(1 << 31);
            (least, most) = (least.min(bits), most.max(bits));
        }
    };
    for p in job.pages.clone() {
        // Every page is a place of its own, which nobody would foresee.
        if let Some(later) = job.head.pages().get(p + AHEAD) {
            for line in later.positions().chunks(TILE) {
                // SAFETY: any address may be asked for; the caller promises the instruction set.
                unsafe { S::prefetch(line.as_ptr().cast()) };
            }
        }
        match (job.head.len() - p * PAGE).min(PAGE) {
            PAGE => take(job.head.pages()[p].positions()),
            used => take(&job.head.pages()[p].positions()[..used]),
        }
    }
    if least > most { (0, 0) } else { (anchor(f32::from_bits(least)), anchor(f32::from_bits(most))) }
}
