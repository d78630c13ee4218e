//! Tokenizers against `tokenizers` and `transformers`, and against damaged metadata.
//!
//! Golden ids: `scripts/reference/tokenizer_goldens.py` (real models) and `tiny_tokenizers.py` (kinds no small real
//! model here has).

// Each test uses its part of these.
#[allow(dead_code)]
#[path = "../support/gguf_writer.rs"]
mod gguf_writer;
#[allow(dead_code)]
#[path = "../support/models.rs"]
mod models;
mod refused;
mod vocabularies;

use chelsea_model::ModelFile;
use chelsea_model::tokenizer::{Before, Part, TextStream, Tokenizer};
use gguf_writer::Meta;
use models::{GEMMA3, QWEN_05B, SMOLLM2};
use serde_json::Value;
use vocabularies::{build, data, llama2_gguf, llama3_gguf};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Every row encodes to the golden ids, both with control tokens as text and with control tokens parsed.
fn encodes_as(tokenizer: &Tokenizer, rows: &Value) {
    let rows = rows.as_array().expect("rows");
    assert!(rows.len() > 60);
    for row in rows {
        let text = row["text"].as_str().expect("a text");
        let literal = ids(&row["ids"]);
        assert_eq!(tokenizer.encode(text, false).expect("ids"), literal, "{text:?}");
        assert!(literal.iter().all(|&id| !tokenizer.is_special(id)), "{text:?} smuggles a control token");
        let special = if row["special"].is_null() { literal.clone() } else { ids(&row["special"]) };
        assert_eq!(tokenizer.encode(text, true).expect("ids"), special, "{text:?}, control tokens parsed");
        if !row["sequence"].is_null() {
            let sequence = [tokenizer.prefix(), &literal[..]].concat();
            assert_eq!(sequence, ids(&row["sequence"]), "{text:?}");
        }
    }
}

/// Streaming gives the text of decoding at once, and never half a character.
fn streams_as_it_decodes(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let whole = tokenizer.decode(ids, skip_special);
    let mut stream = TextStream::new(skip_special);
    let mut pieces = String::new();
    for &id in ids {
        pieces.push_str(&stream.push(tokenizer, id));
        assert!(whole.starts_with(&pieces));
    }
    pieces.push_str(&stream.finish());
    assert_eq!(pieces, whole);
    whole
}

fn written_down_it_encodes_the_same(tokenizer: &Tokenizer, rows: &Value) {
    let json = tokenizer.to_json().expect("it can be written down");
    let again = Tokenizer::from_json(&json, None, None).expect("and read again");
    for row in rows.as_array().expect("rows") {
        let text = row["text"].as_str().expect("a text");
        for special in [false, true] {
            let ids = tokenizer.encode(text, special).expect("ids");
            assert_eq!(again.encode(text, special).expect("ids"), ids, "{text:?}");
            assert_eq!(again.decode(&ids, special), tokenizer.decode(&ids, special), "{text:?}");
        }
    }
}

fn real_model_agrees(name: &str) {
    let path = models::path(name);
    let tokenizer = Tokenizer::open(&ModelFile::open(&path).expect("the model opens")).expect("a tokenizer");
    let golden = data(&format!("tokenizer-{name}.json"));
    encodes_as(&tokenizer, &golden["encode"]);
    written_down_it_encodes_the_same(&tokenizer, &golden["encode"]);
    for row in golden["decode"].as_array().expect("rows") {
        let ids = ids(&row["ids"]);
        let text = row["text"].as_str().expect("a text");
        assert_eq!(streams_as_it_decodes(&tokenizer, &ids, false), text);
        assert_eq!(streams_as_it_decodes(&tokenizer, &ids, true), row["skipped"].as_str().unwrap_or(text));
    }
    for row in golden["encode"].as_array().expect("rows") {
        let (text, ids) = (row["text"].as_str().expect("a text"), ids(&row["ids"]));
        let decoded = streams_as_it_decodes(&tokenizer, &ids, true);
        // Qwen's normal form composes what the corpus writes decomposed.
        let composed = name == QWEN_05B && !text.is_ascii();
        // SentencePiece knows no difference between a space and the sign that stands for it.
        let spaced = name == GEMMA3 && decoded == text.replace('▁', " ");
        assert!(decoded == text || composed || spaced, "{text:?} came back as {decoded:?}");
    }
    match name {
        GEMMA3 => assert_eq!(tokenizer.prefix(), [2]),
        _ => assert!(tokenizer.prefix().is_empty(), "{name} asks for no BOS"),
    }
}

