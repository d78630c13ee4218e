//! Names of lines, at the right of a chart and each as near to its line's end as the others let it.

use crate::canvas::{self, Area, Canvas};
use crate::svg::{Across, Along, Colour, Face};

/// Most pixels that names may take from the chart: longer ones are set smaller.
const MOST: i32 = 236;
/// Between the chart and the names, for the leader lines.
const GAP: i32 = 22;
/// From one name to the next, as a share of the size of their letters.
const LEADING: f64 = 1.12;

/// The name of a line.
pub(crate) struct Label<'a> {
    pub text: &'a str,
    /// Where the line ends.
    pub end: (i32, i32),
    /// The line's colour.
    pub line: Colour,
    /// The colour of the text.
    pub ink: Colour,
    pub bold: bool,
}

/// What names of these texts take from the right of a chart, in pixels.
pub(crate) fn width<'a>(texts: impl Iterator<Item = &'a str>) -> i32 {
    GAP + texts.map(|t| canvas::text_width(t, canvas::NAME)).max().unwrap_or(0).min(MOST)
}

/// Sets the names, from the highest line's end to the lowest one's.
pub(crate) fn draw(c: &mut Canvas, area: Area, mut labels: Vec<Label<'_>>) {
    labels.sort_by_key(|l| (l.end.1, l.end.0));
    let room = f64::from(area.bottom - area.top);
    // Where there are many, all are set smaller rather than one upon the other.
    let size = (room / labels.len().max(1) as f64 / LEADING).min(canvas::NAME);
    let wanted: Vec<f64> = labels.iter().map(|l| f64::from(l.end.1)).collect();
    let places = spread(&wanted, size * LEADING, f64::from(area.top), f64::from(area.bottom));
    for (label, place) in labels.iter().zip(places) {
        let y = place.round() as i32;
        c.line(&[label.end, (area.right + 4, y), (area.right + GAP - 6, y)], label.line, 1);
        let wide = canvas::text_width(label.text, size).max(1);
        let size = size.min(size * f64::from(MOST) / f64::from(wide));
        let face = Face::new((size * 10.0).round() / 10.0, label.ink, Across::Left, Along::Center);
        c.text((area.right + GAP - 2, y), label.text, Face { bold: label.bold, ..face });
    }
}

/// Places as near to the wanted ones, which rise, as a least distance and the two ends allow.
fn spread(wanted: &[f64], distance: f64, low: f64, high: f64) -> Vec<f64> {
    // Runs of places that touch: the first one's place and how many there are. A run lies where the mean of what its
    // members wanted comes out; runs that then touch become one.
    let mut runs: Vec<(f64, usize, f64)> = Vec::new();
    let settled = |sum: f64, n: usize| {
        let first = sum / n as f64 - distance * (n - 1) as f64 / 2.0;
        first.min(high - distance * (n - 1) as f64).max(low)
    };
    for &place in wanted {
        let mut run = (settled(place, 1), 1, place);
        while let Some(&(first, n, sum)) = runs.last() {
            if first + distance * n as f64 <= run.0 {
                break;
            }
            runs.pop();
            let (n, sum) = (n + run.1, sum + run.2);
            run = (settled(sum, n), n, sum);
        }
        runs.push(run);
    }
    runs.iter().flat_map(|&(first, n, _)| (0..n).map(move |i| first + distance * i as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_distance_their_order_and_the_sheet() {
        for wanted in [&[5.0, 6.0, 7.0, 50.0][..], &[0.0; 7], &[99.0, 99.0, 100.0], &[10.0, 40.0], &[]] {
            let places = spread(wanted, 12.0, 0.0, 100.0);
            assert_eq!(places.len(), wanted.len());
            assert!(places.windows(2).all(|w| w[1] - w[0] > 12.0 - 1e-9), "{wanted:?}: {places:?}");
            assert!(places.iter().all(|p| (-1e-9..=100.0 + 1e-9).contains(p)), "{wanted:?}: {places:?}");
        }
        assert_eq!(spread(&[10.0, 40.0], 12.0, 0.0, 100.0), [10.0, 40.0], "nobody moves without need");
    }
}
