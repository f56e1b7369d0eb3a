//! Every route asks who is there before it does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use axum::http::Method;
use serde_json::{Value, json};

use super::document::{document, operations};
use super::operation::{PUBLIC, table};
use super::world::{Outcome, ROLES, RULELESS, Relation, World};
use crate::ledger::federation::Federation;

/// What a user without any rule may do all the same, and with which target.
const WITHOUT_RULES: &[(&str, &str)] = &[
    ("DELETE /blobstream/upload/{id}", "o"),
    ("GET    /blobstream/status", "y"),
    ("GET    /blobstream/upload/{id}", "o"),
    ("GET    /event", "y"),
    ("GET    /overlay", "y"),
    ("GET    /peer", "g"),
    ("GET    /role", "o"),
    ("GET    /role/{id}", "o"),
    ("GET    /role/{id}/rule", "o"),
    ("GET    /rule", "y"),
    ("GET    /rule/{id}", "y"),
    ("GET    /user", "o"),
    ("GET    /user/{id}", "o"),
    ("GET    /user/{id} (with permissions)", "o"),
    ("PATCH  /blobstream/upload/{id}", "o"),
    ("PATCH  /password/change", "o"),
    ("POST   /token/user/validate", "y"),
];

fn is_public(method: &Method, path: &str) -> bool {
    PUBLIC.iter().any(|(other, public)| other == method && *public == path)
}

#[tokio::test]
async fn every_operation_of_the_document_is_asked_for_here() {
    let document = document(&Federation::new(1, false).await).await;
    let described: BTreeSet<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method.to_string(), path)).collect();
    let asked: BTreeSet<(String, String)> = table()
        .into_iter()
        .map(|operation| (operation.method.to_string(), operation.path))
        .chain(PUBLIC.map(|(method, path)| (method.to_string(), path.to_owned())))
        .collect();
    let missing: Vec<_> = described.difference(&asked).collect();
    assert!(missing.is_empty(), "add these to `operation::table` (or to `PUBLIC`, with good reason): {missing:?}");
    let gone: Vec<_> = asked.difference(&described).collect();
    assert!(gone.is_empty(), "these are not in the document: {gone:?}");
}

#[tokio::test]
async fn only_the_public_operations_ask_for_no_token() {
    let document = document(&Federation::new(1, false).await).await;
    for (method, path, operation) in operations(&document) {
        let open = operation["security"] == json!([{}]) || operation["security"] == json!([{"refresh": []}]);
        assert_eq!(open, is_public(&method, &path), "{method} {path}");
    }
}

#[tokio::test]
async fn nobody_is_answered_without_a_token_of_the_right_kind() {
    let mut world = World::new().await;
    let document = document(&world.federation).await;
    let log_in = json!({"username": "root", "password": crate::ledger::federation::PASSWORD});
    let pair = world.federation.ask(Method::POST, "/token/user", None, Some(log_in), &[]).await.expect(200);
    let refresh = pair["refresh_token"].as_str().unwrap();
    for operation in table() {
        let name = operation.name();
        let described = &document["paths"][&operation.path][operation.method.as_str().to_lowercase()];
        let kinds = described.get("security").unwrap_or(&document["security"]).clone();
        let takes = |kind: &str| kinds.as_array().unwrap().iter().any(|choice| choice.get(kind).is_some());
        let thing = world.any(&operation).await;
        let ask = (operation.ask)(&thing, "name-of-nothing");

        let (status, body) = world.send(&operation, None, &thing, &ask).await;
        assert_eq!((status, &body["code"]), (401, &json!("token_missing")), "{name}: {body}");
        for (token, code) in [(refresh, "token_kind"), ("nonsense", "token_malformed")] {
            let (status, body) = world.send(&operation, Some(token), &thing, &ask).await;
            assert_eq!((status, &body["code"]), (422, &json!(code)), "{name}: {body}");
        }
        // The root user, a node and an algorithm stand for their kinds.
        for role in [ROLES[0], ROLES[1], ROLES[2]].into_iter().filter(|role| !takes(role.token_kind())) {
            let (status, body) = world.send(&operation, Some(world.token(role)), &thing, &ask).await;
            assert!(matches!(status, 401 | 403), "{name} as {}: {status} {body}", role.name);
        }
    }
}

