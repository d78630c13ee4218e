//! Heat maps: one value for each pair of labels.

use crate::axis::{Axis, Span};
use crate::canvas::{self, Area, Canvas};
use crate::svg::{Across, Along, Face};
use crate::{PlotError, theme};

/// A value for each row and column.
#[derive(Debug, Clone)]
pub struct HeatMap {
    /// What the chart shows.
    pub title: String,
    /// A smaller line beneath it.
    pub note: String,
    /// What the columns are.
    pub x_label: String,
    /// What the rows are.
    pub y_label: String,
    /// Names of the columns, from left to right.
    pub columns: Vec<String>,
    /// Names of the rows, from top to bottom.
    pub rows: Vec<String>,
    /// One row of values a row; `None` where nothing was measured.
    pub values: Vec<Vec<Option<f64>>>,
    /// What the colours mean, and their ends; its scale may be logarithmic.
    pub colour: Axis,
}

const CELL: i32 = 46;
const BAR: i32 = 96;

impl HeatMap {
    /// The chart as an SVG document.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw, the values do not fit the labels, or a value cannot be shown.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        self.check()?;
        let span = self.colour.laid_out(self.values.iter().flatten().flatten().copied(), true)?;
        let rows = self.rows.len() as i32;
        let labels = self.rows.iter().map(|r| canvas::text_width(r, canvas::TICK)).max().unwrap_or(0).min(260);
        // Names that are wider than their columns are turned, and take room below the map.
        let longest = self.columns.iter().map(|c| canvas::text_width(c, canvas::TICK)).max().unwrap_or(0);
        let across = Canvas::area(0, 0, labels, 0);
        let turned = longest + 6 > (across.right - across.left - BAR) / self.columns.len().max(1) as i32;
        let more = if turned { longest - 10 } else { 0 };
        let height = more + 96 + 18 * i32::from(!self.note.is_empty()) + 56 + (CELL * rows).max(150);
        Ok(canvas::draw(canvas::CHART, height, |c| {
            let top = c.heading(&self.title, &self.note, &[]);
            let mut area = Canvas::area(top, height, labels, 62 + more);
            area.right -= BAR;
            c.upright_name(area, &self.y_label);
            let (nx, ny) = (self.columns.len() as f64, self.rows.len() as f64);
            for (r, (name, values)) in self.rows.iter().zip(&self.values).enumerate() {
                let (upper, lower) = (area.y(1.0 - r as f64 / ny), area.y(1.0 - (r + 1) as f64 / ny));
                let middle = (upper + lower) / 2;
                c.text(
                    (area.left - 8, middle),
                    name,
                    Face::new(canvas::TICK, theme::INK, Across::Right, Along::Center),
                );
                for (k, value) in values.iter().enumerate() {
                    let (left, right) = (area.x(k as f64 / nx), area.x((k + 1) as f64 / nx));
                    let fill = value.map_or(theme::MISSING, |v| theme::heat(span.place(v)));
                    c.rect((left + 1, upper + 1), (right - 1, lower - 1), fill);
                    let text = value.map_or("–".into(), |v| self.colour.unit.text(v));
                    if canvas::text_width(&text, 12.0) < right - left && lower - upper >= 16 {
                        // On a cell without a value the text follows the sheet, as the cell does.
                        let ink = if value.is_some() { theme::ink_on(fill) } else { theme::FAINT };
                        let face = Face::new(12.0, ink, Across::Center, Along::Center);
                        c.text(((left + right) / 2, middle), &text, face);
                    }
                }
            }
            let face = match turned {
                true => Face { turned, ..Face::new(canvas::TICK, theme::INK, Across::Right, Along::Center) },
                false => Face::new(canvas::TICK, theme::INK, Across::Center, Along::Top),
            };
            for (k, name) in self.columns.iter().enumerate() {
                c.text((area.x((k as f64 + 0.5) / nx), area.bottom + 8), name, face);
            }
            c.level_name(Area { bottom: area.bottom + more, ..area }, &self.x_label);
            colour_bar(c, area, &span, &self.colour);
        }))
    }

    fn check(&self) -> Result<(), PlotError> {
        let length = |name: &str, found, expected| {
            if found == expected { Ok(()) } else { Err(PlotError::Length { name: name.into(), found, expected }) }
        };
        length(&self.y_label, self.values.len(), self.rows.len())?;
        for (name, values) in self.rows.iter().zip(&self.values) {
            length(name, values.len(), self.columns.len())?;
            for value in values.iter().flatten() {
                self.colour.check(name, *value)?;
            }
        }
        if self.values.iter().flatten().all(Option::is_none) {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        Ok(())
    }
}

fn colour_bar(c: &mut Canvas, area: Area, span: &Span, axis: &Axis) {
    let bar = Area { left: area.right + 22, right: area.right + 38, ..area };
    const STEPS: i32 = 48;
    for i in 0..STEPS {
        let t = f64::from(i) / f64::from(STEPS);
        let upper = bar.y(t + 1.0 / f64::from(STEPS));
        c.rect((bar.left, upper), (bar.right, bar.y(t)), theme::heat(t + 0.5 / f64::from(STEPS)));
    }
    for &tick in &span.ticks {
        let y = bar.y(span.place(tick));
        let face = Face::new(12.0, theme::INK, Across::Left, Along::Center);
        c.line(&[(bar.right, y), (bar.right + 4, y)], theme::FRAME, 1);
        c.text((bar.right + 8, y), &span.text(tick), face);
    }
    let face = Face { turned: true, ..Face::new(canvas::TICK, theme::INK, Across::Center, Along::Bottom) };
    c.text((bar.right + 66, (bar.top + bar.bottom) / 2), &axis.label, face);
}
