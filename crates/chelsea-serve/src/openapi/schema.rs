//! Pieces of schemas. A field that may be left out may be `null`, too, as most clients send it.

use serde_json::{Map, Value, json};

/// A field of an object: its name, what it is, and what for.
pub(super) type Field = (&'static str, Value, &'static str);

/// A reference to a schema that has a name.
pub(super) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

pub(super) fn boolean() -> Value {
    json!({"type": "boolean"})
}

/// A number of things, such as tokens or bytes.
pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u64::MAX})
}

pub(super) fn integer(least: i64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

pub(super) fn number(least: f64, most: f64) -> Value {
    json!({"type": "number", "minimum": least, "maximum": most})
}

/// A number above `least`.
pub(super) fn number_above(least: f64, most: f64) -> Value {
    json!({"type": "number", "exclusiveMinimum": least, "maximum": most})
}

pub(super) fn one_of(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

pub(super) fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

pub(super) fn any(of: &[Value]) -> Value {
    json!({"anyOf": of})
}

/// The same, or `null`.
pub(super) fn or_null(mut schema: Value) -> Value {
    let Some(kind) = schema.get("type").cloned() else { return any(&[schema, json!({"type": "null"})]) };
    let kinds = match kind {
        Value::Array(kinds) => kinds,
        kind => vec![kind],
    };
    let others = kinds.into_iter().filter(|kind| kind != "null");
    schema["type"] = others.chain(["null".into()]).collect();
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    schema
}

fn fields(required: &[Field], optional: &[Field], may_be_null: bool) -> (Map<String, Value>, Vec<&'static str>) {
    let described = |(name, schema, text): &Field, schema_of: &dyn Fn(Value) -> Value| {
        let mut schema = schema_of(schema.clone());
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".into(), (*text).into());
        }
        ((*name).to_owned(), schema)
    };
    let optional_of = |schema: Value| if may_be_null { or_null(schema) } else { schema };
    let properties = required
        .iter()
        .map(|field| described(field, &|schema| schema))
        .chain(optional.iter().map(|field| described(field, &optional_of)))
        .collect();
    (properties, required.iter().map(|field| field.0).collect())
}

/// An object that a client sends. What is not known is refused, unless it asks for nothing (`null` or `false`).
pub(super) fn request(required: &[Field], optional: &[Field]) -> Value {
    let (properties, required) = fields(required, optional, true);
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": {"enum": [null, false]},
    })
}

/// An object of a request in which nothing else may stand.
pub(super) fn closed(optional: &[Field]) -> Value {
    let (properties, _) = fields(&[], optional, true);
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// An object that the server answers.
pub(super) fn answer(required: &[Field], optional: &[Field]) -> Value {
    let (properties, required) = fields(required, optional, false);
    json!({"type": "object", "properties": properties, "required": required})
}
