//! What a run is told by its node, for those who throw anything at it.

use std::collections::BTreeMap;

use serde_json::Value;
use twinmesh_protocol::id::TaskId;

use super::{
    Input, claims,
    gateway::{Run, failure, message},
    route, seed,
};

/// Answers of the gateway, the input, the token and the variables.
pub(crate) fn host(bytes: &[u8]) {
    if let Ok(runs) = serde_json::from_slice::<Vec<Run>>(bytes) {
        let _ = failure(TaskId::new(1), "failed", &runs).to_string();
    }
    let _ = message(bytes);
    if let Ok(input) = serde_json::from_slice::<Input>(bytes) {
        let _ = input.arguments::<Value>();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = claims(text);
    let environment: BTreeMap<String, String> =
        ["HOST", "PORT", "TWINMESH_RUN_SEED"].map(|name| (name.to_owned(), text.to_owned())).into();
    let _ = (route(&environment), seed(&environment));
    let port =
        BTreeMap::from([("HOST".to_owned(), "http://127.0.0.1".to_owned()), ("PORT".to_owned(), text.to_owned())]);
    let _ = route(&port);
}
