//! Which files of a repository are the model.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::HubError;
use crate::spec::is_safe_path;
use crate::split::Part;

/// The quantisation taken when nothing else is asked for: the common middle of size and quality.
const PREFERRED: &str = "q4_k_m";

/// The table of shards, under the only name by which a loader finds it in a folder.
const INDEX: &str = "model.safetensors.index.json";

/// Small files that a safetensors model is read with, where the repository has them.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// The model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One GGUF file, or all parts of one, in order.
    Gguf(Vec<String>),
    /// One safetensors file and its companions.
    Safetensors { weights: String, companions: Vec<String>, whole_folder: bool },
    /// An index that names the shards, and its companions.
    Sharded { index: String, companions: Vec<String> },
}

/// Picks the model among `files` (paths inside `repo`), by the user's word if there is one.
pub(crate) fn choose(repo: &str, files: &[String], wanted: Option<&str>) -> Result<Choice, HubError> {
    match wanted {
        Some(wanted) => choose_named(repo, files, wanted),
        None => choose_default(repo, files),
    }
}

fn choose_named(repo: &str, files: &[String], wanted: &str) -> Result<Choice, HubError> {
    let no_model = |reason: String| HubError::NoModel { repo: repo.to_owned(), reason };
    if let Some(exact) = files.iter().find(|f| *f == wanted) {
        let lower = exact.to_ascii_lowercase();
        return if lower.ends_with(".gguf") {
            whole_gguf(repo, files, exact)
        } else if lower.ends_with(".safetensors") {
            if let Some(part) = Part::of(exact) {
                let reason = format!("{exact} is one of {} shards; without a file name all are taken", part.parts());
                return Err(no_model(reason));
            }
            let companions = companions(repo, files, folder_of(exact))?;
            Ok(Choice::Safetensors { weights: exact.clone(), companions, whole_folder: false })
        } else if name_of(exact) == INDEX {
            Ok(Choice::Sharded { index: exact.clone(), companions: companions(repo, files, folder_of(exact))? })
        } else {
            Err(no_model(format!("{wanted} is neither a .gguf nor a .safetensors file, nor a {INDEX}")))
        };
    }
    let models = ggufs(files);
    let needle = wanted.to_ascii_lowercase();
    let matching: Vec<&String> = models.iter().copied().filter(|f| f.to_ascii_lowercase().contains(&needle)).collect();
    match matching.as_slice() {
        [one] => whole_gguf(repo, files, one),
        [] => {
            let mut all: Vec<&str> = files.iter().map(String::as_str).filter(|f| is_model_file(f)).collect();
            all.sort_unstable();
            let list = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Err(no_model(format!("no file is called {wanted:?}. Its model files: {list}")))
        }
        several => Err(ambiguous(repo, several)),
    }
}

fn choose_default(repo: &str, files: &[String]) -> Result<Choice, HubError> {
    let models = ggufs(files);
    let preferred: Vec<&String> =
        models.iter().copied().filter(|f| f.to_ascii_lowercase().contains(PREFERRED)).collect();
    match (preferred.as_slice(), models.as_slice()) {
        ([one], _) | ([], [one]) => return whole_gguf(repo, files, one),
        ([], []) => {}
        ([], several) | (several, _) => return Err(ambiguous(repo, several)),
    }
    let has = |name: &str| files.iter().any(|f| f == name);
    if has(INDEX) {
        return Ok(Choice::Sharded { index: INDEX.into(), companions: companions(repo, files, "")? });
    }
    let tensors: Vec<&String> = files.iter().filter(|f| f.ends_with(".safetensors") && !f.contains('/')).collect();
    let weights = match tensors.as_slice() {
        [] => {
            return Err(HubError::NoModel {
                repo: repo.to_owned(),
                reason: "it has no .gguf and no .safetensors file".into(),
            });
        }
        [one] => (*one).clone(),
        _ if has("model.safetensors") => "model.safetensors".to_owned(),
        several => return Err(ambiguous(repo, several)),
    };
    // A loader that is given a folder looks for the usual name in it.
    let whole_folder = weights == "model.safetensors";
    Ok(Choice::Safetensors { weights, companions: companions(repo, files, "")?, whole_folder })
}

/// GGUF files that hold a language model: no vision projectors or importance matrices, and of a split file its head.
fn ggufs(files: &[String]) -> Vec<&String> {
    let mut models: Vec<&String> = files
        .iter()
        .filter(|f| {
            let lower = f.to_ascii_lowercase();
            let extra = lower.contains("mmproj") || lower.contains("imatrix");
            lower.ends_with(".gguf") && !extra && Part::of(f).is_none_or(|part| part.is_first())
        })
        .collect();
    models.sort();
    models
}

/// The file, or all parts of the model that it is a part of.
fn whole_gguf(repo: &str, files: &[String], file: &str) -> Result<Choice, HubError> {
    let Some(part) = Part::of(file) else { return Ok(Choice::Gguf(vec![file.to_owned()])) };
    // Few are there, whatever number the name claims: the first that is missing ends it.
    match part.all().find(|part| !files.contains(part)) {
        Some(missing) => {
            let reason = format!("{file} is one of {} parts, and {missing} is not there", part.parts());
            Err(HubError::NoModel { repo: repo.to_owned(), reason })
        }
        None => Ok(Choice::Gguf(part.all().collect())),
    }
}

fn is_model_file(file: &str) -> bool {
    let lower = file.to_ascii_lowercase();
    lower.ends_with(".gguf") || lower.ends_with(".safetensors")
}

