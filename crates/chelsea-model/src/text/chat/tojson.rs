//! `tojson` as `transformers` defines it: `json.dumps` without escaping for HTML or to ASCII.
//!
//! A template can nest one list in another again and again, so that few steps make a value whose text is endless: what is
//! written is charged against the template's fuel while it is written.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;

/// Deepest nesting that is written. Descriptions of tools have a dozen levels.
const MAX_DEPTH: usize = 128;
/// Widest indentation of a level; people write 2 or 4.
const MAX_INDENT: usize = 64;
/// Bytes that cost one unit of fuel, as in the engine.
const BLOCK: usize = 64;

/// The filter.
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: bool = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys: bool = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(refused(format!("tojson indents by at most {MAX_INDENT}")));
    }
    let default_item = if indent.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(refused("separators must be two strings")),
        None => (default_item, ": "),
    };
    let mut writer = Writer { state, out: String::new(), paid: 0, indent, item, key, ensure_ascii, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn refused(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    /// Blocks of what is written that were paid for.
    paid: usize,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refused(format!("tojson writes at most {MAX_DEPTH} levels")));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Number | ValueKind::Bool => self.scalar(value)?,
            ValueKind::None | ValueKind::Undefined => self.out.push_str("null"),
            ValueKind::Plain => self.string(&value.to_string()),
            _ => return Err(Error::new(ErrorKind::BadSerialization, "not something JSON can express")),
        }
        self.pay()
    }

    /// Charges what was written since the last time. One step writes no more than some text that was there before.
    fn pay(&mut self) -> Result<(), Error> {
        let blocks = self.out.len() / BLOCK;
        self.state.consume_fuel((blocks - self.paid) as u64)?;
        self.paid = blocks;
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut count = 0;
        for item in value.try_iter()? {
            self.next(count, depth + 1)?;
            self.value(&item, depth + 1)?;
            count += 1;
        }
        self.close(']', count, depth);
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut fields = Vec::new();
        for key in value.try_iter()? {
            self.state.consume_fuel(1)?;
            fields.push((name(&key)?, value.get_item(&key)?));
        }
        if self.sort_keys {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        for (i, (key, field)) in fields.iter().enumerate() {
            self.next(i, depth + 1)?;
            self.string(key);
            self.out.push_str(self.key);
            self.value(field, depth + 1)?;
        }
        self.close('}', fields.len(), depth);
        Ok(())
    }

    fn next(&mut self, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            self.out.push_str(self.item);
        }
        self.line(depth);
        self.pay()
    }

    fn close(&mut self, bracket: char, count: usize, depth: usize) {
        if count > 0 {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            // Both factors have small bounds.
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn scalar(&mut self, value: &Value) -> Result<(), Error> {
        let json = serde_json::to_value(value)
            .map_err(|e| Error::new(ErrorKind::BadSerialization, "not something JSON can express").with_source(e))?;
        match &json {
            Json::Number(number) => self.number(number),
            other => _ = write!(self.out, "{other}"),
        }
        Ok(())
    }

    /// Whole floats keep their `.0` and exponents are written as Python writes them.
    fn number(&mut self, number: &serde_json::Number) {
        match number.as_f64() {
            Some(x) if number.is_f64() => {
                let size = x.abs();
                if x == 0.0 || (1e-4..1e16).contains(&size) {
                    _ = write!(self.out, "{x:?}");
                } else {
                    let text = format!("{x:e}");
                    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                    let (sign, exponent) = match exponent.strip_prefix('-') {
                        Some(exponent) => ('-', exponent),
                        None => ('+', exponent),
                    };
                    _ = write!(self.out, "{digits}e{sign}{exponent:0>2}");
                }
            }
            _ => _ = write!(self.out, "{number}"),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as Python writes it.
fn name(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(key.to_string()),
        ValueKind::None => Ok("null".into()),
        _ => Err(Error::new(ErrorKind::BadSerialization, "a key is neither text nor a number")),
    }
}
