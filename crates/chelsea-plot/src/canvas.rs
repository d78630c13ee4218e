//! What all charts share: the sheet, title and legend, the frame with its ticks, and a few shapes.

use crate::axis::Span;
use crate::svg::{Across, Along, Colour, Face, Svg};
use crate::theme;

/// Width of a chart. Narrow, because pages show it as wide as they are: on a telephone half as large.
pub(crate) const CHART: i32 = 720;
const MARGIN: i32 = 22;

/// Size of names of series.
pub(crate) const NAME: f64 = 14.0;
/// Size of numbers beside axes.
pub(crate) const TICK: f64 = 13.5;
/// Size of names of axes.
const AXIS: f64 = 14.0;

/// A sheet to draw on.
pub(crate) struct Canvas {
    svg: Svg,
    width: i32,
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Area {
    pub fn x(&self, t: f64) -> i32 {
        self.left + (t * f64::from(self.right - self.left)).round() as i32
    }

    pub fn y(&self, t: f64) -> i32 {
        self.bottom - (t * f64::from(self.bottom - self.top)).round() as i32
    }
}

/// The shape of a series' marker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    /// A small circle, of a series that stands behind the others.
    Dot,
}

impl Marker {
    pub fn of(i: usize) -> Self {
        [Self::Circle, Self::Square, Self::Triangle, Self::Diamond][i % 4]
    }
}

/// Draws on a sheet of the given size and gives its SVG.
pub(crate) fn draw(width: i32, height: i32, paint: impl FnOnce(&mut Canvas)) -> String {
    let mut canvas = Canvas { svg: Svg::new(width, height), width };
    canvas.svg.style(&theme::dark_style());
    canvas.rect((0, 0), (width, height), theme::PAPER);
    paint(&mut canvas);
    canvas.svg.finish()
}

/// A guess at a text's width: the reader's fonts are unknown here.
pub(crate) fn text_width(text: &str, size: f64) -> i32 {
    (text.chars().count() as f64 * size * 0.56).ceil() as i32
}

impl Canvas {
    pub fn rect(&mut self, a: (i32, i32), b: (i32, i32), colour: Colour) {
        self.svg.rect(a, b, colour);
    }

    pub fn line(&mut self, points: &[(i32, i32)], colour: Colour, width: u32) {
        self.svg.line(points, colour, width);
    }

    pub fn dashed(&mut self, points: &[(i32, i32)], colour: Colour, width: u32) {
        self.svg.dashed(points, colour, width);
    }

    pub fn polygon(&mut self, points: &[(i32, i32)], colour: Colour, alpha: f64) {
        self.svg.polygon(points, colour, alpha);
    }

    pub fn circle(&mut self, at: (i32, i32), radius: u32, colour: Colour) {
        self.svg.circle(at, radius, colour);
    }

    pub fn text(&mut self, at: (i32, i32), text: &str, face: Face) {
        self.svg.text(at, text, face);
    }

    pub fn marker(&mut self, (x, y): (i32, i32), marker: Marker, colour: Colour) {
        match marker {
            Marker::Circle => self.svg.circle((x, y), 4, colour),
            Marker::Square => self.rect((x - 4, y - 4), (x + 4, y + 4), colour),
            Marker::Triangle => self.polygon(&[(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)], colour, 1.0),
            Marker::Diamond => self.polygon(&[(x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)], colour, 1.0),
            Marker::Dot => self.svg.circle((x, y), 2, colour),
        }
    }

    /// Title, note and the names of colours, in their order; gives the first free row below them.
    pub fn heading(&mut self, title: &str, note: &str, legend: &[&str]) -> i32 {
        let mut y = 18;
        let left = Face::new(18.0, theme::INK, Across::Left, Along::Top);
        for line in wrapped(title, (f64::from(self.width - 2 * MARGIN) / (18.0 * 0.56)) as usize) {
            self.text((MARGIN, y), &line, Face { bold: true, ..left });
            y += 24;
        }
        y += 2;
        for line in wrapped(note, (f64::from(self.width - 2 * MARGIN) / (13.0 * 0.53)) as usize) {
            self.text((MARGIN, y), &line, Face { size: 13.0, colour: theme::FAINT, ..left });
            y += 18;
        }
        y += 8;
        let mut x = MARGIN;
        const KEY: i32 = 21;
        for (i, name) in legend.iter().enumerate() {
            let width = KEY + text_width(name, NAME) + 18;
            if x > MARGIN && x + width > self.width - MARGIN {
                x = MARGIN;
                y += 21;
            }
            self.rect((x, y + 2), (x + 14, y + 14), theme::series(i));
            self.text((x + KEY, y + 8), name, Face::new(NAME, theme::INK, Across::Left, Along::Center));
            x += width;
        }
        if legend.is_empty() { y } else { y + 26 }
    }

    /// Where the chart itself goes, given what stands left of it and below it.
    pub fn area(top: i32, height: i32, left_labels: i32, below: i32) -> Area {
        Area { left: MARGIN + 26 + left_labels, top: top + 6, right: CHART - MARGIN - 8, bottom: height - below }
    }

    /// Lines and numbers of the upright axis, and its name.
    pub fn upright_axis(&mut self, area: Area, span: &Span, label: &str) {
        for &tick in &span.ticks {
            let y = area.y(span.place(tick));
            self.line(&[(area.left, y), (area.right, y)], theme::GRID, 1);
            let face = Face::new(TICK, theme::INK, Across::Right, Along::Center);
            self.text((area.left - 8, y), &span.text(tick), face);
        }
        self.upright_name(area, label);
    }

    pub fn upright_name(&mut self, area: Area, label: &str) {
        let face = Face { turned: true, ..Face::new(AXIS, theme::INK, Across::Center, Along::Top) };
        self.text((MARGIN - 6, (area.top + area.bottom) / 2), label, face);
    }

    /// Lines and numbers of the level axis, and its name.
    pub fn level_axis(&mut self, area: Area, span: &Span, label: &str) {
        for &tick in &span.ticks {
            let x = area.x(span.place(tick));
            self.line(&[(x, area.top), (x, area.bottom)], theme::GRID, 1);
            self.line(&[(x, area.bottom), (x, area.bottom + 5)], theme::FRAME, 1);
            let face = Face::new(TICK, theme::INK, Across::Center, Along::Top);
            self.text((x, area.bottom + 9), &span.text(tick), face);
        }
        self.level_name(area, label);
    }

    pub fn level_name(&mut self, area: Area, label: &str) {
        let face = Face::new(AXIS, theme::INK, Across::Center, Along::Top);
        self.text(((area.left + area.right) / 2, area.bottom + 31), label, face);
    }

    pub fn frame(&mut self, area: Area) {
        self.line(&[(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)], theme::FRAME, 1);
    }
}

/// Lines of at most `width` characters, broken at spaces.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
