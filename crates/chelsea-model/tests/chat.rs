//! Chat templates against `transformers`, and against hostile messages and templates.
//!
//! Golden renderings: `scripts/reference/chat_goldens.py`.

#[allow(dead_code)] // each test uses its part
mod support {
    pub mod models;
}

use std::collections::HashMap;

use chelsea_model::ModelFile;
use chelsea_model::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use chelsea_model::tokenizer::{Before, Part, Tokenizer};
use serde_json::{Map, Value, json};
use support::models;

fn golden() -> Value {
    let path = format!("{}/tests/data/chat.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden file is committed")).expect("JSON")
}

fn messages(row: &Value) -> Vec<Message> {
    serde_json::from_value(row["messages"].clone()).expect("messages")
}

fn options(row: &Value) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: row["add_generation_prompt"] == true,
        tools: Some(row["tools"].clone()).filter(|tools| !tools.is_null()),
        variables: row["variables"].as_object().cloned().unwrap_or_default(),
        now: None,
    }
}

#[test]
#[ignore = "needs models"]
fn the_models_own_templates_render_as_the_reference() {
    let mut opened: HashMap<String, (Tokenizer, ChatTemplate)> = HashMap::new();
    let golden = golden();
    let rows = golden["models"].as_array().expect("rows");
    assert!(rows.len() >= 24);
    for row in rows {
        let name = row["model"].as_str().expect("a model");
        let (tokenizer, template) = opened.entry(name.to_owned()).or_insert_with(|| {
            let file = ModelFile::open(&models::path(name)).expect("the model opens");
            let tokenizer = Tokenizer::open(&file).expect("a tokenizer");
            let template = ChatTemplate::open(&file, &tokenizer).expect("a good template").expect("a template");
            (tokenizer, template)
        });
        let (messages, options) = (messages(row), options(row));
        let text = template.render(&messages, &options).expect("a text");
        assert_eq!(text, row["text"].as_str().expect("text"));
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).expect("ids");
        assert_eq!(tokenizer.encode(&text, true).expect("ids"), ids, "{text}");
        // The same with every message as a part of its own, as prompts are laid out.
        let (mut parts, mut rest) = (Vec::new(), text.as_str());
        for message in messages.iter().filter_map(|m| m.content.as_str()).map(str::trim).filter(|m| !m.is_empty()) {
            let Some((own, after)) = rest.split_once(message) else { continue };
            parts.extend([Part::Own(own), Part::Foreign(message)]);
            rest = after;
        }
        parts.push(Part::Own(rest));
        assert_eq!(tokenizer.encode_parts(Before::Nothing, &parts).expect("ids"), ids, "{text}, in parts");
    }
}

#[test]
fn the_corners_of_jinja_render_as_the_reference() {
    for row in golden()["templates"].as_array().expect("rows") {
        let source = row["template"].as_str().expect("a template");
        let template = ChatTemplate::new(source, Some("<bos>"), Some("<eos>")).expect("a good template");
        let result = template.render(&messages(row), &options(row));
        match row["error"].as_str() {
            None => assert_eq!(result.expect("a text"), row["text"].as_str().expect("text"), "{source}"),
            Some(message) => match result {
                Err(ChatError::Refused(words)) => assert_eq!(words, message),
                other => panic!("{source}: {other:?}"),
            },
        }
    }
}

