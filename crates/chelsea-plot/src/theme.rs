//! Colours and sizes shared by all charts.

use crate::svg::{self, Colour};

/// How many series have a colour of their own.
pub(crate) const COLOURS: usize = SERIES.len();

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
/// A series that stands behind the others.
pub(crate) const GREY: Colour = Colour(172, 179, 186);
/// Its name.
pub(crate) const GREY_NAME: Colour = Colour(108, 117, 125);

/// Text on a filled shape. These differ from [`INK`] and [`PAPER`] by a hair, because they stay as they are on a dark
/// sheet, as the shapes below them do.
const ON_PALE: Colour = Colour(32, 36, 40);
const ON_DARK: Colour = Colour(254, 254, 254);

/// What colours become where the reader prefers dark pages; those of heat maps stay.
const DARK: [(Colour, Colour); 15] = [
    (INK, Colour(230, 233, 236)),
    (FAINT, Colour(160, 168, 176)),
    (GRID, Colour(46, 52, 60)),
    (FRAME, Colour(110, 118, 126)),
    (PAPER, Colour(20, 23, 28)),
    (MISSING, Colour(40, 45, 52)),
    (GREY, Colour(88, 96, 105)),
    (GREY_NAME, Colour(150, 158, 166)),
    (SERIES[0], Colour(61, 143, 209)),
    (SERIES[1], Colour(240, 128, 60)),
    (SERIES[2], Colour(46, 184, 150)),
    (SERIES[3], Colour(222, 155, 192)),
    (SERIES[4], Colour(154, 212, 245)),
    (SERIES[5], Colour(242, 182, 50)),
    (SERIES[6], Colour(138, 138, 138)),
];

/// The rules by which a drawing follows a reader who prefers dark pages. An attribute gives way to a rule, so that shapes
/// keep their colours as attributes, for programs that read no style sheets.
pub(crate) fn dark_style() -> String {
    let rule = |&(light, dark): &(Colour, Colour)| {
        let (light, dark) = (svg::hex(light), svg::hex(dark));
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
    };
    format!("@media (prefers-color-scheme: dark){{{}}}", DARK.iter().map(rule).collect::<String>())
}

/// The colour of series `i`.
pub(crate) fn series(i: usize) -> Colour {
    SERIES[i % SERIES.len()]
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
    if luminance(background) > 0.2 { ON_PALE } else { ON_DARK }
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
    fn lines_and_names_are_told_from_the_sheet_in_the_light_and_in_the_dark() {
        let contrast = |a: Colour, b: Colour| {
            let (a, b) = (luminance(a).max(luminance(b)), luminance(a).min(luminance(b)));
            (a + 0.05) / (b + 0.05)
        };
        let dark = |c: Colour| DARK.iter().find(|(light, _)| *light == c).expect("has a dark twin").1;
        for text in [INK, FAINT, GREY_NAME] {
            assert!(contrast(text, PAPER) > 4.5 && contrast(dark(text), dark(PAPER)) > 4.5, "{text:?}");
        }
        for line in SERIES.into_iter().chain([GREY]) {
            assert!(contrast(line, PAPER) > 1.8 && contrast(dark(line), dark(PAPER)) > 1.8, "{line:?}");
        }
        assert!(dark_style().contains("[fill=\"#FFFFFF\"]{fill:#14171C}"));
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
