//! Colours and sizes shared by all charts.

use crate::svg::Colour;

/// Okabe and Ito's colours, without the yellow (too pale for lines on white), the strongest contrasts first.
const SERIES: [Colour; 7] = [
    Colour(0, 114, 178),
    Colour(213, 94, 0),
    Colour(0, 158, 115),
    Colour(204, 121, 167),
    Colour(86, 180, 233),
    Colour(230, 159, 0),
    Colour(60, 60, 60),
];

/// Points of cividis at equal distances, from its low to its high end.
const CIVIDIS: [(u8, u8, u8); 9] = [
    (0, 34, 78),
    (26, 56, 111),
    (67, 78, 108),
    (95, 101, 110),
    (125, 124, 120),
    (155, 148, 118),
    (188, 175, 110),
    (222, 203, 93),
    (254, 232, 56),
];

pub(crate) const INK: Colour = Colour(33, 37, 41);
pub(crate) const FAINT: Colour = Colour(90, 98, 106);
pub(crate) const GRID: Colour = Colour(226, 230, 234);
pub(crate) const FRAME: Colour = Colour(134, 142, 150);
pub(crate) const PAPER: Colour = Colour(255, 255, 255);
/// A cell without a value.
pub(crate) const MISSING: Colour = Colour(240, 240, 240);

/// The colour of series `i`.
pub(crate) fn series(i: usize) -> Colour {
    SERIES[i % SERIES.len()]
}

/// Whether the line of series `i` is dashed: colours repeat from here on.
pub(crate) fn dashed(i: usize) -> bool {
    (i / SERIES.len()) % 2 == 1
}

/// The colour at `t` in `0..=1` of a heat map.
pub(crate) fn heat(t: f64) -> Colour {
    let at = t.clamp(0.0, 1.0) * (CIVIDIS.len() - 1) as f64;
    let low = (at.floor() as usize).min(CIVIDIS.len() - 2);
    let (a, b, f) = (CIVIDIS[low], CIVIDIS[low + 1], at - low as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * f).round() as u8;
    Colour(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// Relative luminance, 0 (black) to 1 (white).
pub(crate) fn luminance(c: Colour) -> f64 {
    let linear = |v: u8| (f64::from(v) / 255.0).powf(2.2);
    0.2126 * linear(c.0) + 0.7152 * linear(c.1) + 0.0722 * linear(c.2)
}

/// Black or white, whichever reads better on `background`.
pub(crate) fn ink_on(background: Colour) -> Colour {
    if luminance(background) > 0.2 { INK } else { PAPER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_only_gets_lighter() {
        let steps: Vec<f64> = (0..=100).map(|i| luminance(heat(f64::from(i) / 100.0))).collect();
        assert!(steps.windows(2).all(|w| w[1] >= w[0] - 1e-3), "{steps:?}");
        assert!(steps[0] < 0.03 && steps[100] > 0.7);
    }

    #[test]
    fn the_first_colours_differ_in_lightness_too() {
        for i in 0..3 {
            for j in 0..i {
                assert!((luminance(series(i)) - luminance(series(j))).abs() > 0.02, "{i} and {j}");
            }
        }
    }
}
