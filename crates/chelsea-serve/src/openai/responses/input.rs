//! From the items of a response's input to the turns that templates take.

use crate::fields::kind_of;
use crate::openai::chat::text_of_parts;
use crate::{ApiError, documents};
use chelsea_model::chat::Message;
use serde_json::{Map, Value, json};

/// The turns of a conversation.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Instructions, and then what was said, called and returned, in order.
    pub(super) messages: Vec<Message>,
    /// Documents that are named: the message that each belongs to, the field that names it, and its id.
    pub(super) files: Vec<(usize, String, String)>,
}

/// The turns of a conversation.
pub(super) fn turns(instructions: Option<&str>, input: &Value) -> Result<Turns, ApiError> {
    let mut turns = Turns::default();
    let messages = &mut turns.messages;
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        messages.push(Message::new("system", instructions));
    }
    match input {
        Value::String(text) => messages.push(Message::new("user", text.as_str())),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                turns.push(&format!("input[{i}]"), item)?;
            }
        }
        _ => return Err(ApiError::field("input", "input must be a text or a list of items")),
    }
    if turns.messages.iter().all(|message| message.role == "system") {
        return Err(ApiError::field("input", "input says nothing: give at least one message"));
    }
    Ok(turns)
}

impl Turns {
    fn push(&mut self, field: &str, item: &Value) -> Result<(), ApiError> {
        let messages = &mut self.messages;
        let wrong = |what: &str| ApiError::field(field, format!("{field} {what}"));
        let text = |name: &str| {
            let text = item.get(name).and_then(Value::as_str);
            text.ok_or_else(|| wrong(&format!("has no `{name}`")))
        };
        match kind_of(item, field)?.unwrap_or("message") {
            "message" => {
                let role = match text("role")? {
                    "developer" => "system",
                    role @ ("system" | "user" | "assistant") => role,
                    role => return Err(wrong(&format!("has the role `{role}`: it must be system, user or assistant"))),
                };
                let (field, mut item) = (format!("{field}.content"), item.clone());
                let ids = documents::take_file_ids(&field, &mut item, documents::OF_RESPONSE)?;
                self.files.extend(ids.into_iter().map(|id| (messages.len(), field.clone(), id)));
                messages.push(Message::new(role, content(&field, item.get("content"))?));
            }
            "function_call" => {
                let given = text("arguments")?;
                // Templates take arguments as what they say.
                let arguments = serde_json::from_str(given).unwrap_or_else(|_| Value::from(given));
                let function = json!({"name": text("name")?, "arguments": arguments});
                let call = json!({"id": text("call_id")?, "type": "function", "function": function});
                // Calls belong to the turn in which they were made.
                if messages.last().is_none_or(|last| last.role != "assistant") {
                    messages.push(Message::new("assistant", ""));
                }
                if let Some(turn) = messages.last_mut() {
                    let calls = turn.extra.entry("tool_calls").or_insert_with(|| json!([]));
                    if let Value::Array(calls) = calls {
                        calls.push(call);
                    }
                }
            }
            "function_call_output" => {
                let mut extra = Map::new();
                extra.insert("tool_call_id".into(), text("call_id")?.into());
                let content = content(&format!("{field}.output"), item.get("output"))?;
                messages.push(Message { extra, ..Message::new("tool", content) });
            }
            // What a model thought before is no part of the conversation.
            "reasoning" => {}
            "item_reference" => {
                return Err(wrong("refers to an item: nothing is stored here, so give the item itself"));
            }
            kind => return Err(wrong(&format!("has the type `{kind}`, which is not supported here"))),
        }
        Ok(())
    }
}

fn content(field: &str, value: Option<&Value>) -> Result<String, ApiError> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => text_of_parts(field, parts),
        _ => Err(ApiError::field(field, format!("{field} must be a text or a list of parts"))),
    }
}

/// Tools in the shape of chats, which templates know.
pub(super) fn tools(tools: &[Value]) -> Result<Vec<Value>, ApiError> {
    let one = |(i, tool): (usize, &Value)| {
        let field = format!("tools[{i}]");
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => {}
            kind => {
                let text = format!(
                    "{field} has the type `{}`: functions are the only tools that can be called here",
                    kind.unwrap_or("null")
                );
                return Err(ApiError::field(field, text));
            }
        }
        let mut function = tool.as_object().cloned().unwrap_or_default();
        function.retain(|name, value| name != "type" && !value.is_null());
        Ok(json!({"type": "function", "function": function}))
    };
    tools.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_join_the_turn_in_which_they_were_made() {
        let input = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"city\": \"Paris\"}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{\"city\": \"Rome\"}"},
            {"type": "function_call_output", "call_id": "c1", "output": "21"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "25"}]},
        ]);
        let messages = turns(Some("Be brief."), &input).unwrap().messages;
        let said: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str().unwrap())).collect();
        assert_eq!(
            said,
            [("system", "Be brief."), ("user", "Weather?"), ("assistant", "I look."), ("tool", "21"), ("tool", "25")]
        );
        let calls = messages[2].extra["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &calls[1]["function"]["arguments"]["city"]), (2, &json!("Rome")));
        assert_eq!(messages[3].extra["tool_call_id"], "c1");
    }

    #[test]
    fn what_would_need_a_store_or_eyes_is_refused_by_name() {
        let refused = |item: Value| turns(None, &json!([item])).unwrap_err().message;
        assert!(refused(json!({"type": "item_reference", "id": "x"})).contains("input[0] refers to an item"));
        let image = json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]});
        assert!(refused(image).contains("input[0].content holds a part of type `input_image`"));
        assert!(refused(json!({"type": "web_search_call"})).contains("web_search_call"));
        assert!(refused(json!({"role": "system", "content": "x"})).contains("says nothing"));
        assert!(tools(&[json!({"type": "web_search"})]).unwrap_err().message.contains("tools[0]"));
    }
}
