//! Axes: where a value lies between 0 and 1, which values get a tick, and what is written beside it.

use crate::PlotError;

/// How values are spread along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal differences, equal distances.
    #[default]
    Linear,
    /// Equal ratios, equal distances.
    Log,
}

/// What the numbers on an axis are, which decides round values and how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// Plain numbers: 0.5, 20, 1.5k.
    #[default]
    Number,
    /// Tokens, in powers of two: 512, 8K, 128K (K is 1,024).
    Tokens,
    /// Bytes: 64 MiB, 1.5 GiB.
    Bytes,
    /// Shares of one, written as percentages.
    Percent,
}

/// One axis.
#[derive(Debug, Clone, Default)]
pub struct Axis {
    /// What is shown, with its unit.
    pub label: String,
    /// How values are spread.
    pub scale: Scale,
    /// What the numbers are.
    pub unit: Unit,
    /// The ends, where the values should not decide them.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// A linear axis whose ends follow the values.
    pub fn linear(label: impl Into<String>, unit: Unit) -> Self {
        Self { label: label.into(), scale: Scale::Linear, unit, range: None }
    }

    /// A logarithmic axis whose ends follow the values.
    pub fn log(label: impl Into<String>, unit: Unit) -> Self {
        Self { label: label.into(), scale: Scale::Log, unit, range: None }
    }

    /// The same axis from `low` to `high`.
    #[must_use]
    pub fn between(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    pub(crate) fn check(&self, name: &str, value: f64) -> Result<(), PlotError> {
        if !value.is_finite() {
            return Err(PlotError::NotFinite { name: name.into(), value });
        }
        if self.scale == Scale::Log && value <= 0.0 {
            return Err(PlotError::NotPositive { name: name.into(), value });
        }
        Ok(())
    }

    /// Ends and ticks for values that were checked before. A linear axis begins at zero unless the values lie far
    /// from it or `tight` asks for the values' own ends.
    pub(crate) fn laid_out(&self, values: impl Iterator<Item = f64>, tight: bool) -> Result<Span, PlotError> {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        if let Some((a, b)) = self.range {
            self.check(&self.label, a)?;
            self.check(&self.label, b)?;
            (low, high) = (a.min(b), a.max(b));
        }
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        let fixed = self.range.is_some() || tight;
        match self.scale {
            Scale::Linear => {
                if !fixed && low > 0.0 && low < 0.7 * high {
                    low = 0.0;
                }
                if high - low < 1e-12 * high.abs().max(1.0) {
                    let room = if high == 0.0 { 1.0 } else { 0.5 * high.abs() };
                    (low, high) = (low - room, high + room);
                }
                let step = linear_step(high - low, self.unit);
                if !fixed {
                    // Room above the highest value: a curve that touches the frame looks cut off.
                    let above = high + 0.04 * (high - low);
                    (low, high) = ((low / step).floor() * step, (above / step).ceil() * step);
                }
                let ticks = multiples(low, high, step);
                Ok(Span { low, high, scale: self.scale, unit: self.unit, ticks })
            }
            Scale::Log => {
                if high / low < 1.0 + 1e-9 {
                    (low, high) = (low / 2.0, high * 2.0);
                }
                if !fixed {
                    let room = (high / low).powf(0.06);
                    (low, high) = (low / room, high * room);
                }
                let mut ticks = log_ticks(low, high, self.unit);
                if ticks.len() < 2 {
                    // Ends so close that hardly a power lies between them.
                    ticks = multiples(low, high, linear_step(high - low, self.unit));
                }
                Ok(Span { low, high, scale: self.scale, unit: self.unit, ticks })
            }
        }
    }
}

/// An axis with its ends settled.
#[derive(Debug)]
pub(crate) struct Span {
    pub low: f64,
    pub high: f64,
    scale: Scale,
    unit: Unit,
    pub ticks: Vec<f64>,
}

impl Span {
    /// Where `value` lies, 0 at the low end and 1 at the high one; values beyond the ends are held at them.
    pub fn place(&self, value: f64) -> f64 {
        let t = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        t.clamp(0.0, 1.0)
    }

    /// A tick's text.
    pub fn text(&self, value: f64) -> String {
        self.unit.text(value)
    }
}

impl Unit {
    /// A number as this unit writes it.
    pub fn text(self, value: f64) -> String {
        let scaled = |step: f64, names: &[&str]| {
            let mut v = value;
            let mut i = 0;
            while v.abs() >= step * 0.9995 && i + 1 < names.len() {
                v /= step;
                i += 1;
            }
            format!("{}{}", short(v), names[i])
        };
        match self {
            Self::Number => scaled(1000.0, &["", "k", "M", "G", "T"]),
            Self::Tokens => scaled(1024.0, &["", "K", "M", "G"]),
            Self::Bytes => scaled(1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]),
            Self::Percent => format!("{}%", short(100.0 * value)),
        }
    }
}

