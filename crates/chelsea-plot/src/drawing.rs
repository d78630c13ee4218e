//! Drawings that explain something: shapes and words at places of their own, in the colours of the charts.

use crate::canvas;
use crate::svg::{Across, Along, Colour, Face};
use crate::{PlotError, theme};

/// A place in pixels from the top left of the sheet.
pub type Place = (i32, i32);

/// What a shape is drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// The colour of this series of a chart.
    Series(usize),
    /// The colour of text.
    Text,
    /// The colour of notes.
    Faint,
    /// The colour of what is beside the point: a line that was not chosen, a frame.
    Pale,
    /// The colour of the sheet.
    Paper,
}

impl Ink {
    fn colour(self) -> Colour {
        match self {
            Ink::Series(i) => theme::series(i),
            Ink::Text => theme::INK,
            Ink::Faint => theme::FAINT,
            Ink::Pale => theme::FRAME,
            Ink::Paper => theme::PAPER,
        }
    }
}

/// Which part of a text lies at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its left end.
    Left,
    /// Its middle.
    Middle,
    /// Its right end.
    Right,
}

#[derive(Debug, Clone)]
enum Shape {
    Line { points: Vec<Place>, ink: Ink, width: u32 },
    Dot { at: Place, radius: u32, ink: Ink },
    Bar { from: Place, to: Place, ink: Ink },
    Text { at: Place, text: String, size: f64, ink: Ink, side: Side },
}

/// A sheet of a chart's width with a title and a note, and shapes below them in the order in which they were added.
#[derive(Debug, Clone)]
pub struct Drawing {
    title: String,
    note: String,
    height: i32,
    shapes: Vec<Shape>,
}

impl Drawing {
    /// Pixels from the left edge of a sheet to its right one.
    pub const WIDTH: i32 = 860;

    /// A sheet of `height` pixels without shapes.
    pub fn new(title: impl Into<String>, note: impl Into<String>, height: i32) -> Self {
        Drawing { title: title.into(), note: note.into(), height, shapes: Vec::new() }
    }

    /// An open line through all points, `width` pixels wide.
    pub fn line(&mut self, points: &[Place], ink: Ink, width: u32) {
        self.shapes.push(Shape::Line { points: points.to_vec(), ink, width });
    }

    /// A filled circle.
    pub fn dot(&mut self, at: Place, radius: u32, ink: Ink) {
        self.shapes.push(Shape::Dot { at, radius, ink });
    }

    /// A filled box between its upper left and its lower right corner.
    pub fn bar(&mut self, from: Place, to: Place, ink: Ink) {
        self.shapes.push(Shape::Bar { from, to, ink });
    }

    /// One line of text, `size` pixels high, centred on the row of its place.
    pub fn text(&mut self, at: Place, text: impl Into<String>, size: f64, ink: Ink, side: Side) {
        self.shapes.push(Shape::Text { at, text: text.into(), size, ink, side });
    }

    /// The drawing as an SVG document.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        if self.shapes.is_empty() {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        Ok(canvas::draw(Self::WIDTH, self.height, |c| {
            c.heading(&self.title, &self.note, &[]);
            for shape in &self.shapes {
                match shape {
                    Shape::Line { points, ink, width } => c.line(points, ink.colour(), *width),
                    Shape::Dot { at, radius, ink } => c.circle(*at, *radius, ink.colour()),
                    Shape::Bar { from, to, ink } => c.rect(*from, *to, ink.colour()),
                    Shape::Text { at, text, size, ink, side } => {
                        let across = match side {
                            Side::Left => Across::Left,
                            Side::Middle => Across::Center,
                            Side::Right => Across::Right,
                        };
                        c.text(*at, text, Face::new(*size, ink.colour(), across, Along::Center));
                    }
                }
            }
        }))
    }
}
