//! What an answer has to look like: JSON of a schema, a regular expression, one of several texts, or calls of tools.
//!
//! All of it becomes one grammar, which begins after what a model thinks: a thought is never held to a schema. What it says
//! may begin with a little white space, as models do; JSON may be laid out over lines, but not with more white space
//! than that takes, in which small models lose themselves.

use crate::prompt::Thought;
use crate::reply::THINK;
use crate::tools::Calls;
use crate::{ApiError, Serving};
use chelsea_engine::Grammar;
use chelsea_engine::grammar::Part;
use serde::Deserialize;
use serde_json::{Value, json};

/// White space between the parts of JSON: one or two blanks, or a new line with its indentation.
const BETWEEN: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,40}";

/// What an answer has to look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// JSON that a schema describes.
    Json(Schema),
    /// A text that a regular expression matches.
    Pattern(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Form {
    /// Whether it is one at all, for those who do not go on to make a grammar of it.
    ///
    /// # Errors
    /// If its schema is none.
    pub fn check(&self) -> Result<(), ApiError> {
        match self {
            Form::Json(schema) => schema.part().map(|_| ()),
            Form::Pattern(_) | Form::Choice(_) => Ok(()),
        }
    }
}

/// A JSON schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// The schema itself.
    pub value: Value,
    /// Whether it is refused where it says what cannot be held to, such as an unknown format: otherwise that is left out.
    pub strict: bool,
}

impl Schema {
    /// Any object.
    pub fn object() -> Schema {
        Schema { value: json!({"type": "object"}), strict: false }
    }

    /// The schema with what is chosen here where it does not choose itself (`x-guidance`).
    fn part(&self) -> Result<Part, ApiError> {
        let mut schema = match &self.value {
            Value::Bool(true) => json!({}),
            Value::Object(_) | Value::Bool(false) => self.value.clone(),
            other => return Err(ApiError::bad(format!("a JSON schema must be an object, and this is `{other}`"))),
        };
        if let Value::Object(schema) = &mut schema {
            let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
            let chosen = [("whitespace_pattern", json!(BETWEEN)), ("coerce_one_of", json!(true))];
            if let Value::Object(options) = options {
                for (name, value) in chosen.into_iter().chain([("lenient", json!(!self.strict))]) {
                    options.entry(name).or_insert(value);
                }
            }
        }
        Ok(Part::Schema(schema))
    }
}

/// Names of fields that [`FormFields`] takes.
pub const FORMS: &[&str] =
    &["response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "json_schema"];

/// How clients of OpenAI, vLLM and llama.cpp say what an answer has to look like.
#[derive(Debug, Default, Deserialize)]
pub struct FormFields {
    response_format: Option<Value>,
    structured_outputs: Option<Structured>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    json_schema: Option<Value>,
}

/// vLLM's field, which holds one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Structured {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
}

impl FormFields {
    /// The form that is asked for, if one is.
    ///
    /// # Errors
    /// If several are, or one that there is not.
    pub fn form(self) -> Result<Option<Form>, ApiError> {
        let schema = |value| json_text(value).map(|value| Form::Json(Schema { value, strict: false }));
        let structured = self.structured_outputs.unwrap_or_default();
        let asked = [
            self.response_format.as_ref().map(response_format).transpose()?.flatten(),
            structured.json.map(schema).transpose()?,
            structured.json_object.filter(|&wanted| wanted).map(|_| Form::Json(Schema::object())),
            structured.regex.map(Form::Pattern),
            structured.choice.map(choice).transpose()?,
            self.guided_json.map(schema).transpose()?,
            self.guided_regex.map(Form::Pattern),
            self.guided_choice.map(choice).transpose()?,
            self.json_schema.map(schema).transpose()?,
        ];
        let mut asked = asked.into_iter().flatten();
        let first = asked.next();
        if asked.next().is_some() {
            return Err(ApiError::field("response_format", "an answer can have one form: several were given"));
        }
        Ok(first)
    }
}

/// A schema that was given as a text.
fn json_text(value: Value) -> Result<Value, ApiError> {
    match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| ApiError::bad(format!("the JSON schema is a text that holds no JSON: {error}"))),
        value => Ok(value),
    }
}

