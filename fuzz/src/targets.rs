//! The functions under test. Each says whether it took the bytes for valid; what matters is that it returns.

use std::path::Path;

use chelsea_kv::snapshot;
use chelsea_model::chat::{ChatTemplate, Message, RenderOptions};
use chelsea_model::gguf::Gguf;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Config, ModelFile};

/// A named target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus.
    pub name: &'static str,
    /// Whether it takes the bytes for valid.
    pub run: fn(&[u8]) -> bool,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "gguf", run: gguf },
    Target { name: "safetensors", run: safetensors },
    Target { name: "config", run: config },
    Target { name: "tokenizer", run: tokenizer },
    Target { name: "snapshot", run: snapshot },
];

/// The target called `name`.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A GGUF file: its header, the configuration, tokenizer and chat template in its metadata, and the model file.
pub fn gguf(bytes: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(bytes) else { return false };
    for tensor in gguf.tensors() {
        // Whatever the header says, the data lies inside the file.
        assert_eq!(tensor.data(bytes).len() as u64, tensor.bytes);
    }
    let is_model = Config::from_gguf(&gguf, None).is_ok() && opens(|folder| folder.join("m.gguf"), bytes, None);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        use_tokenizer(&tokenizer);
        if let Ok(Some(template)) = ChatTemplate::from_gguf(&gguf, &tokenizer) {
            // An error is a fine answer: templates are programs.
            let _ = template.render(&[Message::new("user", "hello")], &RenderOptions::default());
        }
    }
    is_model
}

/// A safetensors file beside a fixed `config.json`.
pub fn safetensors(bytes: &[u8]) -> bool {
    opens(|folder| folder.join("model.safetensors"), bytes, Some(crate::seeds::CONFIG))
}

/// A `config.json`.
pub fn config(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Config::from_json(text).is_ok())
}

/// A `tokenizer.json`.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(tokenizer) = Tokenizer::from_json(text, None, None) else { return false };
    use_tokenizer(&tokenizer);
    true
}

/// A saved cache: as it is, and with its checksums made right, so that what lies behind them is reached.
pub fn snapshot(bytes: &[u8]) -> bool {
    let as_it_is = load_snapshot(bytes);
    let mut sealed = bytes.to_vec();
    snapshot::reseal(&mut sealed);
    load_snapshot(&sealed) || as_it_is
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    for text in ["Hello, 123 wörld!\n\n  ", "<|im_start|>user 🦀"] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            tokenizer.decode(&ids, false);
        }
    }
    tokenizer.decode(&[0, 1, u32::MAX], true);
}

/// Whether a model opens from `bytes` under the path that `place` gives inside a folder.
fn opens(place: impl Fn(&Path) -> std::path::PathBuf, bytes: &[u8], config: Option<&str>) -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let path = place(folder.path());
    let configured = config.is_none_or(|text| std::fs::write(folder.path().join("config.json"), text).is_ok());
    configured && std::fs::write(&path, bytes).is_ok() && ModelFile::open(&path).is_ok()
}

/// Caches up to this many numbers a token are also used, not only read.
const USABLE: usize = 4096;

fn load_snapshot(bytes: &[u8]) -> bool {
    let Ok(parsed) = snapshot::parse(bytes) else { return false };
    let summary = parsed.summary();
    assert_eq!(summary.bytes, bytes.len() as u64);
    let Ok((mut cache, info)) = parsed.cache(None) else { return false };
    assert_eq!(info.tokens.len(), cache.tokens());
    let shape = summary.shape;
    let numbers = shape.layers * (shape.q_heads + shape.kv_heads) * shape.head_dim;
    if numbers <= USABLE {
        let token = vec![0.5; shape.kv_heads * shape.head_dim];
        let queries = vec![0.5; shape.q_heads * shape.head_dim];
        let mut out = queries.clone();
        for layer in 0..shape.layers {
            if cache.append(layer, &token, &token).is_ok() {
                cache.attend(layer, &queries, &mut out);
            }
        }
        cache.compact();
    }
    true
}
