//! The cheapest of many, without sorting them.

/// Bits whose order as integers is the order of costs; a cost that is not a number comes last.
fn key(cost: f32) -> u32 {
    if cost.is_nan() {
        return u32::MAX;
    }
    // -0 and 0 are one cost.
    let bits = (cost + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// A threshold that lets exactly the `r` cheapest of some costs pass. Equal ones pass in the order in which they are
/// offered to [`Cut::takes`].
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    key: u32,
    ties: usize,
}

impl Cut {
    /// The threshold for the `r` cheapest of `costs`; all pass when there are no more than `r`.
    pub fn cheapest(costs: impl Iterator<Item = f32>, r: usize) -> Cut {
        let mut keys: Vec<u32> = costs.map(key).collect();
        if r == 0 {
            return Cut { key: 0, ties: 0 };
        }
        if r >= keys.len() {
            return Cut { key: u32::MAX, ties: usize::MAX };
        }
        let (below, &mut threshold, _) = keys.select_nth_unstable(r - 1);
        let ties = r - below.iter().filter(|&&k| k < threshold).count();
        Cut { key: threshold, ties }
    }

    /// Whether this cost is among the cheapest. Every one must be offered once, in order.
    pub fn takes(&mut self, cost: f32) -> bool {
        let key = key(cost);
        if key == self.key && self.ties > 0 {
            self.ties -= 1;
            return true;
        }
        key < self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(costs: &[f32], r: usize) -> Vec<u32> {
        let mut cut = Cut::cheapest(costs.iter().copied(), r);
        (0..costs.len() as u32).filter(|&i| cut.takes(costs[i as usize])).collect()
    }

    #[test]
    fn equal_costs_pass_in_order() {
        assert_eq!(taken(&[1.0, 0.5, 1.0, 1.0, 0.2], 3), [0, 1, 4]);
        assert_eq!(taken(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(taken(&[1.0, f32::NAN, -1.0], 2), [0, 2]);
        assert_eq!(taken(&[1.0, 2.0], 0), [] as [u32; 0]);
        assert_eq!(taken(&[f32::NAN, 2.0], 5), [0, 1]);
    }

    proptest! {
        #[test]
        fn the_cut_agrees_with_a_full_sort(costs in prop::collection::vec(-4i8..4, 0..60), r in 0usize..70) {
            let costs: Vec<f32> = costs.into_iter().map(|c| f32::from(c) * 0.25).collect();
            let mut order: Vec<u32> = (0..costs.len() as u32).collect();
            order.sort_by(|&x, &y| costs[x as usize].total_cmp(&(costs[y as usize])).then(x.cmp(&y)));
            order.truncate(r);
            order.sort_unstable();
            prop_assert_eq!(taken(&costs, r), order);
        }
    }
}
