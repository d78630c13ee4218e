//! Line charts: values against values, with bands of uncertainty.
//!
//! A line is named where it ends, so that no reader has to match colours with a legend. What a reader should look at has a
//! colour; the rest may stand behind it in grey.

use crate::PlotError;
use crate::axis::{Axis, Span};
use crate::canvas::{self, Area, Canvas, Marker};
use crate::labels::{self, Label};
use crate::svg::Colour;
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

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// In the colour of this number, with a marker of its own; numbers repeat after a few.
    Colour(usize),
    /// In the ink of the text, dashed: what everything else is held against.
    Ink,
    /// Thin and grey, behind the others.
    Grey,
}

impl Look {
    fn line(self) -> Colour {
        match self {
            Self::Colour(i) => theme::series(i),
            Self::Ink => theme::INK,
            Self::Grey => theme::GREY,
        }
    }

    fn marker(self) -> Marker {
        match self {
            Self::Colour(i) => Marker::of(i),
            Self::Ink => Marker::Circle,
            Self::Grey => Marker::Dot,
        }
    }

    /// Whether the line is dashed: colours repeat from here on.
    fn dashed(self) -> bool {
        match self {
            Self::Colour(i) => (i / theme::COLOURS) % 2 == 1,
            Self::Ink => true,
            Self::Grey => false,
        }
    }
}

/// Points of one kind, joined by a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What stands at the end of the line.
    pub name: String,
    /// In any order; they are joined from left to right.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub look: Look,
}

/// A value that does not depend on the level axis: a dashed line across the chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// What stands at its end.
    pub name: String,
    /// The value.
    pub y: f64,
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
    /// Values to hold them against.
    pub levels: Vec<Level>,
}

const HEIGHT: i32 = 460;

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
        for level in &self.levels {
            self.y.check(&level.name, level.y)?;
        }
        let x = self.x.laid_out(points().map(|p| p.x), self.x.scale == crate::Scale::Linear)?;
        let levels = self.levels.iter().map(|level| level.y);
        let y = self.y.laid_out(points().flat_map(heights).chain(levels), false)?;
        Ok(canvas::draw(canvas::CHART, HEIGHT, |c| {
            let top = c.heading(&self.title, &self.note, &[]);
            let ticks = y.ticks.iter().map(|&t| canvas::text_width(&y.text(t), canvas::TICK)).max().unwrap_or(0);
            let names = self.series.iter().map(|s| &*s.name).chain(self.levels.iter().map(|l| &*l.name));
            let mut area = Canvas::area(top, HEIGHT, ticks, 62);
            area.right -= labels::width(names);
            c.level_axis(area, &x, &self.x.label);
            c.upright_axis(area, &y, &self.y.label);
            self.draw(c, area, &x, &y);
        }))
    }

    fn draw(&self, c: &mut Canvas, area: Area, x: &Span, y: &Span) {
        let at = |vx: f64, vy: f64| (area.x(x.place(vx)), area.y(y.place(vy)));
        let mut sorted: Vec<(&Series, Vec<Point>)> = self
            .series
            .iter()
            .map(|s| {
                let mut points = s.points.clone();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                (s, points)
            })
            .collect();
        // What matters most is drawn last: grey lines, then colours from the last to the first.
        sorted.sort_by_key(|(s, _)| match s.look {
            Look::Grey => (0, 0),
            Look::Ink => (1, 0),
            Look::Colour(i) => (2, usize::MAX - i),
        });
        // Bands first, so that no band covers another series' line.
        for (s, points) in &sorted {
            let banded: Vec<_> = points.iter().filter_map(|p| p.band.map(|b| (p.x, b))).collect();
            if let [(px, (low, high))] = banded[..] {
                c.line(&[at(px, low), at(px, high)], s.look.line(), 1);
            } else if !banded.is_empty() {
                let upper = banded.iter().map(|&(px, (_, high))| at(px, high));
                let lower = banded.iter().rev().map(|&(px, (low, _))| at(px, low));
                let outline: Vec<_> = upper.chain(lower).collect();
                c.polygon(&outline, s.look.line(), 0.16);
            }
        }
        c.frame(area);
        let mut names = Vec::new();
        for level in &self.levels {
            let end = (area.right, area.y(y.place(level.y)));
            c.dashed(&[(area.left, end.1), end], theme::INK, 2);
            names.push(Label { text: &level.name, end, line: theme::INK, ink: theme::INK, bold: true });
        }
        for (s, points) in &sorted {
            let path: Vec<_> = points.iter().map(|p| at(p.x, p.y)).collect();
            let Some(&end) = path.last() else { continue };
            let (line, quiet) = (s.look.line(), s.look == Look::Grey);
            match (s.look.dashed(), quiet) {
                (true, _) => c.dashed(&path, line, 2),
                (false, true) => c.line(&path, line, 1),
                (false, false) => c.line(&path, line, 3),
            }
            for &place in &path {
                c.marker(place, s.look.marker(), line);
            }
            // A pale colour reads badly as text, so names are in ink; their leader lines have the colour.
            let ink = if quiet { theme::GREY_NAME } else { theme::INK };
            names.push(Label { text: &s.name, end, line, ink, bold: !quiet });
        }
        labels::draw(c, area, names);
    }
}

fn heights(p: &Point) -> impl Iterator<Item = f64> + use<> {
    let (low, high) = p.band.unwrap_or((p.y, p.y));
    [p.y, low, high].into_iter()
}
