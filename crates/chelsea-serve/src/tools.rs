//! Tools that a model may call, or must.
//!
//! A call is forced by a grammar in the format that the model's own template shows it calls in: `<tool_call>` marks (Qwen,
//! Hermes, and models whose template knows no tools) or a bare JSON object (Llama 3). Either way what it says is read by
//! [`reply`](crate::reply), as a call that it makes of its own accord is.

use crate::form::{Form, Schema, literal};
use crate::reply::CALL;
use crate::{ApiError, Serving};
use serde::Deserialize;
use serde_json::{Value, json};

/// Whether a model is to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It cannot: it is told of no tools.
    None,
    /// As it likes.
    Auto,
    /// At least one tool.
    Any,
    /// This tool.
    One(String),
}

impl Choice {
    /// What OpenAI's `tool_choice` says: for chats with the name under `function`, for responses beside the type.
    ///
    /// # Errors
    /// If it is of no known kind.
    pub fn openai(value: Option<&Value>) -> Result<Choice, ApiError> {
        let name = |value: &Value| {
            let name = value.pointer("/function/name").or_else(|| value.get("name"));
            name.and_then(Value::as_str).map(str::to_owned)
        };
        match value {
            None | Some(Value::Null) => Ok(Choice::Auto),
            Some(Value::String(choice)) if choice == "auto" => Ok(Choice::Auto),
            Some(Value::String(choice)) if choice == "none" => Ok(Choice::None),
            Some(Value::String(choice)) if choice == "required" => Ok(Choice::Any),
            Some(value) if value.get("type").and_then(Value::as_str) == Some("function") && name(value).is_some() => {
                Ok(Choice::One(name(value).unwrap_or_default()))
            }
            Some(_) => Err(ApiError::field(
                "tool_choice",
                "tool_choice must be `auto`, `none`, `required`, or name a function: {\"type\": \"function\", ...}",
            )),
        }
    }

    /// What Anthropic's `tool_choice` says.
    ///
    /// # Errors
    /// If it is of no known kind.
    pub fn anthropic(value: Option<&Value>) -> Result<Choice, ApiError> {
        let Some(value) = value else { return Ok(Choice::Auto) };
        match (value.get("type").and_then(Value::as_str), value.get("name").and_then(Value::as_str)) {
            (Some("auto"), _) => Ok(Choice::Auto),
            (Some("none"), _) => Ok(Choice::None),
            (Some("any"), _) => Ok(Choice::Any),
            (Some("tool"), Some(name)) => Ok(Choice::One(name.to_owned())),
            _ => Err(ApiError::field(
                "tool_choice",
                "tool_choice: its type must be `auto`, `none`, `any`, or `tool` with a `name`",
            )),
        }
    }
}

/// A tool, as far as a call of it must be right.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub parameters: Schema,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Between marks, any number of them.
    Marked,
    /// A text that is one call and nothing else.
    Object,
}

/// Calls of these tools.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// Those that may be called.
    pub tools: Vec<Tool>,
    /// Whether one has to be.
    pub forced: bool,
    format: Format,
    most: usize,
}

/// Calls that a forced answer may hold: more would rather be a model that cannot stop.
const MOST_CALLS: usize = 16;

impl Calls {
    /// The calls that an answer may consist of, given tools in the shape of OpenAI's chats; none where it may not call.
    ///
    /// # Errors
    /// If a tool is none, or the one that is to be called is not there.
    pub fn new(
        serving: &Serving,
        tools: Option<&[Value]>,
        choice: &Choice,
        parallel: bool,
    ) -> Result<Option<Calls>, ApiError> {
        let tools = tools.unwrap_or_default();
        let mut known = tools.iter().enumerate().map(tool).collect::<Result<Vec<Tool>, _>>()?;
        let forced = matches!(choice, Choice::Any | Choice::One(_));
        if *choice == Choice::None || tools.is_empty() && !forced {
            return Ok(None);
        }
        if tools.is_empty() {
            return Err(ApiError::field("tool_choice", "tool_choice forces a call, and there are no tools"));
        }
        if let Choice::One(name) = choice {
            known.retain(|tool| tool.name == *name);
            if known.is_empty() {
                return Err(ApiError::field(
                    "tool_choice",
                    format!("tool_choice names `{name}`, which is no tool here"),
                ));
            }
        }
        let format = format_of(serving.template.as_ref().map(|template| template.source()));
        let most = if parallel && !matches!(choice, Choice::One(_)) { MOST_CALLS } else { 1 };
        Ok(Some(Calls { tools: known, forced, format, most }))
    }

