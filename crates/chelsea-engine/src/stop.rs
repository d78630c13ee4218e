//! Stop strings: text is held back while it may still turn into one, so that a stream never shows
//! half a stop string.

/// Watches streamed text for any of a set of stop strings.
#[derive(Debug, Clone, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    reached: Option<usize>,
}

/// What became of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that can be shown now.
    pub text: String,
    /// Whether a stop string was reached; nothing follows it.
    pub stopped: bool,
}

impl StopFilter {
    /// Watches for `stops`; empty strings are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        StopFilter { stops, held: String::new(), reached: None }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        let found = |(i, stop): (usize, &String)| Some((self.held.find(stop.as_str())?, i));
        if let Some((at, stop)) = self.stops.iter().enumerate().filter_map(found).min() {
            self.reached = Some(stop);
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let hold = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The stop string that was reached, if one was.
    pub fn reached(&self) -> Option<&str> {
        self.reached.and_then(|stop| self.stops.get(stop)).map(String::as_str)
    }

    /// The text still held back when the stream ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut filter = StopFilter::new(stops.iter().map(|s| s.to_string()));
        let mut shown = String::new();
        for piece in pieces {
            let passed = filter.push(piece);
            shown.push_str(&passed.text);
            if passed.stopped {
                return (shown, true);
            }
        }
        shown.push_str(&filter.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_string_spread_over_pieces_is_never_shown() {
        assert_eq!(stream(&["\nUser:"], &["hello\n", "Us", "er: hi"]), ("hello".into(), true));
    }

    #[test]
    fn a_false_start_is_shown_in_the_end() {
        assert_eq!(stream(&["\nUser:"], &["hello\n", "Us", "ual"]), ("hello\nUsual".into(), false));
        assert_eq!(stream(&["END"], &["the EN"]), ("the EN".into(), false));
    }

    #[test]
    fn the_stop_that_was_reached_is_told() {
        let mut filter = StopFilter::new(["zz", "b", "ab"].map(str::to_owned));
        assert!(!filter.push("x").stopped);
        assert_eq!(filter.reached(), None);
        assert!(filter.push("ab").stopped);
        assert_eq!(filter.reached(), Some("ab"));
    }

    #[test]
    fn the_earliest_of_several_stops_wins() {
        assert_eq!(stream(&["b", "ab"], &["xaab"]), ("xa".into(), true));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(stream(&["é!"], &["caf", "é", "?"]), ("café?".into(), false));
        assert_eq!(stream(&["é!"], &["caf", "é", "!"]), ("caf".into(), true));
    }

    #[test]
    fn empty_stops_are_ignored() {
        assert_eq!(stream(&["", "z"], &["abc"]), ("abc".into(), false));
    }
}
