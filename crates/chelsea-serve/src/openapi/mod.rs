//! `GET /openapi.json`: every path of the server, with what it takes and answers, for clients that are made or tested by
//! machine.
//!
//! It is written down beside the types that read requests, not derived from them: much of what is honoured depends on values
//! (`kv.policy`, roles, ranges), which types do not say. Tests hold it against the router's own list of paths and against the
//! tables of docs/api.md.

mod answers;
mod files;
mod paths;
mod requests;
mod responses;
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
    schemas.extend(responses::schemas());
    schemas.extend(files::schemas());
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
            {"name": "OpenAI", "description": "Chats and completions, as vLLM and llama.cpp extend them"},
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

    /// Every list of types in a schema.
    fn types<'v>(value: &'v Value, found: &mut Vec<&'v [Value]>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("type").and_then(Value::as_array).map(Vec::as_slice));
                object.values().for_each(|value| types(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| types(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_may_be_null_names_each_type_once() {
        let document = document(false, 256);
        let mut found = Vec::new();
        types(&document["components"]["schemas"], &mut found);
        assert!(found.len() > 50);
        for types in found {
            let names: BTreeSet<&str> = types.iter().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(names.len(), types.len(), "{types:?}");
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

    /// Names of fields at any depth, and the texts that they may be.
    fn words(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.keys().cloned());
                object.values().for_each(|value| words(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| words(value, found)),
            Value::String(text) => drop(found.insert(text.clone())),
            _ => {}
        }
    }

    #[test]
    fn every_field_of_the_documentation_is_described() {
        let page = include_str!("../../../../docs/api.md");
        let (_, table) = page.split_once("## What is honoured").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let document = document(false, 256);
        let columns = ["ChatRequest", "CompletionRequest", "MessagesRequest"].map(|name| {
            let mut known = BTreeSet::new();
            words(&document["components"]["schemas"][name]["properties"], &mut known);
            assert!(known.len() > 10, "{name}");
            known
        });
        let mut before: Vec<Vec<String>> = vec![Vec::new(); 3];
        let mut seen = 0;
        for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            for (i, cell) in cells[1..].iter().enumerate() {
                let mut names: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
                // "the same" is the cell to the left.
                if cell.contains("the same") {
                    names.extend(before[i - 1].clone());
                }
                for name in &names {
                    seen += 1;
                    let name = name.split('.').next().unwrap();
                    assert!(columns[i].contains(name), "`{name}` of {row}");
                }
                before[i] = names;
            }
        }
        assert!(seen > 60, "{seen}");
    }
}
