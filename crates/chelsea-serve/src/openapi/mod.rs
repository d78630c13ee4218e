//! `GET /openapi.json`: every path of the server, with what it takes and answers, for clients that are made or tested by
//! machine.
//!
//! It is written down beside the types that read requests, not derived from them: much of what is honoured depends on values
//! (`kv.policy`, roles, ranges), which types do not say. Tests hold it against the router's own list of paths and against the
//! tables of docs/api.md.

mod answers;
mod paths;
mod requests;
mod schema;

use crate::Serving;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `GET /openapi.json`.
pub(crate) async fn openapi(State(serving): State<Arc<Serving>>) -> Json<Value> {
    let vocab = serving.model.config().vocab as u64;
    Json(document(!serving.settings.api_keys.is_empty(), vocab))
}

/// The whole description of a server with a vocabulary of so many tokens; `with_keys`: one that wants a key.
fn document(with_keys: bool, vocab: u64) -> Value {
    let mut schemas = Map::new();
    schemas.extend(requests::schemas(vocab));
    schemas.extend(answers::schemas());
    let security = if with_keys { json!([{"bearer": []}, {"header": []}]) } else { json!([]) };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Chelsea",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Language models over clustered caches",
            "description": "Interfaces of OpenAI and Anthropic over one model. What cannot be honoured is refused with a \
                            message that names the field; docs/api.md says the same in prose.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "this server"}],
        "tags": [
            {"name": "OpenAI", "description": "Chats, completions and responses, as vLLM and llama.cpp extend them"},
            {"name": "Anthropic", "description": "Messages"},
            {"name": "Documents", "description": "Put on the server once, and asked about by their ids"},
            {"name": "Tokens", "description": "From text to tokens and back"},
            {"name": "Server", "description": "Limits, health and figures"},
            {"name": "Pages", "description": "To be read by people"},
        ],
        "security": security,
        "paths": paths::paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_of_the_router_is_described_and_no_other() {
        let routed: BTreeSet<(String, String)> = crate::router::routes()
            .iter()
            .map(|(method, path, _)| (method.to_lowercase(), path.replace("{*", "{")))
            .collect();
        let document = document(false, 256);
        let paths = document["paths"].as_object().unwrap();
        let methods = |(path, item): (&String, &Value)| {
            item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
        };
        let described: BTreeSet<(String, String)> = paths.iter().flat_map(methods).collect();
        assert_eq!(routed, described);
    }

    /// Every `$ref` below a value.
    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_is_used() {
        let document = document(true, 256);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let there: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        let found: BTreeSet<String> = found.into_iter().map(str::to_owned).collect();
        assert_eq!(found, there);
    }

    /// Every schema below a value that says of what types it is.
    fn types<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
        match value {
            Value::Object(object) => {
                // Fields may be called so.
                found.extend(object.get("type").filter(|kind| !kind.is_object()));
                object.values().for_each(|value| types(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| types(value, found)),
            _ => {}
        }
    }

    #[test]
    fn types_are_names_or_lists_of_different_names() {
        let document = document(true, 256);
        let mut found = Vec::new();
        types(&document, &mut found);
        assert!(found.len() > 300, "{}", found.len());
        for kind in found {
            let names = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
            let different: BTreeSet<&str> = names.iter().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(different.len(), names.len(), "{kind}");
        }
    }

    #[test]
    fn names_of_operations_are_unique() {
        let document = document(false, 256);
        let mut seen = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                assert!(seen.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
                assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{operation}");
            }
        }
    }

    /// The tables of docs/api.md, and what the columns of the greater one are about.
    const PAGE: &str = include_str!("../../../../docs/api.md");
    const COLUMNS: [&str; 4] = ["ChatRequest", "CompletionRequest", "ResponseRequest", "MessagesRequest"];

    fn section<'p>(page: &'p str, title: &str) -> &'p str {
        let (_, section) = page.split_once(&format!("\n## {title}\n")).unwrap();
        section.split_once("\n## ").map_or(section, |(section, _)| section)
    }

    /// Every name and every value that may stand somewhere below.
    fn words(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(
                    object.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.keys().cloned()),
                );
                found.extend(object.get("const").and_then(Value::as_str).map(str::to_owned));
                let values = object.get("enum").and_then(Value::as_array).into_iter().flatten();
                found.extend(values.filter_map(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| words(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| words(value, found)),
            _ => {}
        }
    }

    /// The fields of a request, and all words that are known below each.
    fn fields(document: &Value, request: &str) -> std::collections::BTreeMap<String, BTreeSet<String>> {
        let properties = document["components"]["schemas"][request]["properties"].as_object().unwrap();
        let below = |value: &Value| {
            let mut found = BTreeSet::new();
            words(value, &mut found);
            found
        };
        properties.iter().map(|(name, value)| (name.clone(), below(value))).collect()
    }

    /// What stands between backticks in a cell: fields, each with what is named in the brackets that follow it.
    fn named_in(cell: &str) -> Vec<(String, Vec<String>)> {
        let mut named: Vec<(String, Vec<String>)> = Vec::new();
        let mut depth = 0;
        for (i, piece) in cell.split('`').enumerate() {
            if i % 2 == 0 {
                depth += piece.matches('(').count();
                depth -= piece.matches(')').count();
            } else if depth == 0 {
                named.push((piece.to_owned(), Vec::new()));
            } else {
                named.last_mut().unwrap().1.push(piece.to_owned());
            }
        }
        named
    }

    #[test]
    fn every_field_of_the_documentation_is_described_and_no_other() {
        let document = document(false, 256);
        let table = section(PAGE, "What is honoured");
        let mut told: [BTreeSet<String>; 4] = Default::default();
        let mut before: [Vec<(String, Vec<String>)>; 4] = Default::default();
        for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 5, "{row}");
            for (i, cell) in cells[1..].iter().enumerate() {
                let mut named = named_in(cell);
                // "the same" is the cell to the left.
                if cell.contains("the same") {
                    named.extend(before[i - 1].clone());
                }
                let fields = fields(&document, COLUMNS[i]);
                for (name, inner) in &named {
                    let (outer, path) = name.split_once('.').unwrap_or((name, ""));
                    let known = fields.get(outer).unwrap_or_else(|| panic!("`{name}` of {row}"));
                    let mut below = inner.iter().map(String::as_str).chain(path.split('.').filter(|p| !p.is_empty()));
                    assert!(below.all(|word| known.contains(word)), "`{name}` with {inner:?} of {row}");
                    told[i].insert(outer.to_owned());
                }
                before[i] = named;
            }
        }
        for (i, request) in COLUMNS.iter().enumerate() {
            let described: BTreeSet<String> = fields(&document, request).into_keys().collect();
            assert_eq!(told[i], described, "{request}");
        }
    }

    #[test]
    fn every_field_of_kv_is_told() {
        let document = document(false, 256);
        let described = document["components"]["schemas"]["ChatRequest"]["properties"]["kv"]["properties"].clone();
        let memory = section(PAGE, "Memory");
        for name in described.as_object().unwrap().keys() {
            assert!(memory.contains(&format!("`{name}`")) || memory.contains(&format!("\"{name}\": ")), "{name}");
        }
        let (_, table) = memory.split_once("| field of `kv` |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let names = rows.flat_map(|row| named_in(row.split('|').nth(1).unwrap()));
        let unknown: Vec<_> = names.filter(|(name, _)| described.get(name).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn every_path_of_the_documentation_is_described_and_no_other() {
        let (_, table) = PAGE.split_once("| path | does |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let told: BTreeSet<String> = rows
            .flat_map(|row| named_in(row.split('|').nth(1).unwrap()))
            .map(|(name, _)| name.rsplit(' ').next().unwrap().replace("ID", "{id}").replace("NAME", "{name}"))
            .collect();
        let document = document(false, 256);
        let described = document["paths"].as_object().unwrap().keys().cloned();
        assert_eq!(told, described.filter(|path| path != "/assets/{name}").collect());
    }
}