fn choice(texts: Vec<String>) -> Result<Form, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::bad("a choice needs at least one text to choose"));
    }
    Ok(Form::Choice(texts))
}

/// What OpenAI's `response_format` asks for.
///
/// # Errors
/// If it is of no known type.
pub fn response_format(value: &Value) -> Result<Option<Form>, ApiError> {
    let wrong = |text: String| ApiError::field("response_format", text);
    match value.get("type").and_then(Value::as_str) {
        _ if value.is_null() => Ok(None),
        Some("text") => Ok(None),
        // With a schema, as llama.cpp has it.
        Some("json_object") => Ok(Some(Form::Json(match value.get("schema") {
            None | Some(Value::Null) => Schema::object(),
            Some(schema) => Schema { value: schema.clone(), strict: false },
        }))),
        Some("json_schema") => {
            let named = value.get("json_schema").filter(|named| named.is_object());
            let named = named.ok_or_else(|| wrong("response_format has no `json_schema` object".into()))?;
            json_schema("response_format.json_schema", named).map(Some)
        }
        other => Err(wrong(format!(
            "response_format has the type `{}`: it must be text, json_object or json_schema",
            other.unwrap_or("null")
        ))),
    }
}

/// A schema and what is said about it.
#[derive(Debug, Deserialize)]
struct Named {
    schema: Option<Value>,
    strict: Option<bool>,
}

/// A schema with its name, as OpenAI's interfaces send it in this field. Without a schema any JSON will do.
///
/// # Errors
/// If what is said about it is of a wrong type.
pub fn json_schema(field: &str, named: &Value) -> Result<Form, ApiError> {
    let Named { schema, strict } =
        Named::deserialize(named).map_err(|error| ApiError::field(field, format!("{field}: {error}")))?;
    Ok(Form::Json(Schema { value: schema.unwrap_or_else(|| json!({})), strict: strict.unwrap_or(false) }))
}

/// The grammar of an answer, if it is held to anything. Where calls are only allowed, it may be either of the two.
///
/// # Errors
/// If the form, or a tool's parameters, cannot be held to: with what the library says.
pub fn grammar(
    serving: &Serving,
    thought: Thought,
    form: Option<&Form>,
    calls: Option<&Calls>,
) -> Result<Option<Grammar>, ApiError> {
    let (mut rules, mut parts, mut answers) = (String::new(), Vec::new(), Vec::new());
    match form {
        None => {}
        Some(Form::Json(schema)) => {
            parts.push(("form".to_owned(), schema.part()?));
            answers.push("@form".to_owned());
        }
        Some(Form::Pattern(pattern)) => {
            parts.push(("form".to_owned(), Part::Pattern(pattern.clone())));
            answers.push("@form".to_owned());
        }
        Some(Form::Choice(texts)) => answers.extend(texts.iter().map(|text| literal(text))),
    }
    match calls {
        // Without a form, an answer that is allowed to call is free to say anything.
        Some(calls) if calls.forced || form.is_some() => {
            if calls.forced {
                answers.clear();
                parts.clear();
            }
            for (i, tool) in calls.tools.iter().enumerate() {
                parts.push((format!("tool_{i}"), tool.parameters.part()?));
            }
            rules += &calls.rules();
            answers.push("calls".to_owned());
        }
        _ => {}
    }
    if answers.is_empty() {
        return Ok(None);
    }
    let thinks = match thought {
        Thought::Over => String::new(),
        Thought::MayBegin => format!("({} thought SPACE?)? ", literal(THINK.0)),
        Thought::Begun => "thought SPACE? ".to_owned(),
    };
    rules += &format!("start: SPACE? {thinks}({})\nSPACE: /[ \\t\\r\\n]{{1,4}}/\n", answers.join(" | "));
    if thought != Thought::Over {
        rules += &format!("thought[lazy]: /(.|\\n)*{}/\n", THINK.1.replace('/', "\\/"));
    }
    let field = if calls.is_some_and(|calls| calls.forced) { "tools" } else { "response_format" };
    let compiled = serving.grammars()?.compile(&rules, parts);
    compiled.map(Some).map_err(|error| ApiError::field(field, format!("{field} cannot be held to: {error}")))
}

/// A text as a rule writes it.
pub fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
