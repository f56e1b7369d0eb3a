//! Query arguments are read as they are described.

use axum::http::Method;

use super::document::{document, operations};
use crate::ledger::federation::{Federation, id};

/// What no typed argument takes.
const NONSENSE: &str = "%7Enone";

/// Where arguments are read in the words of stock clients, which are never wrong.
const LENIENT: &[&str] = &["/api/vpn/algorithm/addresses"];

#[tokio::test]
async fn a_typed_query_argument_that_does_not_read_is_refused() {
    let federation = Federation::new(1, false).await;
    let task = federation.task(&[0]).await;
    let run = id(&federation.run(id(&task), 0).await);
    let document = document(&federation).await;
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        if method != Method::GET || operation["security"] == serde_json::json!([{}]) {
            continue;
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let is_text = parameter["schema"]["type"] == "string" && parameter["schema"].get("pattern").is_none();
            if parameter["in"] != "query" || is_text || LENIENT.contains(&path.as_str()) {
                continue;
            }
            let thing = if path.starts_with("/api/run") || path.starts_with("/api/result") { run } else { 1 };
            let asked = path.trim_start_matches("/api").replace("{id}", &thing.to_string());
            let answer = federation.get(&federation.root, &format!("{asked}?{name}={NONSENSE}")).await;
            assert_eq!(answer.status.as_u16(), 400, "{method} {path}?{name}: {}", answer.body);
            assert!(answer.msg().contains(name), "{}", answer.body);
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}
