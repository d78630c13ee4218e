//! Turns of a conversation, as clients of OpenAI's interface send them.

use crate::ApiError;
use crate::fields::kind_of;
use chelsea_model::chat::Message;
use serde_json::Value;

/// A turn as a template takes it: parts of text are joined, other parts are refused.
pub(super) fn message(i: usize, value: &Value) -> Result<Message, ApiError> {
    let wrong = |what: &str| ApiError::field(format!("messages[{i}]"), format!("message {i} {what}"));
    let Value::Object(object) = value else { return Err(wrong("is no object")) };
    let role = object.get("role").and_then(Value::as_str).ok_or_else(|| wrong("has no `role`"))?;
    let role = if role == "developer" { "system" } else { role };
    if !["system", "user", "assistant", "tool", "function"].contains(&role) {
        return Err(wrong(&format!("has the role `{role}`: it must be system, user, assistant or tool")));
    }
    let content = match object.get("content") {
        None | Some(Value::Null) if role == "assistant" => Value::String(String::new()),
        None | Some(Value::Null) => return Err(wrong("has no `content`")),
        Some(Value::String(text)) => Value::String(text.clone()),
        Some(Value::Array(parts)) => Value::String(text_of_parts(&format!("messages[{i}].content"), parts)?),
        Some(_) => return Err(wrong("has a `content` that is neither a text nor a list of parts")),
    };
    let mut extra = object.clone();
    extra.retain(|name, value| name != "role" && name != "content" && !value.is_null());
    // Templates take arguments as what they say, and clients send them as a text that holds JSON.
    if let Some(Value::Array(calls)) = extra.get_mut("tool_calls") {
        for call in calls {
            if let Some(text) = call.pointer("/function/arguments").and_then(Value::as_str)
                && let Ok(arguments) = serde_json::from_str::<Value>(text)
                && let Some(place) = call.pointer_mut("/function/arguments")
            {
                *place = arguments;
            }
        }
    }
    Ok(Message { role: role.to_owned(), content, extra })
}

/// The text of a field that is a list of parts.
pub(crate) fn text_of_parts(field: &str, parts: &[Value]) -> Result<String, ApiError> {
    let mut text = String::new();
    for part in parts {
        match (kind_of(part, field)?, part.get("text").and_then(Value::as_str)) {
            (Some("text" | "input_text" | "output_text") | None, Some(words)) => text.push_str(words),
            (kind, _) => {
                let kind = kind.unwrap_or("unknown");
                let text = format!("{field} holds a part of type `{kind}`: this model reads text alone");
                return Err(ApiError::field(field, text));
            }
        }
    }
    Ok(text)
}
