//! How likely tokens were, as chats and as completions tell it.

use chelsea_engine::scheduler::{Logprobs, Sampled};
use chelsea_model::tokenizer::{TextStream, Tokenizer};
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
    json!({"content": entries(tokenizer, tokens), "refusal": null})
}

/// An entry for each token of which it is known how likely it was.
pub(super) fn entries(tokenizer: &Tokenizer, tokens: &[Sampled]) -> Vec<Value> {
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
    content.collect()
}

/// Columns of `choices[].logprobs` of a completion.
#[derive(Debug)]
pub(super) struct Columns {
    tokens: Vec<String>,
    chosen: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// The text that the tokens make, in which a control token is nothing.
    decoder: TextStream,
    /// Its characters so far.
    offset: usize,
}

impl Default for Columns {
    fn default() -> Self {
        let decoder = TextStream::new(true);
        Columns { tokens: Vec::new(), chosen: Vec::new(), top: Vec::new(), offsets: Vec::new(), decoder, offset: 0 }
    }
}

impl Columns {
    /// Takes the tokens of a prompt in, with what is known of those after the first. The text of the answer begins anew.
    pub(super) fn prompt(&mut self, tokenizer: &Tokenizer, tokens: &[u32], scores: &[Logprobs], text: &str) {
        let known = std::iter::once(None).chain(scores.iter().map(Some));
        tokens.iter().zip(known).for_each(|(&token, logprobs)| self.push(tokenizer, token, logprobs));
        (self.decoder, self.offset) = (TextStream::new(true), text.chars().count());
    }

    /// Takes a token in. Nothing is known of how likely the first one of a prompt is.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32, logprobs: Option<&Logprobs>) {
        self.offsets.push(self.offset);
        self.offset += self.decoder.push(tokenizer, token).chars().count();
        self.tokens.push(text(tokenizer, token));
        match logprobs {
            None => {
                self.chosen.push(Value::Null);
                self.top.push(Value::Null);
            }
            Some(logprobs) => {
                let mut top = Map::new();
                for &(token, logprob) in logprobs.top.iter().chain(&[(token, logprobs.chosen)]) {
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
