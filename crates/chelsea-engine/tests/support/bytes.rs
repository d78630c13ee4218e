//! A vocabulary in which every byte is a token of its own, and one that listens to what becomes of a request.

use chelsea_engine::scheduler::{Event, Listener, Logprobs, Outcome, Sampled};
use chelsea_model::tokenizer::Tokenizer;
use std::sync::{Arc, Mutex};

/// The token that ends a turn, in vocabularies that have one.
pub const END: u32 = 256;
/// A token of several bytes, as the marks of thoughts are in most vocabularies.
pub const THINK_END: u32 = 257;

/// Every byte, `</think>`, and a token that ends a turn where one is wanted.
pub fn tokenizer(with_end: bool) -> Tokenizer {
    // The printable stand-ins for bytes that byte-level vocabularies use.
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut others = 0;
    let mut stand_in = |b: u32| {
        others += u32::from(!printable(b));
        char::from_u32(if printable(b) { b } else { 255 + others }).unwrap().to_string()
    };
    let vocab: serde_json::Map<String, serde_json::Value> = (0..256).map(|b| (stand_in(b), b.into())).collect();
    let mut added = vec![serde_json::json!({
        "id": THINK_END, "content": "</think>", "special": false, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false,
    })];
    if with_end {
        let mut end = added[0].clone();
        (end["id"], end["content"], end["special"]) = (END.into(), "<|im_end|>".into(), true.into());
        added.insert(0, end);
    }
    let json = serde_json::json!({
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel"},
    });
    Tokenizer::from_json(&json.to_string(), None, None).unwrap()
}

/// What a request was told.
#[derive(Default)]
pub struct Heard {
    pub tokens: Vec<Sampled>,
    pub scores: Vec<Vec<Logprobs>>,
    pub cached: Vec<usize>,
    pub outcome: Option<Outcome>,
    pub error: Option<String>,
}

/// Listens to a request.
#[derive(Clone, Default)]
pub struct Ear(pub Arc<Mutex<Heard>>);

impl Listener for Ear {
    fn hear(&mut self, event: Event) {
        let mut heard = self.0.lock().unwrap();
        match event {
            Event::Waiting | Event::Read { .. } | Event::Held(_) => {}
            Event::Started { cached } => heard.cached.push(cached),
            Event::Scored(scores) => heard.scores.push(scores),
            Event::Token(sampled) => heard.tokens.push(sampled),
            Event::Finished(outcome) => heard.outcome = Some(*outcome),
            Event::Failed(error) => heard.error = Some(error.to_string()),
        }
    }

    fn is_gone(&self) -> bool {
        false
    }
}

impl Ear {
    /// The answer's text.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().tokens.iter().map(|sampled| sampled.text.as_str()).collect()
    }

    /// The figures of the complete answer.
    pub fn outcome(&self) -> Outcome {
        let heard = self.0.lock().unwrap();
        heard.outcome.clone().unwrap_or_else(|| panic!("there is no answer: {:?}", heard.error))
    }

    /// How likely the tokens of the prompt were, which is told once.
    pub fn scores(&self) -> Vec<Logprobs> {
        let heard = self.0.lock().unwrap();
        assert_eq!(heard.scores.len(), 1);
        heard.scores[0].clone()
    }
}