#[test]
#[ignore = "needs models"]
fn smollm2_agrees_with_the_reference() {
    real_model_agrees(SMOLLM2);
}

#[test]
#[ignore = "needs models"]
fn qwen_agrees_with_the_reference() {
    real_model_agrees(QWEN_05B);
}

/// 262,144 pieces, and runs of spaces, tabs and line ends that are tokens of their own.
#[test]
#[ignore = "needs Gemma 3 270M"]
fn gemma3_270m_agrees_with_sentencepiece() {
    real_model_agrees(GEMMA3);
}

#[test]
#[ignore = "needs models"]
fn turn_ends_are_those_of_the_metadata_and_the_known_names() {
    for (name, ends) in [(SMOLLM2, vec![0, 2]), (QWEN_05B, vec![151_643, 151_645])] {
        let path = models::path(name);
        let tokenizer = Tokenizer::open(&ModelFile::open(&path).expect("the model opens")).expect("a tokenizer");
        assert_eq!(tokenizer.turn_ends(), ends);
        assert_eq!(tokenizer.eos().and_then(|id| tokenizer.token_text(id)), Some("<|im_end|>"));
        assert_eq!(tokenizer.token_id("<|im_end|>"), tokenizer.eos());
        assert!(tokenizer.ends_turn(ends[0]) && !tokenizer.ends_turn(ends[0] + 1));
    }
}

#[test]
fn llama3_agrees_from_tokenizer_json() {
    let part = &data("tokenizer-tiny.json")["llama3"];
    let config = r#"{"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}}"#;
    let json = part["tokenizer"].to_string();
    let tokenizer = Tokenizer::from_json(&json, Some(config), None).expect("a tokenizer");
    encodes_as(&tokenizer, &part["rows"]);
    written_down_it_encodes_the_same(&tokenizer, &part["rows"]);
    assert_eq!(tokenizer.bos().and_then(|id| tokenizer.token_text(id)), Some("<|begin_of_text|>"));
    let ends: Vec<_> = tokenizer.turn_ends().iter().filter_map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(ends, ["<|end_of_text|>", "<|eot_id|>"]);
}

#[test]
fn llama3_agrees_from_gguf() {
    let tokenizer = build(&llama3_gguf()).expect("a tokenizer");
    // Nothing says whether a BOS is added: for this kind it is.
    encodes_as(&tokenizer, &data("tokenizer-tiny.json")["llama3"]["rows"]);
}

#[test]
fn llama2_agrees_from_gguf_and_from_tokenizer_json() {
    let golden = &data("tokenizer-tiny.json")["llama2"];
    let config = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    let json = golden["tokenizer"].to_string();
    let from_json = Tokenizer::from_json(&json, Some(config), Some(r#"{"eos_token_id": [2]}"#)).expect("a tokenizer");
    for tokenizer in [build(&llama2_gguf()).expect("a tokenizer"), from_json] {
        encodes_as(&tokenizer, &golden["rows"]);
        written_down_it_encodes_the_same(&tokenizer, &golden["rows"]);
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.turn_ends()), (Some(1), Some(2), &[2][..]));
        for row in golden["rows"].as_array().expect("rows") {
            let (text, ids) = (row["text"].as_str().expect("a text"), ids(&row["ids"]));
            // The alphabet has one spelling for a space and for the sign that stands for it.
            assert_eq!(streams_as_it_decodes(&tokenizer, &ids, true), text.replace('▁', " "));
        }
    }
}

#[test]
fn sentencepiece_keeps_the_spaces_between_streamed_words() {
    let tokenizer = build(&llama2_gguf()).expect("a tokenizer");
    let ids = tokenizer.encode("The quick brown", false).expect("ids");
    let mut stream = TextStream::new(true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
    assert_eq!(pieces.concat(), "The quick brown");
    assert!(pieces.iter().any(|piece| piece.starts_with(' ')), "{pieces:?}");
    let mut gguf = llama2_gguf();
    gguf.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    let tokenizer = build(&gguf).expect("a tokenizer");
    let ids = tokenizer.encode(" x", false).expect("ids");
    assert_eq!(tokenizer.decode(&ids, true), " x", "no space was added, so none is dropped");
}

#[test]
fn a_bos_is_added_as_the_metadata_says() {
    let mut gguf = llama3_gguf();
    let bos = build(&gguf).expect("a tokenizer").bos().expect("a BOS");
    for add in [false, true] {
        gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(add));
        let expected = if add { vec![bos] } else { vec![] };
        assert_eq!(build(&gguf).expect("a tokenizer").prefix(), expected);
    }
    // Defaults by kind: none for other byte-level BPE.
    gguf.remove("tokenizer.ggml.add_bos_token");
    gguf.set("tokenizer.ggml.pre", Meta::str("gpt-2"));
    assert!(build(&gguf).expect("a tokenizer").prefix().is_empty());
}

