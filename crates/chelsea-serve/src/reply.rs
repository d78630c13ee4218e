//! What a model's text says: what it thinks, what it tells, and which tools it calls.
//!
//! Models write these in one text with marks between them: `<think>` around what they think, and `<tool_call>` around calls
//! (Qwen, Hermes), or a text that is nothing but a JSON object with a name and parameters (Llama 3). One parser
//! serves streams and whole answers, so the two never differ. Text is held back while it may still turn into a mark.

use serde_json::Value;

/// A part of what a model says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// What it thinks.
    Reasoning(String),
    /// What it tells.
    Text(String),
    /// A call of a tool.
    Call {
        /// The tool.
        name: String,
        /// What it is given: JSON.
        arguments: String,
    },
}

/// Marks around what a model thinks.
pub const THINK: (&str, &str) = ("<think>", "</think>");
/// Marks around a call of a tool.
pub const CALL: (&str, &str) = ("<tool_call>", "</tool_call>");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Nothing but white space was said so far.
    Beginning,
    Reasoning,
    /// After a mark that ends something: the line breaks that follow it are no part of the text.
    Between,
    Text,
    /// Between the marks of a call.
    Call,
    /// A text that may be nothing but a call.
    Object,
}

/// Takes a model's text apart as it comes.
#[derive(Debug)]
pub struct Parser {
    inside: Inside,
    held: String,
    with_tools: bool,
}

impl Parser {
    /// `with_tools`: whether there are tools that may be called. `thinks`: whether the prompt ended with the mark that
    /// begins what the model thinks.
    pub fn new(with_tools: bool, thinks: bool) -> Parser {
        let inside = if thinks { Inside::Reasoning } else { Inside::Beginning };
        Parser { inside, held: String::new(), with_tools }
    }

    /// Whether what comes now belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        self.inside == Inside::Reasoning
    }

    /// Takes the next piece of text. Returns what is sure by now.
    pub fn push(&mut self, piece: &str) -> Vec<Said> {
        self.held.push_str(piece);
        let mut said = Vec::new();
        while self.step(&mut said) {}
        said
    }

    /// The end of the text: what was held back.
    pub fn finish(mut self) -> Vec<Said> {
        let held = std::mem::take(&mut self.held);
        let said = match self.inside {
            Inside::Reasoning => Said::Reasoning(held),
            Inside::Object => call(&held).unwrap_or(Said::Text(held)),
            // A call that was cut off is none: its beginning is told as text, so that nothing is lost.
            Inside::Call => call(&held).unwrap_or(Said::Text(format!("{}{held}", CALL.0))),
            Inside::Beginning | Inside::Between | Inside::Text => Said::Text(held),
        };
        let is_empty = matches!(&said, Said::Text(text) | Said::Reasoning(text) if text.is_empty());
        if is_empty { Vec::new() } else { vec![said] }
    }

    /// Takes what is sure off the beginning of what is held. Returns whether there may be more.
    fn step(&mut self, said: &mut Vec<Said>) -> bool {
        match self.inside {
            Inside::Beginning => {
                let text = self.held.trim_start();
                let begins = |mark: &str| mark.starts_with(text) && text.len() < mark.len();
                if begins(THINK.0) || self.with_tools && begins(CALL.0) {
                    return false;
                }
                if let Some(rest) = text.strip_prefix(THINK.0) {
                    self.held = rest.to_owned();
                    self.inside = Inside::Reasoning;
                } else if let Some(rest) = text.strip_prefix(CALL.0).filter(|_| self.with_tools) {
                    // White space before a call is no text that anybody was told.
                    self.held = rest.to_owned();
                    self.inside = Inside::Call;
                } else if self.with_tools && text.starts_with('{') {
                    self.inside = Inside::Object;
                } else {
                    self.inside = Inside::Text;
                }
                true
            }
            Inside::Reasoning => self.until(THINK.1, Inside::Between, Said::Reasoning, said),
            Inside::Between => {
                self.held = self.held.trim_start_matches('\n').to_owned();
                if !self.held.is_empty() {
                    self.inside = Inside::Text;
                }
                !self.held.is_empty()
            }
            Inside::Text if self.with_tools => self.until(CALL.0, Inside::Call, Said::Text, said),
            Inside::Text => {
                emit(std::mem::take(&mut self.held), Said::Text, said);
                false
            }
            Inside::Call => {
                let Some((body, rest)) = self.held.split_once(CALL.1) else { return false };
                said.push(call(body).unwrap_or_else(|| Said::Text(format!("{}{body}{}", CALL.0, CALL.1))));
                self.held = rest.to_owned();
                self.inside = Inside::Between;
                true
            }
            Inside::Object => false,
        }
    }

    /// Everything up to a mark is sure; so is everything that cannot be the beginning of one.
    fn until(&mut self, mark: &str, next: Inside, kind: fn(String) -> Said, said: &mut Vec<Said>) -> bool {
        if let Some((before, rest)) = self.held.split_once(mark) {
            let (before, rest) = (before.to_owned(), rest.to_owned());
            emit(before, kind, said);
            self.held = rest;
            self.inside = next;
            return true;
        }
        let begun = (1..mark.len()).rev().find(|&n| mark.is_char_boundary(n) && self.held.ends_with(&mark[..n]));
        let held = self.held.split_off(self.held.len() - begun.unwrap_or(0));
        emit(std::mem::replace(&mut self.held, held), kind, said);
        false
    }
}

