//! Tokenizers against `tokenizers` and `transformers`, and against damaged metadata.
//!
//! Golden ids: `scripts/reference/tokenizer_goldens.py` (real models) and `tiny_tokenizers.py` (kinds no small real
//! model here has).

#[allow(dead_code)] // each test uses its part
mod support {
    pub mod gguf_writer;
    pub mod models;
}

use chelsea_model::ModelFile;
use chelsea_model::gguf::Gguf;
use chelsea_model::tokenizer::{Before, Part, TextStream, Tokenizer, TokenizerError};
use serde_json::Value;
use support::gguf_writer::{GgufWriter, Meta};
use support::models::{self, QWEN_05B, SMOLLM2};

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden file is committed")).expect("JSON")
}

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
    let Some(path) = models::path(name) else { return };
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
        assert!(decoded == text || composed, "{text:?} came back as {decoded:?}");
    }
    assert!(tokenizer.prefix().is_empty(), "neither model asks for a BOS");
}

#[test]
fn smollm2_agrees_with_the_reference() {
    real_model_agrees(SMOLLM2);
}

#[test]
fn qwen_agrees_with_the_reference() {
    real_model_agrees(QWEN_05B);
}

#[test]
fn turn_ends_are_those_of_the_metadata_and_the_known_names() {
    for (name, ends) in [(SMOLLM2, vec![0, 2]), (QWEN_05B, vec![151_643, 151_645])] {
        let Some(path) = models::path(name) else { continue };
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

/// The same vocabulary as a GGUF says it.
fn llama3_gguf() -> GgufWriter {
    let json = &data("tokenizer-tiny.json")["llama3"]["tokenizer"];
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (token, id) in json["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens.push((id.as_u64().expect("an id"), token.clone(), 1));
    }
    for token in json["added_tokens"].as_array().expect("added tokens") {
        tokens.push((token["id"].as_u64().expect("an id"), token["content"].as_str().expect("text").into(), 3));
    }
    tokens.sort();
    let merge = |merge: &Value| {
        let half = |i: usize| merge[i].as_str().expect("half a merge");
        merge.as_str().map_or_else(|| format!("{} {}", half(0), half(1)), str::to_owned)
    };
    let merges = json["model"]["merges"].as_array().expect("merges").iter().map(merge).collect();
    let id = |name: &str| tokens.iter().find(|token| token.1 == name).expect("a token").0 as u32;
    let mut gguf = GgufWriter::new();
    gguf.set("tokenizer.ggml.model", Meta::str("gpt2"))
        .set("tokenizer.ggml.pre", Meta::str("llama-bpe"))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(id("<|begin_of_text|>")))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(id("<|end_of_text|>")))
        .set("tokenizer.ggml.tokens", Meta::Strs(tokens.iter().map(|token| token.1.clone()).collect()))
        .set("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|token| token.2).collect()))
        .set("tokenizer.ggml.merges", Meta::Strs(merges));
    gguf
}

fn build(gguf: &GgufWriter) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(&Gguf::parse(&gguf.build()).expect("a well-formed file"))
}

#[test]
fn llama3_agrees_from_gguf() {
    let tokenizer = build(&llama3_gguf()).expect("a tokenizer");
    // Nothing says whether a BOS is added: for this kind it is.
    encodes_as(&tokenizer, &data("tokenizer-tiny.json")["llama3"]["rows"]);
}

