//! Walking through an OpenAPI document.

use serde_json::Value;

/// The verbs of operations within a path.
pub(crate) const VERBS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Every operation with its verb and path.
pub(crate) fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        VERBS.into_iter().filter_map(move |verb| item.get(verb).map(|operation| (verb, path.as_str(), operation)))
    })
}

/// What an operation takes besides a body.
pub(crate) fn parameters(operation: &Value) -> impl Iterator<Item = &Value> {
    operation["parameters"].as_array().into_iter().flatten()
}