fn emit(text: String, kind: fn(String) -> Said, said: &mut Vec<Said>) {
    if !text.is_empty() {
        said.push(kind(text));
    }
}

/// A call, if the text is one.
fn call(text: &str) -> Option<Said> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let name = value.get("name")?.as_str()?.to_owned();
    let given = value.get("arguments").or_else(|| value.get("parameters"))?;
    // Some write the arguments as a text that holds JSON.
    let arguments = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
    Some(Said::Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbours of one kind joined.
    fn joined(said: Vec<Said>) -> Vec<Said> {
        let mut out: Vec<Said> = Vec::new();
        for said in said {
            match (out.last_mut(), said) {
                (Some(Said::Text(before)), Said::Text(text)) => before.push_str(&text),
                (Some(Said::Reasoning(before)), Said::Reasoning(text)) => before.push_str(&text),
                (_, said) => out.push(said),
            }
        }
        out
    }

    fn whole(text: &str, tools: bool, thinks: bool) -> Vec<Said> {
        let mut parser = Parser::new(tools, thinks);
        let mut said = parser.push(text);
        said.extend(parser.finish());
        joined(said)
    }

    const TEXTS: &[&str] = &[
        "plain words < and <tool but no mark",
        "<think>hm</think>\n\nThe answer.",
        "I look. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}\n</tool_call>\n<tool_call>{\"name\": \"g\", \
         \"arguments\": {}}</tool_call>",
        "{\"name\": \"f\", \"parameters\": {\"q\": \"é\"}}",
        "{\"not\": \"a call\"}",
        "<tool_call>{\"name\": \"cut",
        "<tool_call>no json</tool_call> after",
        "  \n<think>never ends",
        "\n\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
    ];

    #[test]
    fn streams_say_what_whole_texts_say_however_they_are_cut() {
        for text in TEXTS {
            for (tools, thinks) in [(true, false), (false, false), (true, true)] {
                let expected = whole(text, tools, thinks);
                for size in 1..text.chars().count() {
                    let mut parser = Parser::new(tools, thinks);
                    let chars: Vec<char> = text.chars().collect();
                    let mut said = Vec::new();
                    for piece in chars.chunks(size) {
                        said.extend(parser.push(&piece.iter().collect::<String>()));
                    }
                    said.extend(parser.finish());
                    assert_eq!(joined(said), expected, "{text} in pieces of {size}");
                }
            }
        }
    }

    #[test]
    fn calls_and_thoughts_are_told_apart_from_words() {
        let call = |name: &str, arguments: &str| Said::Call { name: name.into(), arguments: arguments.into() };
        assert_eq!(
            whole(TEXTS[2], true, false),
            [Said::Text("I look. ".into()), call("f", "{\"a\":[1,2]}"), call("g", "{}")]
        );
        assert_eq!(whole(TEXTS[3], true, false), [call("f", "{\"q\":\"é\"}")]);
        assert_eq!(whole(TEXTS[1], true, false), [Said::Reasoning("hm".into()), Said::Text("The answer.".into())]);
        assert_eq!(whole(TEXTS[8], true, false), [call("f", "{}")]);
        assert_eq!(whole("so</think>Yes", false, true), [Said::Reasoning("so".into()), Said::Text("Yes".into())]);
    }

    #[test]
    fn what_is_no_call_is_told_as_it_is() {
        for text in [TEXTS[0], TEXTS[4], TEXTS[5], TEXTS[6]] {
            assert_eq!(whole(text, true, false), [Said::Text(text.into())]);
        }
        assert_eq!(whole(TEXTS[3], false, false), [Said::Text(TEXTS[3].into())], "there are no tools");
    }
}
