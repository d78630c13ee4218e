//! The functions under test. Each says whether it took the bytes for valid; what matters is that it returns.

use std::path::Path;

use chelsea_eval::tasks::jsonl::{self, JsonlOptions};
use chelsea_eval::{Probe, results};
use chelsea_kv::snapshot;
use chelsea_linear::{GgmlType, Linear, Products, dequantize};
use chelsea_model::chat::{ChatTemplate, Message, RenderOptions};
use chelsea_model::gguf::Gguf;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Config, ModelFile};
use chelsea_serve::transfer::stream;
use std::io::Cursor;
use std::sync::Once;

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
    Target { name: "handover", run: handover },
    Target { name: "samples", run: samples },
    Target { name: "results", run: results },
    Target { name: "weights", run: weights },
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
    let config = Config::from_gguf(&gguf.metadata, gguf.embedding_rows(), None);
    let is_model = config.is_ok() && opens(|folder| folder.join("m.gguf"), bytes, None);
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

/// A cache as another server sends it: as it is, and with its lengths and checksums made right.
pub fn handover(bytes: &[u8]) -> bool {
    let as_it_is = take_over(bytes);
    let mut sealed = bytes.to_vec();
    stream::reseal(&mut sealed);
    take_over(&sealed) || as_it_is
}

fn take_over(bytes: &[u8]) -> bool {
    let Ok((trailer, snapshot)) = stream::split(&mut Cursor::new(bytes), bytes.len() as u64) else { return false };
    assert!(trailer.logits.iter().all(|logit| logit.is_finite()));
    // What was read can be sent on, and is then the same.
    let again = stream::encode(&trailer.about, &trailer.logits).expect("JSON");
    assert_eq!(stream::parse_trailer(&again).expect("what was written"), trailer);
    load_snapshot(&bytes[..snapshot as usize])
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

/// Caches up to this many numbers per token are also used, not only read.
const USABLE: usize = 4096;

fn load_snapshot(bytes: &[u8]) -> bool {
    // Whatever policy a snapshot names is known, as it is to the command.
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(chelsea_baselines::register);
    let Ok(parsed) = snapshot::parse(bytes) else { return false };
    let summary = parsed.summary();
    assert_eq!(summary.bytes, bytes.len() as u64);
    let Ok((mut cache, info)) = parsed.cache(None) else { return false };
    assert_eq!(info.tokens.len(), cache.tokens());
    let shape = summary.shape;
    let widths = shape.layers().iter().map(|layer| layer.query_width() + layer.key_width() + layer.value_width());
    let numbers: usize = widths.sum();
    if numbers <= USABLE {
        for (layer, spec) in shape.layers().iter().enumerate() {
            let [key, value, query] = [spec.key_width(), spec.value_width(), spec.query_width()].map(|n| vec![0.5; n]);
            if cache.append(layer, &key, &value).is_ok() {
                let out = &mut vec![0.0; spec.output_width()];
                cache.attend(layer, &query, out).expect("queries of the token that was just appended");
            }
        }
        cache.compact().expect("a pool without a limit has room");
    }
    true
}

/// Lines of samples, in the formats of RULER and LongBench. What is read is also scored.
pub fn samples(bytes: &[u8]) -> bool {
    let mut read = false;
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let Ok(sample) = jsonl::parse_line(line, "niah", number + 1, &JsonlOptions::default()) else { continue };
        read = true;
        assert_eq!(sample.key(), sample.key());
        for probe in &sample.probes {
            let Probe::Ask(question) = probe else { continue };
            assert!(!question.expected.is_empty() && (1..=65_536).contains(&question.max_tokens));
            let score = question.metric.score("It is 12. Paragraph 3, the fox.", &question.expected, &question.classes);
            assert!((0.0..=1.0).contains(&score), "{score}");
        }
    }
    read
}

/// A weight matrix: type, rows, columns (two bytes) and way of products, then its blocks. What is taken over is also
/// multiplied, and its rows are those of the file.
pub fn weights(bytes: &[u8]) -> bool {
    let [ty, rows, low, high, products, data @ ..] = bytes else { return false };
    let Ok(ty) = GgmlType::from_id(u32::from(*ty)) else { return false };
    let (rows, cols) = (usize::from(*rows), usize::from(u16::from_le_bytes([*low, *high])));
    let products = if *products % 2 == 0 { Products::Fast } else { Products::F32 };
    let Ok(linear) = Linear::new(ty, data, rows, cols, products, None) else { return false };
    let (mut of_file, mut row) = (vec![0.0; cols], vec![0.0; cols]);
    for (i, data) in data.chunks_exact(data.len() / rows).enumerate() {
        dequantize(ty, data, &mut of_file).expect("whole rows");
        linear.row(i, &mut row);
        // Packed floats are rounded; everything else is kept.
        let same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        assert!(ty.block_len() == 1 || row.iter().zip(&of_file).all(same), "{ty} row {i}");
    }
    linear.forward(&vec![0.5; cols], 1, &mut vec![0.0; rows]);
    true
}

/// Lines of results; what is read can be written and is then the same.
pub fn results(bytes: &[u8]) -> bool {
    let mut read = false;
    for line in bytes.split(|&b| b == b'\n') {
        let Ok(record) = results::parse_line(line) else { continue };
        read = true;
        let again = serde_json::to_vec(&record).map(|line| results::parse_line(&line));
        assert!(again.is_ok_and(|again| again.is_ok_and(|r| r.key() == record.key())));
        assert!(record.share() >= 0.0);
    }
    read
}
