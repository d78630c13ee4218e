//! From Anthropic's blocks to the turns that templates take.

use crate::ApiError;
use crate::fields::kind_of;
use chelsea_model::chat::Message;
use serde_json::{Map, Value, json};

/// A line that some clients put first and change with every request: it would keep any prefix from being found again.
const BILLING: &str = "x-anthropic-billing-header";

/// The system message.
pub(super) fn system(value: &Value) -> Result<String, ApiError> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts = blocks.iter().map(|block| {
                block
                    .get("text")
                    .and_then(Value::as_str)
                    .ok_or_else(|| ApiError::field("system", "system: a block holds no text"))
            });
            let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
            texts.into_iter().filter(|text| !text.starts_with(BILLING)).collect::<Vec<_>>().join("\n")
        }
        _ => return Err(ApiError::field("system", "system: give a text or a list of blocks of text")),
    };
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(BILLING)).collect();
    Ok(if kept.len() == text.lines().count() { text } else { kept.join("\n") })
}

/// One turn, which may be several for a template: results of tools come before what the user says.
pub(super) fn turn(i: usize, value: &Value, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let wrong = |what: String| ApiError::field(format!("messages.{i}"), format!("messages.{i}: {what}"));
    let role = value.get("role").and_then(Value::as_str).ok_or_else(|| wrong("`role` is required".into()))?;
    if !["user", "assistant", "system"].contains(&role) {
        return Err(wrong(format!("the role `{role}` must be user or assistant")));
    }
    let blocks = match value.get("content") {
        Some(Value::String(text)) => {
            messages.push(Message::new(role, text.clone()));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        _ => return Err(wrong("`content` must be a text or a list of blocks".into())),
    };
    let (mut text, mut calls) = (String::new(), Vec::new());
    for block in blocks {
        let kind = kind_of(block, &format!("messages.{i}"))?.unwrap_or("text");
        let words = block.get("text").and_then(Value::as_str);
        match (kind, words) {
            ("text", Some(words)) => text.push_str(words),
            // What a model thought before is no part of the conversation.
            ("thinking" | "redacted_thinking", _) => {}
            ("tool_use", _) => calls.push(json!({
                "id": block.get("id"),
                "type": "function",
                "function": {
                    "name": block.get("name").and_then(Value::as_str).ok_or_else(|| {
                        wrong("a tool_use has no `name`".into())
                    })?,
                    "arguments": block.get("input").cloned().unwrap_or_else(|| json!({})),
                },
            })),
            ("tool_result", _) => {
                let mut extra = Map::new();
                extra.insert("tool_call_id".into(), block.get("tool_use_id").cloned().unwrap_or_default());
                let content = result(block.get("content")).map_err(&wrong)?;
                messages.push(Message { extra, ..Message::new("tool", content) });
            }
            (kind, _) => {
                return Err(wrong(format!("blocks of type `{kind}` are not supported: this model reads text alone")));
            }
        }
    }
    if !text.is_empty() || !calls.is_empty() {
        let mut message = Message::new(role, text);
        if !calls.is_empty() {
            message.extra.insert("tool_calls".into(), calls.into());
        }
        messages.push(message);
    }
    Ok(())
}

/// What a tool returned.
fn result(content: Option<&Value>) -> Result<String, String> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(blocks)) => blocks
            .iter()
            .map(|block| {
                block
                    .get("text")
                    .and_then(Value::as_str)
                    .ok_or_else(|| "a tool_result holds something else than text".into())
            })
            .collect(),
        Some(_) => Err("the `content` of a tool_result must be a text or a list of blocks".into()),
    }
}

/// A tool as templates take it.
pub(super) fn tool((i, value): (usize, &Value)) -> Result<Value, ApiError> {
    let wrong = |what: &str| ApiError::field(format!("tools.{i}"), format!("tools.{i}: {what}"));
    let name = value.get("name").and_then(Value::as_str).ok_or_else(|| wrong("`name` is required"))?;
    let Some(schema) = value.get("input_schema") else {
        return Err(wrong("only tools of one's own, with an `input_schema`, are supported"));
    };
    if !(schema.is_object() || schema.is_boolean() || schema.is_null()) {
        return Err(wrong("`input_schema` must be a JSON schema: an object"));
    }
    if value.get("description").is_some_and(|text| !text.is_string() && !text.is_null()) {
        return Err(wrong("`description` must be a text"));
    }
    Ok(json!({"type": "function", "function": {
        "name": name,
        "description": value.get("description").cloned().unwrap_or_default(),
        "parameters": schema,
    }}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_changes_with_every_request_is_taken_out() {
        let blocks =
            json!([{"type": "text", "text": "x-anthropic-billing-header: a=1"}, {"type": "text", "text": "Be brief."}]);
        assert_eq!(system(&blocks).unwrap(), "Be brief.");
        assert_eq!(
            system(&json!("x-anthropic-billing-header: a=2\nBe brief.\n\nReally.")).unwrap(),
            "Be brief.\n\nReally."
        );
        assert_eq!(system(&json!("As it is.\n")).unwrap(), "As it is.\n");
    }

    #[test]
    fn results_of_tools_come_before_what_the_user_says() {
        let mut messages = Vec::new();
        let user = json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "21"}]},
            {"type": "text", "text": "And now?"},
        ]});
        turn(0, &user, &mut messages).unwrap();
        let said: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str().unwrap())).collect();
        assert_eq!(said, [("tool", "21"), ("user", "And now?")]);
        let image = json!({"role": "user", "content": [{"type": "image", "source": {}}]});
        assert!(turn(3, &image, &mut messages).unwrap_err().message.contains("messages.3"));
    }
}
