//! How a total is shared among heads.

/// Shares `total` entries among heads that have `lens`, as evenly as their lengths allow.
pub fn even_shares(lens: &[usize], total: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|&g| (lens[g], std::cmp::Reverse(g)));
    let mut shares = vec![0; lens.len()];
    let mut left = total;
    for (i, &g) in order.iter().enumerate() {
        // Rounded down for the shortest heads, so that of equal heads the first get what is left over.
        shares[g] = lens[g].min(left / (order.len() - i));
        left -= shares[g];
    }
    shares
}

/// The least a head keeps when the average is `total / heads` and every head is promised `floor` of it; rounded up where
/// all together stay within the total.
pub fn head_floor(floor: f64, total: usize, heads: usize) -> usize {
    let least = (floor * total as f64 / heads as f64).ceil() as usize;
    least.min(total / heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_of_all_heads_together_are_within_the_total() {
        for (floor, total, heads) in [(1.0, 101, 2), (0.9, 3, 2), (0.05, 7, 90), (0.5, 1000, 3), (0.0, 10, 2)] {
            let least = head_floor(floor, total, heads);
            assert!(least * heads <= total && least as f64 + 1.0 > floor * total as f64 / heads as f64);
        }
        assert_eq!(head_floor(0.05, 100, 2), 3);
    }

    #[test]
    fn shares_are_even_where_lengths_allow() {
        assert_eq!(even_shares(&[10, 10, 10], 10), [4, 3, 3]);
        assert_eq!(even_shares(&[1, 10, 10], 11), [1, 5, 5]);
        assert_eq!(even_shares(&[0, 2], 10), [0, 2]);
    }
}
