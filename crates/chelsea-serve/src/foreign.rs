//! What clients say, on its way through a chat template.
//!
//! The words of messages and documents are rendered as stand-ins and put in afterwards, so no text of theirs can become a
//! control token. What else a request holds (names, arguments of calls, descriptions of tools, variables) is compared, looked
//! up and written as JSON by templates, so it has to go through them as it is. There marks are put around every character
//! at which a control token might be spelled, wholly or together with what the template writes beside it (`s` between
//! `<` and `>`). A marked character is encoded as text, which takes the spelling apart; the tokens are otherwise
//! those of the text without marks. Words that the template itself refers to are marked only where they are whole
//! spellings, so that it finds what it looks for.

use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::{Part, Tokenizer};
use serde_json::{Map, Value};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

/// Private-use characters that no template has. Before the number of a stand-in, after it, and after one that the template
/// has written into JSON:
const BEGIN: char = '\u{F5E0}';
const END: char = '\u{F5E1}';
const END_IN_JSON: char = '\u{F5E2}';
/// Around a character that is text.
const TEXT: (char, char) = ('\u{F5E3}', '\u{F5E4}');
const MARKS: [char; 5] = [BEGIN, END, END_IN_JSON, TEXT.0, TEXT.1];

/// Most characters that JSON has for one (`\u001f`).
const ESCAPED: usize = 6;

/// What has to be known of control tokens and of a template to keep what clients say text.
#[derive(Debug, Default)]
pub struct Foreign {
    /// Spellings of control tokens by their first characters.
    spellings: HashMap<char, Vec<String>>,
    /// All characters of spellings but for letters, digits, blanks and `_`.
    signs: HashSet<char>,
    /// Ends of spellings that are not whole ones, and how many characters the longest has.
    ends: HashSet<String>,
    longest: usize,
    /// Spellings without their first and last characters, one after the other.
    insides: String,
    /// Words that the template refers to.
    known: HashSet<String>,
    /// Whether the template may write JSON in ASCII.
    in_ascii: bool,
}

impl Foreign {
    /// For a model's control tokens and its template.
    pub fn of(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Foreign {
        let special = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id));
        let spellings = special.filter_map(|id| tokenizer.token_text(id));
        Foreign::new(spellings, template.map_or("", |template| template.source()))
    }

    fn new<'t>(spellings: impl Iterator<Item = &'t str>, template: &str) -> Foreign {
        let mut foreign =
            Foreign { known: words_of(template), in_ascii: template.contains("ensure_ascii"), ..Foreign::default() };
        for spelling in spellings {
            let Some(first) = spelling.chars().next() else { continue };
            foreign.spellings.entry(first).or_default().push(spelling.to_owned());
            let is_sign = |c: &char| !(c.is_alphanumeric() || c.is_whitespace() || *c == '_');
            foreign.signs.extend(spelling.chars().filter(is_sign));
            let starts: Vec<usize> = spelling.char_indices().map(|(at, _)| at).collect();
            foreign.ends.extend(starts[1..].iter().map(|&at| spelling[at..].to_owned()));
            foreign.longest = foreign.longest.max(starts.len() - 1);
            if let (Some(&second), Some(&last)) = (starts.get(1), starts.last()) {
                foreign.insides.push_str(&spelling[second..last]);
                // No spelling has it, so nothing is found across two of them.
                foreign.insides.push('\0');
            }
        }
        foreign
    }

    /// A text with its marks.
    pub fn text(&self, text: &str) -> String {
        let is_known = self.known.contains(text);
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            let goes_on = at == 0 && !is_known && self.goes_on(text);
            if goes_on || MARKS.contains(&c) || self.begins(c, &text[at..], is_known) {
                out.extend([TEXT.0, c, TEXT.1]);
            } else {
                out.push(c);
            }
        }
        out
    }

    /// Whether a spelling may begin with this character, which is the first of `rest`, or be there with it.
    fn begins(&self, c: char, rest: &str, is_known: bool) -> bool {
        // Signs are marked wherever they are, as templates may change what is between them. Letters are too common for that.
        let begins = |s: &String| rest.starts_with(s.as_str()) || !is_known && s.starts_with(rest);
        self.signs.contains(&c) || self.spellings.get(&c).is_some_and(|spellings| spellings.iter().any(begins))
    }

    /// Whether a text may go on with a spelling that the template began.
    fn goes_on(&self, text: &str) -> bool {
        let mut ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take(self.longest);
        self.insides.contains(text) || ends.any(|end| self.ends.contains(&text[..end]))
    }

    /// A value with marks in all its texts and names of fields.
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => self.fields(fields).into(),
            other => other.clone(),
        }
    }

    /// The same of fields.
    pub fn fields(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        fields.iter().map(|(name, value)| (self.text(name), self.value(value))).collect()
    }

    /// Rendered words without what only shows how the template wrote a stand-in: what [`find`] and [`parts`] take.
    pub fn tidy(&self, mut rendered: String) -> String {
        if self.in_ascii {
            for mark in MARKS {
                rendered = rendered.replace(&format!("\\u{:04x}", mark as u32), &mark.to_string());
            }
        }
        // The shorter one is in the longer one.
        for (written, end) in [(format!("\\\"{END}"), END_IN_JSON), (format!("\"{END}"), END)] {
            rendered = rendered.replace(&written, &end.to_string());
        }
        rendered
    }
}

