//! The corners of Python that chat templates lean on.

use std::fmt::Write;

use jiff::ZonedDateTime;
use minijinja::value::Value;
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

/// A JSON value as a template sees it.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), _, _) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (_, _, Some(x)) => Value::from(x),
            _ => Value::from(()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), value(field)))),
    }
}

/// Python's `strftime` for a moment, in the C locale. A directive that does not exist is an error.
pub(super) fn strftime(now: &ZonedDateTime, format: &str) -> Result<String, Error> {
    let unknown = |why: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {why}"));
    let mut text = String::with_capacity(2 * format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        text.push(c);
        if c != '%' {
            continue;
        }
        // What depends on the locale is spelled out as C has it.
        match chars.next() {
            Some('c') => text.push_str("a %b %e %H:%M:%S %Y"),
            Some('x') => text.push_str("m/%d/%y"),
            Some('X') => text.push_str("H:%M:%S"),
            Some('r') => text.push_str("I:%M:%S %p"),
            // Six digits in Python.
            Some('f') => text.push_str("6f"),
            Some(directive) => text.push(directive),
            None => return Err(unknown("the format ends with %".into())),
        }
    }
    jiff::fmt::strtime::format(&text, now).map_err(|e| unknown(e.to_string()))
}

/// The template with `{% generation %}` (which only tells trainers what the assistant said) turned into a block
/// that changes nothing, its whitespace control kept.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let tag = &rest[start..start + length + 4];
        let inner = &tag[2..length + 2];
        let replacement = match inner.trim_matches(['-', '+']).trim() {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..start]);
        match replacement {
            Some(words) => {
                let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map_or(String::new(), String::from);
                let (left, right) = (sign(inner.chars().next()), sign(inner.chars().next_back()));
                _ = write!(out, "{{%{left} {words} {right}%}}");
            }
            None => out.push_str(tag),
        }
        rest = &rest[start + length + 4..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use jiff::{Timestamp, tz};

    fn moment(seconds: i64, zone: TimeZone) -> ZonedDateTime {
        Timestamp::from_second(seconds).expect("a moment").to_zoned_datetime(zone)
    }

    fn at(seconds: i64, format: &str) -> String {
        strftime(&moment(seconds, TimeZone::UTC), format).expect("known directives")
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(0, "%A %d %B %Y, day %j, %H:%M:%S"), "Thursday 01 January 1970, day 001, 00:00:00");
        assert_eq!(at(951_782_400, "%a %-d %b %y"), "Tue 29 Feb 00");
        assert_eq!(at(1_735_689_599, "%F %T %I %p day %j"), "2024-12-31 23:59:59 11 PM day 366");
        assert_eq!(at(4_107_542_400, "%F %A"), "2100-03-01 Monday");
        for bad in ["%!", "100%", "%"] {
            assert!(strftime(&moment(0, TimeZone::UTC), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_directive_of_c_is_known() {
        // As `time.strftime` of Python writes them.
        let expected = [
            ("%e|%D|%R", " 9|07/09/24|20:05"),
            ("%c", "Tue Jul  9 20:05:03 2024"),
            ("%x %X %r", "07/09/24 20:05:03 08:05:03 PM"),
            ("%u %w %U %W %V %G %g", "2 2 27 28 28 2024 24"),
            ("%C %h %k %l %n%t%%", "20 Jul 20  8 \n\t%"),
            ("%s %f %Z %z", "1720555503 000000 UTC +0000"),
            ("%-d %-m %-I %-H %_d", "9 7 8 20  9"),
        ];
        for (format, text) in expected {
            assert_eq!(at(1_720_555_503, format), text, "{format}");
        }
    }

    #[test]
    fn the_time_is_that_of_the_zone() {
        let moment = moment(1_720_555_503, TimeZone::fixed(tz::offset(5)));
        assert_eq!(strftime(&moment, "%F %R %z").expect("known"), "2024-07-10 01:05 +0500");
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        assert_eq!(
            without_generation_tags("a {%- generation -%} b {% endgeneration %}{% if x %}"),
            "a {%- if true -%} b {% endif %}{% if x %}"
        );
        assert_eq!(without_generation_tags("{% generation"), "{% generation");
        assert_eq!(without_generation_tags("{%}{%%}{%-%}"), "{%}{%%}{%-%}");
    }
}