    /// Checks that an answer can be held to one call, where that is asked for in this field.
    ///
    /// # Errors
    /// If a model may call of its own accord, in whatever number it likes.
    pub fn check_parallel(&self, field: &str, parallel: bool, form: Option<&Form>) -> Result<(), ApiError> {
        if parallel || self.forced || form.is_some() {
            return Ok(());
        }
        let text = format!(
            "{field}: a single call can be asked for only where a call is forced (by tool_choice) or a form is given: how \
             many calls a model makes of its own accord is its own choice"
        );
        Err(ApiError::field(field, text))
    }

    /// The rule `calls` and those that it needs; the parameters of tool `i` are a part named `tool_i`.
    pub fn rules(&self) -> String {
        let (begin, arguments, end) = match self.format {
            Format::Marked => (format!("{}\n", CALL.0), "arguments", format!("\n{}", CALL.1)),
            Format::Object => (String::new(), "parameters", String::new()),
        };
        let mut rules = match (self.format, self.most) {
            (Format::Object, _) | (_, 1) => "calls: call\n".to_owned(),
            (Format::Marked, most) => format!("calls: call (\"\\n\" call){{0,{}}}\n", most - 1),
        };
        let names: Vec<String> = (0..self.tools.len()).map(|i| format!("call_{i}")).collect();
        rules += &format!("call: {}\n", names.join(" | "));
        for (i, tool) in self.tools.iter().enumerate() {
            let opening = format!("{begin}{{\"name\": {}, \"{arguments}\": ", Value::from(tool.name.as_str()));
            rules += &format!("call_{i}: {} @tool_{i} {}\n", literal(&opening), literal(&format!("}}{end}")));
        }
        rules
    }
}

/// The format in which a model calls, going by what its template shows it of earlier calls.
fn format_of(template: Option<&str>) -> Format {
    match template {
        Some(source) if !source.contains(CALL.0) && source.contains("\"parameters\": ") => Format::Object,
        _ => Format::Marked,
    }
}

/// A function as it is described.
#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    /// For the template alone.
    #[serde(rename = "description")]
    _description: Option<String>,
    parameters: Option<Value>,
    strict: Option<bool>,
}

fn tool((i, value): (usize, &Value)) -> Result<Tool, ApiError> {
    let wrong = |what: &str| ApiError::field(format!("tools[{i}]"), format!("tool {i} {what}"));
    let is_function = value.get("type").is_none_or(|kind| kind == "function");
    let function = value.get("function").filter(|function| function.is_object() && is_function);
    let function = function.ok_or_else(|| wrong("has no `function`: functions are the only tools here"))?;
    let Function { name, parameters, strict, .. } =
        Function::deserialize(function).map_err(|error| wrong(&format!("is no function: {error}")))?;
    let value =
        parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}, "additionalProperties": false}));
    if !value.is_object() && !value.is_boolean() {
        return Err(wrong("has `parameters` that are no JSON schema: it must be an object"));
    }
    Ok(Tool { name, parameters: Schema { value, strict: strict.unwrap_or(false) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_written_as_the_template_shows_them() {
        assert_eq!(format_of(None), Format::Marked);
        assert_eq!(format_of(Some("{{ '<tool_call>\\n' }}{{ '\"parameters\": ' }}")), Format::Marked);
        assert_eq!(format_of(Some("{{- '\"parameters\": ' }}")), Format::Object);
    }

    #[test]
    fn choices_of_both_interfaces_mean_the_same() {
        let openai = |value: Value| Choice::openai(Some(&value)).unwrap();
        let anthropic = |value: Value| Choice::anthropic(Some(&value)).unwrap();
        assert_eq!(openai(json!("required")), anthropic(json!({"type": "any"})));
        let named = json!({"type": "function", "function": {"name": "f"}});
        assert_eq!(openai(named), anthropic(json!({"type": "tool", "name": "f"})));
        assert_eq!(openai(json!({"type": "function", "name": "f"})), Choice::One("f".into()));
        assert_eq!(openai(json!("none")), anthropic(json!({"type": "none"})));
        assert!(Choice::openai(Some(&json!("perhaps"))).is_err() && Choice::anthropic(Some(&json!({}))).is_err());
    }
}
