//! What all charts share: the sheet, the title, the legend, the frame with its ticks, and a few shapes.

use crate::axis::Span;
use crate::svg::{Across, Along, Colour, Face, Svg};
use crate::theme;

pub(crate) const WIDTH: i32 = 860;
const MARGIN: i32 = 22;

/// A sheet to draw on.
pub(crate) struct Canvas {
    svg: Svg,
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
    /// A plain filled box: what the legend of bars shows.
    Swatch,
}

impl Marker {
    pub fn of(i: usize) -> Self {
        [Self::Circle, Self::Square, Self::Triangle, Self::Diamond][i % 4]
    }
}

/// Draws on a sheet of the given height and gives its SVG.
pub(crate) fn draw(height: i32, paint: impl FnOnce(&mut Canvas)) -> String {
    let mut canvas = Canvas { svg: Svg::new(WIDTH, height) };
    canvas.rect((0, 0), (WIDTH, height), theme::PAPER);
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

    /// The line of series `i`, dashed where its colour was used before.
    pub fn curve(&mut self, points: &[(i32, i32)], i: usize) {
        if !theme::dashed(i) {
            return self.line(points, theme::series(i), 2);
        }
        for (a, b) in dashes(points) {
            self.line(&[a, b], theme::series(i), 2);
        }
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
            Marker::Swatch => self.rect((x - 7, y - 6), (x + 7, y + 6), colour),
        }
    }

    /// Title, note and legend; gives the first free row below them.
    pub fn heading(&mut self, title: &str, note: &str, legend: &[(&str, Marker)]) -> i32 {
        let mut y = 18;
        let left = Face::new(18.0, theme::INK, Across::Left, Along::Top);
        self.text((MARGIN, y), title, Face { bold: true, ..left });
        y += 26;
        for line in wrapped(note, (f64::from(WIDTH - 2 * MARGIN) / (13.0 * 0.53)) as usize) {
            self.text((MARGIN, y), &line, Face { size: 13.0, colour: theme::FAINT, ..left });
            y += 18;
        }
        y += 8;
        let mut x = MARGIN;
        for (i, (name, marker)) in legend.iter().enumerate() {
            // A line with its marker is wider than a bar's swatch.
            let key = if matches!(marker, Marker::Swatch) { 21 } else { 33 };
            let width = key + text_width(name, 13.0) + 18;
            if x > MARGIN && x + width > WIDTH - MARGIN {
                x = MARGIN;
                y += 21;
            }
            let colour = theme::series(i);
            if matches!(marker, Marker::Swatch) {
                self.marker((x + 7, y + 8), *marker, colour);
            } else {
                self.curve(&[(x, y + 8), (x + 26, y + 8)], i);
                self.marker((x + 13, y + 8), *marker, colour);
            }
            self.text((x + key, y + 8), name, Face::new(13.0, theme::INK, Across::Left, Along::Center));
            x += width;
        }
        if legend.is_empty() { y } else { y + 26 }
    }

    /// Where the chart itself goes, given what stands left of it and below it.
    pub fn area(top: i32, height: i32, left_labels: i32, below: i32) -> Area {
        Area { left: MARGIN + 26 + left_labels, top: top + 6, right: WIDTH - MARGIN - 8, bottom: height - below }
    }

    /// Lines and numbers of the upright axis, and its name.
    pub fn upright_axis(&mut self, area: Area, span: &Span, label: &str) {
        for &tick in &span.ticks {
            let y = area.y(span.place(tick));
            self.line(&[(area.left, y), (area.right, y)], theme::GRID, 1);
            let face = Face::new(12.5, theme::INK, Across::Right, Along::Center);
            self.text((area.left - 8, y), &span.text(tick), face);
        }
        self.upright_name(area, label);
    }

    pub fn upright_name(&mut self, area: Area, label: &str) {
        let face = Face { turned: true, ..Face::new(13.0, theme::INK, Across::Center, Along::Top) };
        self.text((MARGIN - 6, (area.top + area.bottom) / 2), label, face);
    }

    /// Lines and numbers of the level axis, and its name.
    pub fn level_axis(&mut self, area: Area, span: &Span, label: &str) {
        for &tick in &span.ticks {
            let x = area.x(span.place(tick));
            self.line(&[(x, area.top), (x, area.bottom)], theme::GRID, 1);
            self.line(&[(x, area.bottom), (x, area.bottom + 5)], theme::FRAME, 1);
            let face = Face::new(12.5, theme::INK, Across::Center, Along::Top);
            self.text((x, area.bottom + 9), &span.text(tick), face);
        }
        self.level_name(area, label);
    }

    pub fn level_name(&mut self, area: Area, label: &str) {
        let face = Face::new(13.0, theme::INK, Across::Center, Along::Top);
        self.text(((area.left + area.right) / 2, area.bottom + 31), label, face);
    }

    pub fn frame(&mut self, area: Area) {
        self.line(&[(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)], theme::FRAME, 1);
    }
}

/// Dashes of 7 along a line, with gaps of 4 between them.
fn dashes(points: &[(i32, i32)]) -> Vec<((i32, i32), (i32, i32))> {
    const DASH: f64 = 7.0;
    const PERIOD: f64 = 11.0;
    let (mut out, mut walked) = (Vec::new(), 0.0f64);
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let (dx, dy) = (f64::from(b.0 - a.0), f64::from(b.1 - a.1));
        let length = dx.hypot(dy);
        let at = |d: f64| {
            let t = (d / length).clamp(0.0, 1.0);
            ((f64::from(a.0) + t * dx).round() as i32, (f64::from(a.1) + t * dy).round() as i32)
        };
        // Dashes go on around corners.
        let mut start = -(walked % PERIOD);
        while start < length {
            let (from, to) = (start.max(0.0), (start + DASH).min(length));
            if to > from {
                out.push((at(from), at(to)));
            }
            start += PERIOD;
        }
        walked += length;
    }
    out
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