fn ambiguous(repo: &str, choices: &[&String]) -> HubError {
    HubError::Ambiguous { repo: repo.to_owned(), choices: choices.iter().map(|f| (*f).clone()).collect() }
}

pub(crate) fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn name_of(file: &str) -> &str {
    file.rsplit_once('/').map_or(file, |(_, name)| name)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn companions(repo: &str, files: &[String], folder: &str) -> Result<Vec<String>, HubError> {
    let wanted = COMPANIONS.iter().map(|name| join(folder, name));
    let found: Vec<String> = wanted.filter(|path| files.contains(path)).collect();
    let config = join(folder, "config.json");
    if found.contains(&config) {
        return Ok(found);
    }
    Err(HubError::NoModel { repo: repo.to_owned(), reason: format!("it has safetensors files but no {config}") })
}

/// The shard files that an index names, in order, each once, as paths inside the repository.
pub(crate) fn shards(index: &str, text: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_str(text).map_err(|e| format!("it is not a shard index: {e}"))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err("it names no shards".into());
    }
    // Loaders take shards that lie beside their index only.
    let plain = |name: &str| is_safe_path(name) && !name.contains('/') && name.ends_with(".safetensors");
    match names.iter().find(|name| !plain(name)) {
        Some(name) => Err(format!("it names {name:?} as a shard")),
        None => Ok(names.iter().map(|name| join(folder_of(index), name)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    fn gguf(name: &str) -> Choice {
        Choice::Gguf(files(&[name]))
    }

    #[test]
    fn q4_k_m_is_taken_among_several() {
        let all = files(&["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf"]);
        assert_eq!(choose("o/n", &all, None).expect("one"), gguf("m-Q4_K_M.gguf"));
    }

    #[test]
    fn a_single_gguf_needs_no_name() {
        assert_eq!(choose("o/n", &files(&["x.gguf", "config.json"]), None).expect("one"), gguf("x.gguf"));
    }

    #[test]
    fn several_without_a_preferred_one_are_listed() {
        let error = choose("o/n", &files(&["b-q8_0.gguf", "a-f16.gguf"]), None).expect_err("two").to_string();
        assert!(error.contains("o/n:FILE") && error.contains("a-f16.gguf\n  b-q8_0.gguf"), "{error}");
    }

    #[test]
    fn a_part_of_a_name_is_enough_when_it_is_unique() {
        let all = files(&["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_0.gguf"]);
        assert_eq!(choose("o/n", &all, Some("q8_0")).expect("one"), gguf("m-Q8_0.gguf"));
        assert!(matches!(choose("o/n", &all, Some("q4")), Err(HubError::Ambiguous { .. })));
        let error = choose("o/n", &all, Some("q2_k")).expect_err("none").to_string();
        assert!(error.contains("m-Q4_0.gguf"), "{error}");
    }

    #[test]
    fn all_parts_of_a_split_gguf_are_taken_whichever_is_named() {
        let parts = files(&["q4/m-Q4_K_M-00001-of-00002.gguf", "q4/m-Q4_K_M-00002-of-00002.gguf"]);
        let all = [parts.clone(), files(&["m-Q8_0.gguf"])].concat();
        for wanted in [None, Some("q4_k_m"), Some(parts[0].as_str()), Some(parts[1].as_str())] {
            assert_eq!(choose("o/n", &all, wanted).expect("two parts"), Choice::Gguf(parts.clone()), "{wanted:?}");
        }
        let error = choose("o/n", &all[..1], None).expect_err("half of it").to_string();
        assert!(error.contains("2 parts") && error.contains(&parts[1]), "{error}");
    }

    #[test]
    fn one_shard_of_a_model_is_refused_before_anything_is_fetched() {
        let shard = "model-00001-of-00002.safetensors";
        let all = files(&["config.json", shard, "model-00002-of-00002.safetensors", "model.safetensors.index.json"]);
        let error = choose("o/n", &all, Some(shard)).expect_err("a half").to_string();
        assert!(error.contains("one of 2 shards"), "{error}");
        assert!(matches!(choose("o/n", &all, None), Ok(Choice::Sharded { .. })));
    }

    #[test]
    fn safetensors_come_with_config_and_tokenizer() {
        let all = files(&["config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin"]);
        let expected = Choice::Safetensors {
            weights: "model.safetensors".into(),
            companions: files(&["config.json", "tokenizer.json"]),
            whole_folder: true,
        };
        assert_eq!(choose("o/n", &all, None).expect("one"), expected);
        assert!(
            choose("o/n", &files(&["model.safetensors"]), None).expect_err("no config").to_string().contains("config")
        );
    }

    #[test]
    fn an_index_names_its_shards_once_and_inside_the_repository() {
        let text =
            r#"{"metadata":{},"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}}"#;
        assert_eq!(shards("d/i.json", text).expect("two"), files(&["d/m-1.safetensors", "d/m-2.safetensors"]));
        let below = r#"{"weight_map":{"a":"shards/x.safetensors"}}"#;
        for bad in [r#"{"weight_map":{"a":"../x.safetensors"}}"#, below, r#"{"weight_map":{}}"#, "[]"] {
            assert!(shards("i.json", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_index_by_another_name_is_refused_before_anything_is_fetched() {
        let all = files(&["d/config.json", "d/model.fp16.safetensors.index.json", "d/model.safetensors.index.json"]);
        let error = choose("o/n", &all, Some("d/model.fp16.safetensors.index.json")).expect_err("no loader opens it");
        assert!(matches!(error, HubError::NoModel { .. }), "{error}");
        let usual = choose("o/n", &all, Some("d/model.safetensors.index.json")).expect("an index");
        assert!(matches!(usual, Choice::Sharded { .. }));
    }
}