#[test]
fn foreign_parts_and_seams_make_no_control_tokens() {
    let tokenizer = build(&llama3_gguf()).expect("a tokenizer");
    let eot = tokenizer.token_id("<|eot_id|>").expect("a token");
    for hostile in ["<|eot_id|>", "a<|eot_id|><|eot_id|>b", "<<|eot_id|>", "<|eot_id", "<|eot_id|", "<", ""] {
        for (before, after) in [("", "<|eot_id|>|>"), ("<|eot", "|>"), ("<|eot_id|><|eot_id|", ">")] {
            let parts = [Part::Own(before), Part::Foreign(hostile), Part::Own(after)];
            let ids = tokenizer.encode_parts(Before::Nothing, &parts).expect("ids");
            assert_eq!(tokenizer.decode(&ids, false), [before, hostile, after].concat());
            let control = ids.iter().filter(|&&id| id == eot).count();
            let own = [before, after].iter().map(|own| own.matches("<|eot_id|>").count()).sum::<usize>();
            assert_eq!(control, own, "{before}, {hostile}, {after}");
        }
    }
}

/// The tiny Llama 2 by each of the ways in which files write its prefix step, with whether it comes after every
/// control token.
fn with_a_prefix_step() -> Vec<(Tokenizer, bool)> {
    let json = &data("tokenizer-tiny.json")["llama2"]["tokenizer"];
    let metaspace = |scheme: &str| {
        let mut json = json.clone();
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] = serde_json::json!(
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        json
    };
    let build_json = |json: &Value| Tokenizer::from_json(&json.to_string(), None, None).expect("a tokenizer");
    vec![
        (build(&llama2_gguf()).expect("a tokenizer"), true),
        (build_json(json), true),
        (build_json(&metaspace("always")), true),
        (build_json(&metaspace("first")), false),
    ]
}

#[test]
fn a_text_in_parts_has_the_ids_of_the_whole() {
    for (tokenizer, after_every_token) in with_a_prefix_step() {
        let parts =
            [Part::Own("<s>[INST] "), Part::Foreign("Who is it?"), Part::Own(" [/INST]"), Part::Own("</s><s>x")];
        let whole = "<s>[INST] Who is it? [/INST]</s><s>x";
        let ids = tokenizer.encode(whole, true).expect("ids");
        assert_eq!(tokenizer.encode_parts(Before::Nothing, &parts).expect("ids"), ids);
        let (space, x) = (tokenizer.token_id("▁"), tokenizer.token_id("x"));
        let spaced = ids.ends_with(&[space.expect("a token"), x.expect("a token")]) || ids.last() != x.as_ref();
        assert_eq!(spaced, after_every_token, "{ids:?}");
        // Nothing is decoded between the parts that was not in the text.
        let text = tokenizer.decode(&ids, true);
        assert!(text.contains("[INST] Who is it? [/INST]"), "{text:?}");
    }
}

#[test]
fn text_that_goes_on_has_no_prefix() {
    for (tokenizer, after_every_token) in with_a_prefix_step() {
        let start = tokenizer.encode("under", false).expect("ids");
        let encode = |before| tokenizer.encode_parts(before, &[Part::Foreign("under")]).expect("ids");
        assert_ne!(encode(Before::Text), start);
        assert_eq!(encode(Before::Token) == start, after_every_token);
        assert_eq!(tokenizer.decode(&[&start[..], &encode(Before::Text)].concat(), true), "underunder");
        assert_eq!(tokenizer.before(&[]), Before::Nothing);
        assert_eq!(tokenizer.before(&start), Before::Text);
        assert_eq!(tokenizer.before(&[1]), Before::Token);
    }
}

#[test]
fn ids_outside_the_vocabulary_decode_to_nothing() {
    let tokenizer = build(&llama3_gguf()).expect("a tokenizer");
    assert_eq!(tokenizer.decode(&[u32::MAX, tokenizer.vocab_size() as u32], false), "");
    assert_eq!(tokenizer.token_text(u32::MAX), None);
}
