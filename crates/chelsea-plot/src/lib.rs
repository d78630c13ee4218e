//! Charts of measurements as SVG text.
//!
//! In: plain values ([`LineChart`], [`BarChart`], [`HeatMap`]), or shapes at places of their own ([`Drawing`]). Out: one
//! SVG document as a string, without fonts, images or files. The crate knows nothing about models or caches.
//!
//! Rules that every chart keeps:
//! - a series is told apart by colour *and* by the shape of its marker or its place in a bar, and the colours (Okabe
//!   and Ito's) stay apart for colour-blind readers; heat maps run along cividis, whose lightness only rises;
//! - a drawing follows a reader who prefers dark pages (a style sheet of its own), and its text can be read on a telephone;
//! - numbers that cannot be drawn (infinite, not a number, not above zero on a logarithmic axis) are an error, never
//!   a hole that nobody notices; a value that is *missing* is said so with `None`;
//! - the drawing depends on nothing but the input: the same values give the same bytes.

mod axis;
mod bars;
mod canvas;
mod drawing;
mod heat;
mod labels;
mod lines;
mod svg;
mod theme;

pub use axis::{Axis, Scale, Unit};
pub use bars::{BarChart, BarSeries, Layout};
pub use drawing::{Drawing, Ink, Place, Side};
pub use heat::HeatMap;
pub use lines::{Level, LineChart, Look, Point, Series};

/// Why a chart could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// Nothing to draw.
    #[error("the chart \"{title}\" has no values to draw")]
    Empty {
        /// The chart's title.
        title: String,
    },
    /// A number that no axis can show.
    #[error("\"{name}\" holds the value {value}, which cannot be drawn")]
    NotFinite {
        /// The series or axis.
        name: String,
        /// The value.
        value: f64,
    },
    /// A logarithmic axis shows positive numbers only.
    #[error("\"{name}\" holds the value {value}, which a logarithmic axis cannot show: use a linear one")]
    NotPositive {
        /// The series or axis.
        name: String,
        /// The value.
        value: f64,
    },
    /// Rows or series that do not fit the labels.
    #[error("\"{name}\" has {found} values where {expected} are labelled")]
    Length {
        /// The series or row.
        name: String,
        /// Values given.
        found: usize,
        /// Values that the labels ask for.
        expected: usize,
    },
}
