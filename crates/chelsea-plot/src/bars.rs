//! Bar charts: one value for each group and series, side by side or stacked.

use crate::axis::{Axis, Scale};
use crate::canvas::{self, Canvas};
use crate::svg::{Across, Along, Face};
use crate::{PlotError, theme};

/// How the bars of a group stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Side by side.
    #[default]
    Grouped,
    /// On top of each other: parts of a whole.
    Stacked,
}

/// Values of one kind, one for each group.
#[derive(Debug, Clone, PartialEq)]
pub struct BarSeries {
    /// What the legend says.
    pub name: String,
    /// One value for each group; `None` where nothing was measured.
    pub values: Vec<Option<f64>>,
}

/// Groups of bars.
#[derive(Debug, Clone)]
pub struct BarChart {
    /// What the chart shows.
    pub title: String,
    /// A smaller line beneath it.
    pub note: String,
    /// The upright axis; bars begin at zero, so its scale is always linear.
    pub y: Axis,
    /// The groups' names, from left to right.
    pub groups: Vec<String>,
    /// The bars of each group.
    pub series: Vec<BarSeries>,
    /// Side by side or stacked.
    pub layout: Layout,
}

const HEIGHT: i32 = 500;

impl BarChart {
    /// The chart as an SVG document.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw, a series does not have one value for each group, or a value is not a number of zero
    /// or more.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        for s in &self.series {
            if s.values.len() != self.groups.len() {
                return Err(PlotError::Length {
                    name: s.name.clone(),
                    found: s.values.len(),
                    expected: self.groups.len(),
                });
            }
            if let Some(value) = s.values.iter().flatten().copied().find(|v| !v.is_finite() || *v < 0.0) {
                return Err(PlotError::NotFinite { name: s.name.clone(), value });
            }
        }
        if !self.series.iter().any(|s| s.values.iter().any(Option::is_some)) {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        let stacked = self.layout == Layout::Stacked;
        let tops: Vec<f64> = (0..self.groups.len())
            .map(|g| {
                let values = self.series.iter().filter_map(|s| s.values[g]);
                if stacked { values.sum() } else { values.fold(0.0, f64::max) }
            })
            .collect();
        let axis = Axis { scale: Scale::Linear, ..self.y.clone() };
        let y = axis.laid_out(tops.iter().copied().chain([0.0]), false)?;
        let slot = f64::from(canvas::CHART - 130) / self.groups.len() as f64;
        let names: Vec<Vec<String>> =
            self.groups.iter().map(|g| canvas::wrapped(g, ((slot / 7.6) as usize).max(6))).collect();
        let rows = names.iter().map(Vec::len).max().unwrap_or(1) as i32;
        Ok(canvas::draw(canvas::CHART, HEIGHT, |c| {
            let legend: Vec<&str> = self.series.iter().map(|s| &*s.name).collect();
            let top = c.heading(&self.title, &self.note, &legend);
            let labels = y.ticks.iter().map(|&t| canvas::text_width(&y.text(t), canvas::TICK)).max().unwrap_or(0);
            let area = Canvas::area(top, HEIGHT, labels, 22 + 16 * rows);
            c.upright_axis(area, &y, &self.y.label);
            let slot = f64::from(area.right - area.left) / self.groups.len() as f64;
            let bars = if stacked { 1 } else { self.series.len() };
            let width = (0.78 * slot / bars as f64).min(96.0);
            for (g, name) in names.iter().enumerate() {
                let middle = f64::from(area.left) + (g as f64 + 0.5) * slot;
                let mut base = 0.0;
                for (i, s) in self.series.iter().enumerate() {
                    let Some(value) = s.values[g] else { continue };
                    let offset = if stacked { 0.0 } else { i as f64 - (bars as f64 - 1.0) / 2.0 };
                    let (left, right) = (middle + (offset - 0.46) * width, middle + (offset + 0.46) * width);
                    let (low, high) = (area.y(y.place(base)), area.y(y.place(base + value)));
                    let colour = theme::series(i);
                    c.rect((left.round() as i32, high), (right.round() as i32, low), colour);
                    let text = self.y.unit.text(value);
                    let fits = f64::from(canvas::text_width(&text, 12.0)) < width * if stacked { 0.92 } else { 1.15 };
                    if stacked {
                        if fits && low - high >= 16 {
                            let face = Face::new(12.0, theme::ink_on(colour), Across::Center, Along::Center);
                            c.text((middle.round() as i32, (low + high) / 2), &text, face);
                        }
                        base += value;
                    } else if fits {
                        let face = Face::new(12.0, theme::INK, Across::Center, Along::Bottom);
                        c.text((((left + right) / 2.0).round() as i32, high - 2), &text, face);
                    }
                }
                if stacked && self.series.len() > 1 {
                    let face = Face::new(12.0, theme::INK, Across::Center, Along::Bottom);
                    let at = (middle.round() as i32, area.y(y.place(base)) - 2);
                    c.text(at, &self.y.unit.text(base), Face { bold: true, ..face });
                }
                for (row, line) in name.iter().enumerate() {
                    let face = Face::new(canvas::TICK, theme::INK, Across::Center, Along::Top);
                    c.text((middle.round() as i32, area.bottom + 9 + 16 * row as i32), line, face);
                }
            }
            c.frame(area);
        }))
    }
}