/// A tokenizer of single bytes with two control tokens.
fn byte_tokenizer() -> Tokenizer {
    // GPT-2's alphabet: printable Latin-1 as it is, the rest from U+0100 on.
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut vocab = Map::new();
    for byte in 0..256u32 {
        let c = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.insert(char::from_u32(c).expect("a character").to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    let json = json!({
        "added_tokens": [special(256, "<|im_start|>"), special(257, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(&json.to_string(), None, None).expect("a tokenizer")
}

#[test]
fn bad_templates_are_errors() {
    for source in ["{% for %}", "{{ x", "{% if a %}", "{% endfor %}", "{% nonsense %}"] {
        assert!(matches!(ChatTemplate::new(source, None, None), Err(ChatError::Syntax(_))), "{source}");
    }
    for source in
        ["{{ messages.nothing.there }}", "{{ nobody() }}", "{{ messages | unheard }}", "{{ 1 / 0 }}", "{{ [] + 1 }}"]
    {
        let result = ChatTemplate::new(source, None, None)
            .and_then(|template| template.render(&[Message::new("user", "hi")], &RenderOptions::default()));
        assert!(matches!(result, Err(ChatError::Render(_) | ChatError::Syntax(_))), "{source}: {result:?}");
    }
    assert!(matches!(ChatTemplate::new(&" ".repeat(2 << 20), None, None), Err(ChatError::Syntax(_))));
}

#[test]
fn endless_and_swelling_templates_are_stopped() {
    let forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = 1 %}{% endfor %}{% endfor %}";
    let swelling = "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}";
    let recursive = "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    for source in [forever, swelling, recursive, "{{ 'x' * 1000000000000 }}"] {
        let template = ChatTemplate::new(source, None, None).expect("a template");
        let result = template.render(&[], &RenderOptions::default());
        assert!(matches!(result, Err(ChatError::Render(_))), "{source}");
    }
}

#[test]
fn json_is_charged_while_it_is_written() {
    let shared =
        "{% set ns = namespace(x=['xxxxxxxx']) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let wide = format!("{{% set s = ['{}'] * 99 %}}", "x".repeat(5000));
    let deep = "{% set ns = namespace(x=[]) %}{% for a in range(400) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for (source, words) in [
        (format!("{shared}{{{{ ns.x | tojson }}}}"), "fuel"),
        (format!("{shared}{{{{ ns.x | tojson(indent=2, separators=('', '')) }}}}"), "fuel"),
        (format!("{wide}{{{{ (s * 9999) | tojson }}}}"), "fuel"),
        (format!("{deep}{{{{ ns.x | tojson }}}}"), "levels"),
        ("{{ [1] | tojson(indent=9000000000) }}".into(), "indents"),
        ("{{ [1] | tojson(indent=18446744073709551615) }}".into(), "indents"),
    ] {
        let template = ChatTemplate::new(&source, None, None).expect("a template");
        let result = template.render(&[], &RenderOptions::default());
        assert!(matches!(&result, Err(ChatError::Render(why)) if why.contains(words)), "{source}: {result:?}");
    }
    let template = ChatTemplate::new("{{ {2: [], 'a': {}} | tojson }} {{ range(3) | tojson(indent=1) }}", None, None);
    let text = template.expect("a template").render(&[], &RenderOptions::default());
    assert_eq!(text.expect("a text"), "{\"2\": [], \"a\": {}} [\n 0,\n 1,\n 2\n]");
}

#[test]
fn the_date_is_the_callers() {
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", None, None).expect("a template");
    let now = Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_732_233_600));
    let text = template.render(&[], &RenderOptions { now, ..RenderOptions::default() });
    assert_eq!(text.expect("a text"), "22 Nov 2024");
}

#[test]
fn folders_hold_their_template_in_one_of_three_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = byte_tokenizer();
    let render = || {
        let template = ChatTemplate::from_folder(folder.path(), &tokenizer).expect("no error")?;
        Some(template.render(&[Message::new("user", "hi")], &RenderOptions::default()).expect("a text"))
    };
    assert_eq!(render(), None);
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(&config, json!({"bos_token": "<s>"}).to_string()).expect("written");
    assert_eq!(render(), None);
    std::fs::write(&config, json!({"chat_template": "one {{ messages[0].content }}"}).to_string()).expect("written");
    assert_eq!(render().as_deref(), Some("one hi"));
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]);
    std::fs::write(&config, json!({"chat_template": named}).to_string()).expect("written");
    assert_eq!(render().as_deref(), Some("two"));
    let alone = folder.path().join("chat_template.json");
    std::fs::write(&alone, json!({"chat_template": "alone"}).to_string()).expect("written");
    assert_eq!(render().as_deref(), Some("alone"));
    std::fs::write(&alone, json!({"chat_template": " \n"}).to_string()).expect("written");
    assert_eq!(render(), None, "an empty template would leave out what the user says");
    std::fs::remove_file(&alone).expect("removed");
    std::fs::write(folder.path().join("chat_template.jinja"), "\u{feff}three").expect("written");
    assert_eq!(render().as_deref(), Some("three"));
    std::fs::remove_file(folder.path().join("chat_template.jinja")).expect("removed");
    std::fs::write(&config, "{").expect("written");
    assert!(matches!(ChatTemplate::from_folder(folder.path(), &tokenizer), Err(ChatError::Read { .. })));
}

#[test]
fn a_fingerprint_is_of_the_source_and_its_tokens() {
    let of = |source, bos, eos| ChatTemplate::new(source, bos, eos).expect("a template").fingerprint();
    let one = of("a{{ bos_token }}", Some("<s>"), None);
    assert_eq!(one, of("a{{ bos_token }}", Some("<s>"), None));
    for other in [of("b{{ bos_token }}", Some("<s>"), None), of("a{{ bos_token }}", None, Some("<s>"))] {
        assert_ne!(one, other);
    }
}