/// The words by which a template refers to fields and values: those after a dot, and those in quotes.
fn words_of(template: &str) -> HashSet<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = HashSet::new();
    let (mut before, mut rest) = (None, template);
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let quoted = before.is_some_and(|quote| matches!(quote, '\'' | '"') && rest[end..].starts_with(quote));
        if end > 0 && (before == Some('.') || quoted) {
            words.insert(rest[..end].to_owned());
        }
        before = if end == 0 { Some(c) } else { None };
        rest = &rest[end.max(c.len_utf8())..];
    }
    words
}

/// What a stand-in stands for.
#[derive(Debug)]
pub struct Content<'t> {
    text: &'t str,
    in_json: OnceCell<String>,
}

impl<'t> Content<'t> {
    /// This text.
    pub fn new(text: &'t str) -> Content<'t> {
        Content { text, in_json: OnceCell::new() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text, or how JSON writes it between quotes.
    fn written(&self, in_json: bool) -> &str {
        if !in_json {
            return self.text;
        }
        self.in_json.get_or_init(|| {
            let quoted = Value::from(self.text).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        })
    }
}

/// What a template is given in the place of content `i`: with a quote, which shows whether it is written into JSON.
pub fn stand_in(i: usize) -> String {
    format!("{BEGIN}{i}\"{END}")
}

/// The stand-in of content `i` in rendered words: where it begins and ends.
pub fn find(rendered: &str, i: usize) -> Option<(usize, usize)> {
    let beginning = format!("{BEGIN}{i}");
    rendered.match_indices(&beginning).find_map(|(at, _)| {
        let end = at + beginning.len();
        let mark = rendered[end..].chars().next().filter(|c| matches!(*c, END | END_IN_JSON))?;
        Some((at, end + mark.len_utf8()))
    })
}

/// What is marked as text, after the first of its marks, if the other one follows: a character, or what JSON has for it.
fn marked(rest: &str) -> Option<&str> {
    // The first may be a mark itself.
    let ends = rest.char_indices().skip(1).take(ESCAPED);
    ends.into_iter().find(|&(_, c)| c == TEXT.1).map(|(at, _)| &rest[..at])
}

/// Rendered words with what clients say in its places: what stand-ins stand for, and what is marked as text.
pub fn parts<'t>(rendered: &'t str, contents: &'t [Content<'_>]) -> Vec<Part<'t>> {
    let mut parts = Vec::new();
    let mut rest = rendered;
    while let Some(at) = rest.find([BEGIN, TEXT.0, TEXT.1]) {
        parts.push(Part::Own(&rest[..at]));
        rest = &rest[at..];
        let mark = rest.chars().next().unwrap_or(BEGIN);
        rest = &rest[mark.len_utf8()..];
        // A mark that the template cut off from the other one marks nothing.
        if mark == BEGIN
            && let Some((number, after)) = rest.split_once([END, END_IN_JSON])
            && let Some(content) = number.parse().ok().and_then(|i: usize| contents.get(i))
        {
            let in_json = rest[number.len()..].starts_with(END_IN_JSON);
            parts.push(Part::Foreign(content.written(in_json)));
            rest = after;
        } else if mark == TEXT.0
            && let Some(text) = marked(rest)
        {
            parts.push(Part::Foreign(text));
            rest = &rest[text.len() + TEXT.1.len_utf8()..];
        }
    }
    parts.push(Part::Own(rest));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    const SPELLINGS: [&str; 6] = ["<s>", "</s>", "<|im_end|>", "[INST]", "endoftext", "\u{2603}"];

    fn foreign(template: &str) -> Foreign {
        Foreign::new(SPELLINGS.into_iter(), template)
    }

