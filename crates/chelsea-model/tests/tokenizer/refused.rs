//! Metadata and `tokenizer.json` files that are damaged, or ask for what is not built.

use super::gguf_writer::{GgufWriter, Meta};
use super::vocabularies::{build, data, llama2_gguf, llama3_gguf};
use chelsea_model::tokenizer::{Tokenizer, TokenizerError};
use serde_json::Value;

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

/// Some published files do not call the tokens special that mark turns.
#[test]
fn text_becomes_no_token_that_marks_turns_whatever_the_file_calls_it() {
    let mut json = data("tokenizer-tiny.json")["llama3"]["tokenizer"].clone();
    let tokens = json["added_tokens"].as_array_mut().expect("tokens");
    for (id, content) in [(700, "<|turn|>"), (701, "<｜User｜>"), (702, "<think>")] {
        tokens.push(serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": false}));
    }
    let tokenizer = Tokenizer::from_json(&json.to_string(), None, None).expect("a tokenizer");
    for (id, content) in [(700, "<|turn|>"), (701, "<｜User｜>")] {
        assert!(tokenizer.is_special(id));
        assert_eq!(tokenizer.encode(content, true).expect("ids"), [id]);
        assert!(!tokenizer.encode(content, false).expect("ids").contains(&id), "{content} is text");
    }
    assert!(!tokenizer.is_special(702));
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Tokenizer::from_folder(folder.path()).expect_err("nothing there");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

/// As other programs do: what is left out is said in a warning.
#[test]
fn ids_outside_the_vocabulary_are_left_out() {
    let whole = build(&llama3_gguf()).expect("a tokenizer");
    for key in ["bos", "eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id")) {
        for id in [1 << 30, u32::MAX] {
            let mut gguf = llama3_gguf();
            gguf.set(&key, Meta::U32(id));
            let tokenizer = build(&gguf).expect("a tokenizer all the same");
            assert_eq!(tokenizer.bos(), whole.bos().filter(|_| !key.contains("bos")), "{key}");
            assert_eq!(tokenizer.prefix().is_empty(), key.contains("bos"), "{key}");
            assert_eq!(tokenizer.eos(), whole.eos().filter(|_| !key.contains("eos")), "{key}");
            assert!(tokenizer.turn_ends().iter().all(|&end| (end as usize) < tokenizer.vocab_size()));
        }
    }
    let json = data("tokenizer-tiny.json")["llama2"]["tokenizer"].to_string();
    let tokenizer = Tokenizer::from_json(&json, None, Some(r#"{"eos_token_id": [2, 4294967298, 99999]}"#));
    assert_eq!(tokenizer.expect("a tokenizer").turn_ends(), [2]);
}

#[test]
fn a_file_that_names_no_pre_tokenizer_is_read_as_its_family_is() {
    let mut gguf = llama3_gguf();
    gguf.remove("tokenizer.ggml.pre");
    let (named, guessed) = (build(&llama3_gguf()).expect("a tokenizer"), build(&gguf).expect("a tokenizer"));
    for text in ["Don't 12345 stop.\n\n  Go", "a\n"] {
        assert_eq!(guessed.encode(text, false).expect("ids"), named.encode(text, false).expect("ids"), "{text:?}");
    }
    gguf.set("tokenizer.ggml.pre", Meta::str("default"));
    assert!(build(&gguf).is_err(), "a name that is not known is no guess");
}

#[test]
fn a_fingerprint_changes_with_what_ids_mean() {
    let of = |damage: &dyn Fn(&mut GgufWriter)| {
        let mut gguf = llama3_gguf();
        damage(&mut gguf);
        build(&gguf).expect("a tokenizer").fingerprint()
    };
    let whole = of(&|_| ());
    assert_eq!(whole, of(&|_| ()));
    let renamed = of(&|g| {
        let Some((_, Meta::Strs(tokens))) = g.metadata.iter_mut().find(|m| m.0 == "tokenizer.ggml.tokens") else {
            panic!("tokens")
        };
        let last = tokens.len() - 1;
        tokens[last] = "<|another|>".into();
    });
    let other_end = of(&|g| _ = g.set("tokenizer.ggml.eot_token_id", Meta::U32(3)));
    let no_bos = of(&|g| _ = g.set("tokenizer.ggml.add_bos_token", Meta::Bool(false)));
    for other in [renamed, other_end, no_bos] {
        assert_ne!(whole, other);
    }
}
