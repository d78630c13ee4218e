//! Metadata of a GGUF file: values and typed getters.
//!
//! Every getter answers `Ok(None)` for a key that is not there and an error for one of another type, so
//! that an optional key with a wrong type is never taken for a missing one.

use std::collections::BTreeMap;
use std::fmt;

use super::GgufError;
use super::cursor::Cursor;

/// Number types of the format, with their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Number {
    fn from_id(id: u32) -> Option<Number> {
        Some(match id {
            0 => Number::U8,
            1 => Number::I8,
            2 => Number::U16,
            3 => Number::I16,
            4 => Number::U32,
            5 => Number::I32,
            6 => Number::F32,
            7 => Number::Bool,
            10 => Number::U64,
            11 => Number::I64,
            12 => Number::F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Number::U8 | Number::I8 | Number::Bool => 1,
            Number::U16 | Number::I16 => 2,
            Number::U32 | Number::I32 | Number::F32 => 4,
            Number::U64 | Number::I64 | Number::F64 => 8,
        }
    }

    /// Decodes one number from exactly [`Number::size`] little-endian bytes.
    fn decode(self, bytes: &[u8]) -> Scalar {
        let mut wide = [0u8; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let raw = u64::from_le_bytes(wide);
        match self {
            Number::U8 | Number::U16 | Number::U32 | Number::U64 => Scalar::Unsigned(raw),
            Number::I8 => Scalar::Signed((raw as u8 as i8).into()),
            Number::I16 => Scalar::Signed((raw as u16 as i16).into()),
            Number::I32 => Scalar::Signed((raw as u32 as i32).into()),
            Number::I64 => Scalar::Signed(raw as i64),
            Number::F32 => Scalar::Float(f32::from_bits(raw as u32).into()),
            Number::F64 => Scalar::Float(f64::from_bits(raw)),
            Number::Bool => Scalar::Bool(raw != 0),
        }
    }
}

/// One number or truth value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// Any unsigned type.
    Unsigned(u64),
    /// Any signed type.
    Signed(i64),
    /// 32 or 64-bit float.
    Float(f64),
    /// True or false.
    Bool(bool),
}

impl Scalar {
    fn as_u64(self) -> Option<u64> {
        match self {
            Scalar::Unsigned(n) => Some(n),
            Scalar::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    fn as_i64(self) -> Option<i64> {
        match self {
            Scalar::Unsigned(n) => i64::try_from(n).ok(),
            Scalar::Signed(n) => Some(n),
            _ => None,
        }
    }

    fn as_f32(self) -> Option<f32> {
        match self {
            Scalar::Float(x) => Some(x as f32),
            Scalar::Unsigned(n) => Some(n as f32),
            Scalar::Signed(n) => Some(n as f32),
            Scalar::Bool(_) => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Unsigned(n) => n.fmt(f),
            Scalar::Signed(n) => n.fmt(f),
            Scalar::Float(x) => (*x as f32).fmt(f),
            Scalar::Bool(b) => b.fmt(f),
        }
    }
}

/// An array of numbers, kept as the bytes of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    number: Number,
    bytes: Box<[u8]>,
}

impl Numbers {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.number.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Scalar> + '_ {
        self.bytes.chunks_exact(self.number.size()).map(|bytes| self.number.decode(bytes))
    }
}

/// An array of strings, kept as one text: a vocabulary has hundreds of thousands of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Strings {
    text: String,
    /// Where each string ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        self.text.get(start..end)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number or truth value.
    Scalar(Scalar),
    /// A string.
    String(String),
    /// An array of numbers or truth values.
    Numbers(Numbers),
    /// An array of strings.
    Strings(Strings),
}

impl fmt::Display for Value {
    /// Short: arrays show their length only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Scalar(scalar) => scalar.fmt(f),
            Value::String(text) => write!(f, "{text:?}"),
            Value::Numbers(numbers) => write!(f, "[{} numbers]", numbers.len()),
            Value::Strings(strings) => write!(f, "[{} strings]", strings.len()),
        }
    }
}

impl Value {
    /// Reads a value of type `id`.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str, id: u32) -> Result<Value, GgufError> {
        let what = || format!("the value of metadata key `{key}`");
        match id {
            STRING => cursor.text(what).map(Value::String),
            ARRAY => {
                let element = cursor.u32(what)?;
                match element {
                    STRING => {
                        let count = cursor.count(8, what)?;
                        let mut strings = Strings::default();
                        for _ in 0..count {
                            strings.text.push_str(cursor.str(what)?);
                            strings.ends.push(strings.text.len());
                        }
                        Ok(Value::Strings(strings))
                    }
                    ARRAY => Err(GgufError::NestedArray(key.to_owned())),
                    _ => {
                        let number = Number::from_id(element)
                            .ok_or_else(|| GgufError::ValueType { key: key.to_owned(), id: element })?;
                        let count = cursor.count(number.size() as u64, what)?;
                        let bytes = cursor.take((count * number.size()) as u64, what)?;
                        Ok(Value::Numbers(Numbers { number, bytes: bytes.into() }))
                    }
                }
            }
            _ => {
                let number = Number::from_id(id).ok_or_else(|| GgufError::ValueType { key: key.to_owned(), id })?;
                Ok(Value::Scalar(number.decode(cursor.take(number.size() as u64, what)?)))
            }
        }
    }
}

/// All metadata of a file, by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    pub(super) values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys and values, in order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a getter for a key that must be there: `metadata.need("a.b", Metadata::u32)`.
    pub fn need<'a, T>(
        &'a self,
        key: &str,
        get: impl FnOnce(&'a Metadata, &str) -> Result<Option<T>, GgufError>,
    ) -> Result<T, GgufError> {
        get(self, key)?.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(GgufError::WrongType { key: key.to_owned(), found: value.to_string(), expected }),
        }
    }

    /// An integer of any width that fits 32 unsigned bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned 32-bit integer", |value| match value {
            Value::Scalar(scalar) => scalar.as_u64().and_then(|n| u32::try_from(n).ok()),
            _ => None,
        })
    }

    /// A non-negative integer of any width.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", |value| match value {
            Value::Scalar(scalar) => scalar.as_u64(),
            _ => None,
        })
    }

    /// A number of any type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::Scalar(scalar) => scalar.as_f32(),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| match value {
            Value::Scalar(Scalar::Bool(b)) => Some(*b),
            _ => None,
        })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of strings. An empty array of any type counts as one.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        static NONE: Strings = Strings { text: String::new(), ends: Vec::new() };
        self.typed(key, "an array of strings", |value| match value {
            Value::Strings(strings) => Some(strings),
            Value::Numbers(numbers) if numbers.is_empty() => Some(&NONE),
            _ => None,
        })
    }

    /// An array of integers.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Numbers(numbers) => numbers.iter().map(Scalar::as_i64).collect(),
            Value::Strings(strings) if strings.is_empty() => Some(Vec::new()),
            _ => None,
        })
    }

    /// An array of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Numbers(numbers) => numbers.iter().map(Scalar::as_f32).collect(),
            Value::Strings(strings) if strings.is_empty() => Some(Vec::new()),
            _ => None,
        })
    }
}