#[tokio::test]
async fn every_kind_of_token_that_is_named_is_taken() {
    let mut world = World::new().await;
    let document = document(&world.federation).await;
    let mut taken: BTreeMap<(String, &str), bool> = BTreeMap::new();
    for operation in table() {
        let described = &document["paths"][&operation.path][operation.method.as_str().to_lowercase()];
        let kinds = described.get("security").unwrap_or(&document["security"]).clone();
        for role in [ROLES[0], ROLES[1], ROLES[2]] {
            if !kinds.as_array().unwrap().iter().any(|choice| choice.get(role.token_kind()).is_some()) {
                continue;
            }
            let key = (format!("{} {}", operation.method, operation.path), role.token_kind());
            for relation in Relation::ALL {
                if world.ask(&operation, role, relation).await == Some(Outcome::Allowed) {
                    taken.insert(key.clone(), true);
                }
            }
            taken.entry(key).or_insert(false);
        }
    }
    let never: Vec<_> = taken.into_iter().filter(|(_, taken)| !taken).map(|(key, _)| key).collect();
    assert!(never.is_empty(), "the document says that these kinds of token are taken, but they never are: {never:?}");
}

#[tokio::test]
async fn who_holds_no_rule_gets_nothing_but_what_is_their_own() {
    let mut world = World::new().await;
    let mut allowed: Vec<(String, String)> = Vec::new();
    for operation in table() {
        let mut cell = String::new();
        for relation in Relation::ALL {
            match world.ask(&operation, RULELESS, relation).await {
                Some(Outcome::Allowed) => cell.push(relation.letter()),
                Some(Outcome::Refused) | None => {}
                Some(Outcome::Unclear(answer)) => panic!("{} on {relation:?}: {answer}", operation.name()),
            }
        }
        if !cell.is_empty() {
            allowed.push((operation.name(), cell));
        }
    }
    allowed.sort();
    let allowed: Vec<(&str, &str)> = allowed.iter().map(|(name, cell)| (name.as_str(), cell.as_str())).collect();
    assert_eq!(allowed, WITHOUT_RULES);
}

#[tokio::test]
async fn what_is_described_is_there_and_nothing_else() {
    let federation = Federation::new(1, false).await;
    let document = document(&federation).await;
    let mut verbs: BTreeMap<String, BTreeSet<Method>> = BTreeMap::new();
    for (method, path, _) in operations(&document) {
        verbs.entry(path).or_default().insert(method);
    }
    let ask = |method: Method, path: String| {
        let federation = &federation;
        async move {
            let path = path.strip_prefix("/api").unwrap_or(&path).replace("{id}", "1").replace("{rule_id}", "1");
            federation.ask(method, &path, None, None, &[]).await
        }
    };
    for (path, known) in verbs.iter().filter(|(path, _)| path.starts_with("/api/")) {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = ask(method.clone(), path.clone()).await;
            let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
            assert_eq!(code == "wrong_verb", !known.contains(&method), "{method} {path}: {}", answer.body);
            assert_ne!(code, "unknown_route", "{method} {path}");
        }
        let beside = ask(Method::GET, format!("{path}/nonsense/of/it")).await;
        assert_eq!(beside.expect(404)["code"], "unknown_route", "{path}");
    }
}

/// Routes that are added to the router past the document.
#[test]
fn no_route_is_added_past_the_document() {
    // `/metrics` is served at an address of its own, and not at this one.
    const ALLOWED: &[&str] = &["/metrics", "/vpn/update"];
    fn visit(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for rest in text.split(".route(").skip(1).chain(text.split(".route_service(").skip(1)) {
                    found.push(rest.split('"').nth(1).unwrap_or_default().to_owned());
                }
            }
        }
    }
    let mut found = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort();
    assert_eq!(found, ALLOWED);
}

/// The description's own answers are not forgotten either.
#[tokio::test]
async fn the_public_operations_answer_strangers() {
    let federation = Federation::new(1, false).await;
    for (method, path) in PUBLIC {
        if method == Method::GET && path.starts_with("/api") {
            let path = path.trim_start_matches("/api");
            let answer = federation.ask(method.clone(), path, None, None, &[]).await;
            assert_eq!(answer.status.as_u16(), 200, "{method} {path}");
        } else if method == Method::POST {
            let path = path.trim_start_matches("/api");
            let answer = federation.ask(method.clone(), path, None, Some(Value::Null), &[]).await;
            assert!(matches!(answer.status.as_u16(), 400 | 401), "{method} {path}: {}", answer.body);
        }
    }
}
