//! Line charts: values against values, with bands of uncertainty.

use crate::PlotError;
use crate::axis::Axis;
use crate::canvas::{self, Canvas, Marker};
use crate::theme;

/// One measured point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Along the level axis.
    pub x: f64,
    /// Along the upright axis.
    pub y: f64,
    /// From where to where `y` may lie.
    pub band: Option<(f64, f64)>,
}

impl Point {
    /// A point without a band.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, band: None }
    }

    /// A point known to lie between `low` and `high`.
    pub fn between(x: f64, y: f64, low: f64, high: f64) -> Self {
        Self { x, y, band: Some((low, high)) }
    }
}

/// Points of one kind, joined by a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// In any order; they are joined from left to right.
    pub points: Vec<Point>,
}

/// Values against values.
#[derive(Debug, Clone)]
pub struct LineChart {
    /// What the chart shows.
    pub title: String,
    /// A smaller line beneath it: the model, the machine, how often it was measured.
    pub note: String,
    /// The level axis.
    pub x: Axis,
    /// The upright axis.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
}

const HEIGHT: i32 = 500;

impl LineChart {
    /// The chart as an SVG document.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw, or a value cannot be shown on its axis.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        if points().next().is_none() {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        for s in &self.series {
            for p in &s.points {
                self.x.check(&s.name, p.x)?;
                for v in heights(p) {
                    self.y.check(&s.name, v)?;
                }
            }
        }
        let x = self.x.laid_out(points().map(|p| p.x), self.x.scale == crate::Scale::Linear)?;
        let y = self.y.laid_out(points().flat_map(heights), false)?;
        Ok(canvas::draw(HEIGHT, |c| {
            let legend: Vec<_> = self.series.iter().enumerate().map(|(i, s)| (&*s.name, Marker::of(i))).collect();
            let top = c.heading(&self.title, &self.note, &legend);
            let labels = y.ticks.iter().map(|&t| canvas::text_width(&y.text(t), 12.5)).max().unwrap_or(0);
            let area = Canvas::area(top, HEIGHT, labels, 62);
            c.level_axis(area, &x, &self.x.label);
            c.upright_axis(area, &y, &self.y.label);
            let at = |vx: f64, vy: f64| (area.x(x.place(vx)), area.y(y.place(vy)));
            let sorted: Vec<Vec<Point>> = self
                .series
                .iter()
                .map(|s| {
                    let mut points = s.points.clone();
                    points.sort_by(|a, b| a.x.total_cmp(&b.x));
                    points
                })
                .collect();
            // Bands first, so that no band covers another series' line.
            for (i, points) in sorted.iter().enumerate() {
                let banded: Vec<_> = points.iter().filter_map(|p| p.band.map(|b| (p.x, b))).collect();
                if banded.len() == 1 {
                    let (px, (low, high)) = banded[0];
                    c.line(&[at(px, low), at(px, high)], theme::series(i), 1);
                } else if !banded.is_empty() {
                    let upper = banded.iter().map(|&(px, (_, high))| at(px, high));
                    let lower = banded.iter().rev().map(|&(px, (low, _))| at(px, low));
                    let outline: Vec<_> = upper.chain(lower).collect();
                    c.polygon(&outline, theme::series(i), 0.16);
                }
            }
            c.frame(area);
            for (i, points) in sorted.iter().enumerate() {
                let path: Vec<_> = points.iter().map(|p| at(p.x, p.y)).collect();
                c.curve(&path, i);
                for &place in &path {
                    c.marker(place, Marker::of(i), theme::series(i));
                }
            }
        }))
    }
}

fn heights(p: &Point) -> impl Iterator<Item = f64> + use<> {
    let (low, high) = p.band.unwrap_or((p.y, p.y));
    [p.y, low, high].into_iter()
}
