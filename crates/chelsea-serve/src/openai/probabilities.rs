//! How likely tokens were, as chats and as completions tell it.

use chelsea_engine::scheduler::Sampled;
use chelsea_model::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// JSON has no infinity; other servers say this.
const NEVER: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

/// A token's text; of one that is no whole character what the vocabulary calls it, or else its number, so that no two
/// have one name.
fn text(tokenizer: &Tokenizer, token: u32) -> String {
    let text = tokenizer.decode(&[token], false);
    if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) {
        return text;
    }
    tokenizer.token_text(token).map_or_else(|| format!("token_id:{token}"), str::to_owned)
}

/// `choices[].logprobs` of a chat.
pub(super) fn of_chat(tokenizer: &Tokenizer, tokens: &[Sampled]) -> Value {
    let entry = |token: u32, logprob: f32| {
        let text = text(tokenizer, token);
        json!({"token": text, "logprob": finite(logprob), "bytes": text.as_bytes()})
    };
    let content = tokens.iter().filter_map(|sampled| {
        let logprobs = sampled.logprobs.as_ref()?;
        let mut value = entry(sampled.token, logprobs.chosen);
        value["top_logprobs"] = logprobs.top.iter().map(|&(token, logprob)| entry(token, logprob)).collect();
        Some(value)
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// Columns of `choices[].logprobs` of a completion.
#[derive(Debug, Default)]
pub(super) struct Columns {
    tokens: Vec<String>,
    chosen: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters so far.
    offset: usize,
}

impl Columns {
    /// Takes a token in; nothing is known of how likely the first one of a prompt is.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, sampled: &Sampled) {
        let name = text(tokenizer, sampled.token);
        self.offsets.push(self.offset);
        self.offset += name.chars().count();
        self.tokens.push(name);
        match &sampled.logprobs {
            None => {
                self.chosen.push(Value::Null);
                self.top.push(Value::Null);
            }
            Some(logprobs) => {
                let mut top = Map::new();
                for &(token, logprob) in logprobs.top.iter().chain(&[(sampled.token, logprobs.chosen)]) {
                    top.insert(text(tokenizer, token), finite(logprob).into());
                }
                self.chosen.push(finite(logprobs.chosen).into());
                self.top.push(Value::Object(top));
            }
        }
    }

    /// What is told of those that were taken in since the last time.
    pub(super) fn take(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.chosen),
            "top_logprobs": std::mem::take(&mut self.top),
            "text_offset": std::mem::take(&mut self.offsets),
        })
    }
}
