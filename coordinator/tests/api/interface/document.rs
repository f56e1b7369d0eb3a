//! The OpenAPI document. It is kept in `docs/openapi.json`; run the test with `UPDATE_SNAPSHOTS=1` to write it anew.

use std::collections::BTreeSet;
use std::path::Path;

use axum::http::Method;
use serde_json::Value;

use crate::ledger::federation::Federation;

/// Every operation with its method, path and declaration.
pub(crate) fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            let method = verb.to_uppercase().parse().unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

pub(crate) async fn document(federation: &Federation) -> Value {
    federation.ask(Method::GET, "/openapi.json", None, None, &[]).await.expect(200)
}

#[tokio::test]
async fn the_document_is_the_one_that_was_reviewed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let actual = document(&Federation::new(1, false).await).await;
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, format!("{actual:#}\n")).unwrap();
    }
    let reviewed: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
    let changed: Vec<String> = operations(&actual)
        .into_iter()
        .filter(|(method, path, operation)| reviewed["paths"][path][method.as_str().to_lowercase()] != *operation)
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert!(
        reviewed == actual,
        "the document changed; review it with UPDATE_SNAPSHOTS=1 and git diff. Operations: {changed:?}"
    );
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    match value {
                        Value::String(text) if name == "$ref" => drop(found.insert(text)),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&Federation::new(1, false).await).await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn operations_have_names_of_their_own_and_a_sentence() {
    let document = document(&Federation::new(1, false).await).await;
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{method} {path}: `{name}` is taken");
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path}");
        let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}: {}", operation["tags"]);
    }
    assert!(names.len() > 60);
}