/// Three significant digits, without zeros at the end.
fn short(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    let digits = (2 - v.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{v:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A round step that gives four to eight ticks.
fn linear_step(span: f64, unit: Unit) -> f64 {
    let wanted = span / 6.0;
    if matches!(unit, Unit::Tokens | Unit::Bytes) && wanted >= 1.0 {
        return 2f64.powf(wanted.log2().round());
    }
    let power = 10f64.powf(wanted.log10().floor());
    let rest = wanted / power;
    power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|&s| rest <= s * 1.1).unwrap_or(10.0)
}

fn log_ticks(low: f64, high: f64, unit: Unit) -> Vec<f64> {
    let binary = matches!(unit, Unit::Tokens | Unit::Bytes);
    let base: f64 = if binary { 2.0 } else { 10.0 };
    let (first, last) = (low.log(base).floor() as i32, high.log(base).ceil() as i32);
    let decades = high.log(base) - low.log(base);
    let inside = |&v: &f64| v >= low * (1.0 - 1e-9) && v <= high * (1.0 + 1e-9);
    if !binary && decades < 2.5 {
        let parts: &[f64] = if decades < 1.0 { &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0] } else { &[1.0, 2.0, 5.0] };
        return (first..=last).flat_map(|e| parts.iter().map(move |p| p * base.powi(e))).filter(inside).collect();
    }
    let stride = ((decades / 9.0).ceil() as i32).max(1);
    (first..=last).filter(|e| e.rem_euclid(stride) == 0).map(|e| base.powi(e)).filter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_few_and_inside() {
        for unit in [Unit::Number, Unit::Tokens, Unit::Bytes, Unit::Percent] {
            for scale in [Scale::Linear, Scale::Log] {
                for (low, high) in [(0.001, 0.7), (1.0, 3.0), (512.0, 131_072.0), (1e6, 9e9), (40.0, 42.0)] {
                    let axis = Axis { label: "x".into(), scale, unit, range: None };
                    let span = axis.laid_out([low, high].into_iter(), false).unwrap();
                    assert!(span.low <= low && span.high >= high, "{unit:?} {scale:?} {low} {high}");
                    assert!((1..=13).contains(&span.ticks.len()), "{unit:?} {scale:?} {low} {high}: {:?}", span.ticks);
                    assert!(span.ticks.windows(2).all(|w| w[0] < w[1]));
                    assert!(span.ticks.iter().all(|&t| t >= span.low - 1e-9 && t <= span.high * 1.000_001));
                }
            }
        }
    }

    #[test]
    fn places_run_from_zero_to_one_and_are_held_there() {
        let span = Axis::log("x", Unit::Tokens).between(1.0, 16.0).laid_out(std::iter::empty(), false).unwrap();
        assert_eq!(span.place(1.0), 0.0);
        assert!((span.place(4.0) - 0.5).abs() < 1e-12);
        assert_eq!(span.place(64.0), 1.0);
    }

    #[test]
    fn units_write_numbers_shortly() {
        assert_eq!(Unit::Number.text(1500.0), "1.5k");
        assert_eq!(Unit::Number.text(0.25), "0.25");
        assert_eq!(Unit::Tokens.text(131_072.0), "128K");
        assert_eq!(Unit::Bytes.text(1.5 * 1024.0 * 1024.0 * 1024.0), "1.5 GiB");
        assert_eq!(Unit::Percent.text(0.2), "20%");
        assert_eq!(Unit::Number.text(0.0), "0");
    }

    #[test]
    fn a_log_axis_refuses_zero_and_any_axis_refuses_nan() {
        assert!(matches!(Axis::log("x", Unit::Number).check("s", 0.0), Err(PlotError::NotPositive { .. })));
        assert!(matches!(Axis::linear("x", Unit::Number).check("s", f64::NAN), Err(PlotError::NotFinite { .. })));
    }

    #[test]
    fn equal_values_still_get_an_axis() {
        for scale in [Scale::Linear, Scale::Log] {
            let axis = Axis { label: "x".into(), scale, unit: Unit::Number, range: None };
            let span = axis.laid_out([5.0, 5.0].into_iter(), false).unwrap();
            assert!(span.low < 5.0 && span.high > 5.0 && !span.ticks.is_empty());
        }
    }
}