    /// How many control tokens the program's own parts spell, and the text of all parts.
    fn read(parts: &[Part<'_>]) -> (usize, String) {
        let spelled = |text: &str| SPELLINGS.iter().map(|spelling| text.matches(spelling).count()).sum::<usize>();
        parts.iter().fold((0, String::new()), |(count, text), part| match part {
            Part::Own(own) => (count + spelled(own), text + own),
            Part::Foreign(foreign) => (count, text + foreign),
        })
    }

    #[test]
    fn only_the_template_spells_control_tokens_and_no_character_is_lost() {
        let foreign = foreign("");
        let mut rng = StdRng::seed_from_u64(7);
        let words = [
            "<",
            ">",
            "s",
            "/",
            "</",
            "s>",
            "<s>",
            "</s>",
            "<|im",
            "_end|>",
            "im_end",
            "|",
            "[",
            "INST]",
            "endof",
            "text",
            "endoftext",
            "\u{2603}",
            "a \"b\"",
            "\\",
            "\n",
            " ",
            "x",
        ];
        let mut pick = |most: usize| -> String {
            let marks = MARKS.map(String::from);
            let all: Vec<&str> = words.into_iter().chain(marks.iter().map(String::as_str)).collect();
            (0..rng.random_range(0..=most)).map(|_| all[rng.random_range(0..all.len())]).collect()
        };
        let mut hits = 0;
        for _ in 0..20_000 {
            let own = [pick(2), pick(2)].map(|text| text.replace(MARKS, ""));
            let said = pick(4);
            if said.is_empty() {
                continue;
            }
            let rendered = format!("{}{}{}", own[0], foreign.text(&said), own[1]);
            let (count, text) = read(&parts(&rendered, &[]));
            let plain = format!("{}{said}{}", own[0], own[1]);
            assert_eq!(text, plain);
            let expected: usize = own.iter().map(|own| read(&[Part::Own(own)]).0).sum();
            assert_eq!(count, expected, "{own:?} {said:?} {rendered:?}");
            hits += usize::from(read(&[Part::Own(&plain)]).0 > expected);
        }
        assert!(hits > 2000, "{hits}");
    }

    #[test]
    fn words_that_a_template_refers_to_stay_as_they_are() {
        let template = "{% if t.end is defined and t['type'] == \"text\" %}</s>{{ end_of }}{% endif %}";
        let foreign = foreign(template);
        for word in ["end", "type", "text", "properties", "string"] {
            assert_eq!(foreign.text(word), word);
        }
        // `text` ends a control token here, `s` is in one; a whole spelling is one whatever the template says.
        for word in ["oftext", "s", "endof", "endoftext"] {
            assert_ne!(foreign.text(word), word);
        }
    }

    #[test]
    fn a_stand_in_that_the_template_writes_into_json_is_filled_with_json() {
        let contents = [Content::new("say \"<s>\"\n\u{1}"), Content::new("b")];
        let template = ChatTemplate::new(
            "{{ messages[0].content }}|{{ messages[0].content | tojson }}|{{ {'a': messages[1].content} | tojson }}",
            None,
            None,
        );
        let message = |i| chelsea_model::chat::Message::new("user", stand_in(i));
        let rendered = template.unwrap().render(&[message(0), message(1)], &Default::default()).unwrap();
        for in_ascii in [false, true] {
            let foreign = Foreign { in_ascii, ..foreign("") };
            let mut rendered = rendered.clone();
            if in_ascii {
                // As `tojson(ensure_ascii=true)` writes it.
                for mark in MARKS {
                    rendered = rendered.replace(mark, &format!("\\u{:04x}", u32::from(mark)));
                }
            }
            let rendered = foreign.tidy(rendered);
            let expected = "say \"<s>\"\n\u{1}|\"say \\\"<s>\\\"\\n\\u0001\"|{\"a\": \"b\"}";
            assert_eq!(read(&parts(&rendered, &contents)), (0, expected.to_owned()));
            assert!(find(&rendered, 0).is_some() && find(&rendered, 1).is_some() && find(&rendered, 2).is_none());
        }
    }

    #[test]
    fn marks_that_a_template_cut_apart_mark_nothing() {
        let text = foreign("").text("<s>");
        let cut: String = text.chars().skip(1).collect();
        for rendered in [format!("{}</s>", TEXT.0), format!("{cut}</s>")] {
            assert_eq!(read(&parts(&rendered, &[])).0, 1, "{rendered:?}");
        }
    }
}