fn llama2_gguf() -> GgufWriter {
    let pieces = data("tokenizer-tiny.json")["llama2"]["pieces"].as_array().expect("pieces").clone();
    let piece = |p: &Value| p[0].as_str().expect("a piece").to_owned();
    let mut gguf = GgufWriter::new();
    gguf.set("tokenizer.ggml.model", Meta::str("llama"))
        .set("tokenizer.ggml.tokens", Meta::Strs(pieces.iter().map(piece).collect()))
        .set("tokenizer.ggml.scores", Meta::F32s(pieces.iter().map(|p| p[1].as_f64().expect("f") as f32).collect()))
        .set(
            "tokenizer.ggml.token_type",
            Meta::I32s(pieces.iter().map(|p| p[2].as_i64().expect("i") as i32).collect()),
        );
    gguf
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

/// A way to break a file, and the error it must yield.
type Damage = (&'static str, fn(&mut GgufWriter), fn(&TokenizerError) -> bool);

#[test]
fn damaged_metadata_is_named() {
    let strings = |n: usize| Meta::Strs((0..n).map(|i| format!("t{i}")).collect());
    let cases: &[Damage] = &[
        ("no model", |g| g.remove("tokenizer.ggml.model"), |e| matches!(e, TokenizerError::Gguf(_))),
        ("no tokens", |g| g.remove("tokenizer.ggml.tokens"), |e| matches!(e, TokenizerError::Gguf(_))),
        ("no merges", |g| g.remove("tokenizer.ggml.merges"), |e| matches!(e, TokenizerError::Gguf(_))),
        (
            "tokens of another type",
            |g| _ = g.set("tokenizer.ggml.tokens", Meta::U32(7)),
            |e| matches!(e, TokenizerError::Gguf(_)),
        ),
        ("empty", |g| _ = g.set("tokenizer.ggml.tokens", Meta::Strs(vec![])), |e| matches!(e, TokenizerError::Empty)),
        (
            "another model",
            |g| _ = g.set("tokenizer.ggml.model", Meta::str("t5")),
            |e| matches!(e, TokenizerError::Unsupported { found, .. } if found == "t5"),
        ),
        (
            "another pre-tokenizer",
            |g| _ = g.set("tokenizer.ggml.pre", Meta::str("poro-chat")),
            |e| matches!(e, TokenizerError::Unsupported { found, .. } if found == "poro-chat"),
        ),
        (
            "no pre-tokenizer",
            |g| g.remove("tokenizer.ggml.pre"),
            |e| matches!(e, TokenizerError::Unsupported { found, .. } if found == "default"),
        ),
        (
            "types of another length",
            |g| _ = g.set("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1])),
            |e| matches!(e, TokenizerError::Length { found: 2, .. }),
        ),
        (
            "unknown type",
            |g| {
                let Some((_, Meta::I32s(types))) = g.metadata.iter_mut().find(|m| m.0.ends_with("token_type")) else {
                    panic!("types")
                };
                types[3] = -1;
            },
            |e| matches!(e, TokenizerError::TokenType { id: 3, ty: -1 }),
        ),
        (
            "merge of unknown tokens",
            |g| _ = g.set("tokenizer.ggml.merges", Meta::Strs(vec!["zzzzz qqqqq".into()])),
            |e| matches!(e, TokenizerError::Merge { index: 0, .. }),
        ),
        (
            // Both halves are tokens and longer together than any token.
            "merge that makes no token",
            |g| {
                g.set("tokenizer.ggml.merges", Meta::Strs(vec!["<|start_header_id|> <|start_header_id|>".into()]));
            },
            |e| matches!(e, TokenizerError::Merge { index: 0, .. }),
        ),
        (
            "merge without a space",
            |g| _ = g.set("tokenizer.ggml.merges", Meta::Strs(vec!["ab".into()])),
            |e| matches!(e, TokenizerError::Merge { index: 0, .. }),
        ),
        (
            "empty merge",
            |g| _ = g.set("tokenizer.ggml.merges", Meta::Strs(vec![String::new()])),
            |e| matches!(e, TokenizerError::Merge { index: 0, .. }),
        ),
        (
            "BOS outside the vocabulary",
            |g| _ = g.set("tokenizer.ggml.bos_token_id", Meta::U32(1 << 30)),
            |e| matches!(e, TokenizerError::IdOutOfRange { .. }),
        ),
        (
            "turn end outside the vocabulary",
            |g| _ = g.set("tokenizer.ggml.eot_token_id", Meta::U32(1 << 30)),
            |e| matches!(e, TokenizerError::IdOutOfRange { .. }),
        ),
        (
            "a BOS is asked for, but there is none",
            |g| g.remove("tokenizer.ggml.bos_token_id"),
            |e| matches!(e, TokenizerError::Gguf(_)),
        ),
        (
            "a token of many kilobytes",
            |g| {
                g.set("tokenizer.ggml.tokens", Meta::Strs(vec!["x".repeat(5000)]));
                g.remove("tokenizer.ggml.token_type");
            },
            |e| matches!(e, TokenizerError::TooLarge { found: 5000, .. }),
        ),
    ];
    for (what, damage, expected) in cases {
        let mut gguf = llama3_gguf();
        damage(&mut gguf);
        match build(&gguf) {
            Err(error) => assert!(expected(&error), "{what}: {error}"),
            Ok(_) => panic!("{what}: accepted"),
        }
    }
    let mut gguf = llama2_gguf();
    gguf.set("tokenizer.ggml.scores", Meta::F32s(vec![0.0]));
    assert!(matches!(build(&gguf), Err(TokenizerError::Length { found: 1, .. })));
    gguf.set("tokenizer.ggml.tokens", strings(1));
    assert!(build(&gguf).is_err(), "types of another length");
}

#[test]
fn damaged_tokenizer_json_is_named() {
    let good = data("tokenizer-tiny.json")["llama3"]["tokenizer"].clone();
    let build = |json: &Value| Tokenizer::from_json(&json.to_string(), None, None);
    assert!(build(&good).is_ok());
    assert!(matches!(Tokenizer::from_json("{", None, None), Err(TokenizerError::Json(_))));
    assert!(matches!(build(&Value::Null), Err(TokenizerError::Json(_))));
    let damages: &[(&str, Value)] = &[
        ("/model/type", "Unigram".into()),
        ("/model/vocab", Value::Null),
        ("/model/vocab", serde_json::json!({})),
        ("/model/vocab", serde_json::json!({"a": 1u64 << 40})),
        ("/model/vocab", serde_json::json!({"a": -1})),
        ("/model/merges", serde_json::json!(["a"])),
        ("/model/merges", serde_json::json!([["a", "b", "c"]])),
        ("/model/merges", serde_json::json!([["<|start_header_id|>", "<|start_header_id|>"]])),
        ("/model/continuing_subword_prefix", "##".into()),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(".into()),
        ("/pre_tokenizer/type", "Unheard".into()),
        ("/decoder/type", "WordPiece".into()),
        ("/post_processor/processors/1/type", "BertProcessing".into()),
        ("/post_processor/processors/1/special_tokens", serde_json::json!({})),
        ("/post_processor/processors/1/special_tokens/<|begin_of_text|>/ids", serde_json::json!([99_999])),
        ("/added_tokens/0/id", serde_json::json!(0)),
        ("/added_tokens/0", serde_json::json!("text")),
    ];
    for (at, value) in damages {
        let mut json = good.clone();
        let slot = at.rsplit_once('/').map(|(parent, key)| (json.pointer_mut(parent).expect("a part"), key));
        match slot {
            Some((Value::Array(items), key)) => items[key.parse::<usize>().expect("an index")] = value.clone(),
            Some((parent, key)) => parent[key] = value.clone(),
            None => panic!("a path"),
        }
        assert!(build(&json).is_err(), "{at} = {value} was accepted");
    }
}

#[test]
fn kinds_of_steps_that_are_not_built_are_named() {
    let good = data("tokenizer-tiny.json")["llama3"]["tokenizer"].clone();
    let precompiled = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "%%%"});
    let empty = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": ""});
    let fixed = serde_json::json!({"type": "FixedLength", "length": 0});
    let within =
        |list: &str, step: &Value| serde_json::json!({"type": "Sequence", list: [{"type": "Sequence", list: [step]}]});
    for (part, value, kind) in [
        ("normalizer", precompiled.clone(), "Precompiled"),
        ("normalizer", empty, "Precompiled"),
        ("normalizer", within("normalizers", &precompiled), "Precompiled"),
        ("pre_tokenizer", fixed.clone(), "FixedLength"),
        ("pre_tokenizer", within("pretokenizers", &fixed), "FixedLength"),
        ("pre_tokenizer", serde_json::json!({"length": 0}), "none"),
        ("decoder", serde_json::json!({"type": "CTC"}), "CTC"),
    ] {
        let mut json = good.clone();
        json[part] = value;
        let error = Tokenizer::from_json(&json.to_string(), None, None).expect_err(kind);
        assert!(matches!(&error, TokenizerError::Unsupported { found, .. } if found == kind), "{part}: {error}");
    }
}

#[test]
fn added_tokens_of_white_space_take_in_none_beside_them() {
    let mut json = data("tokenizer-tiny.json")["llama3"]["tokenizer"].clone();
    json["added_tokens"][0]["rstrip"] = true.into();
    let added = |content: &str, normalized: bool| {
        serde_json::json!({"id": 605, "content": content, "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": normalized, "special": false})
    };
    let build = |json: &Value| Tokenizer::from_json(&json.to_string(), None, None);
    for (content, normalized) in [("  ", false), ("\u{3000}", true), ("§§", true)] {
        let mut json = json.clone();
        // Normalised, the last one is white space too.
        json["normalizer"] = serde_json::json!({"type": "Replace", "pattern": {"String": "§§"}, "content": " "});
        json["added_tokens"].as_array_mut().expect("tokens").push(added(content, normalized));
        let error = build(&json).expect_err(content).to_string();
        assert!(error.contains("strip"), "{error}");
    }
    json["added_tokens"].as_array_mut().expect("tokens").push(added(" x", false));
    let tokenizer = build(&json).expect("a tokenizer");
    tokenizer.encode("<|begin_of_text|>    x   x  <|begin_of_text|>  ", true).expect("ids");
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Tokenizer::from_folder(folder.path()).expect_err("nothing there");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}
