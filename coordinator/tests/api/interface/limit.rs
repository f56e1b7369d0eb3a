//! What bodies hold is bounded as the document says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::document::document;
use super::operation::{Ask, Operation, PUBLIC, table};
use super::world::{ROLES, World};

/// Texts that only the whole request bounds: payloads, and what runs print.
const UNBOUNDED: [(&str, &str); 3] = [("NewTaskOrganization", "input"), ("RunPatch", "log"), ("RunPatch", "result")];

/// A schema, or what its reference leads to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => document.pointer(path.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// The name of what a schema refers to.
fn name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn is(schema: &Value, word: &str) -> bool {
    match &schema["type"] {
        Value::Array(words) => words.iter().any(|known| known == word),
        known => known == word,
    }
}

/// The schemas of bodies, and of what stands in them.
fn bodies(document: &Value) -> BTreeSet<String> {
    fn visit(document: &Value, schema: &Value, found: &mut BTreeSet<String>) {
        if let Some(name) = name(schema)
            && !found.insert(name.to_owned())
        {
            return;
        }
        let schema = resolve(document, schema);
        for part in schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()) {
            visit(document, part, found);
        }
        for part in schema["oneOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
            visit(document, part, found);
        }
    }
    let mut found = BTreeSet::new();
    for path in document["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            visit(document, &operation["requestBody"]["content"]["application/json"]["schema"], &mut found);
        }
    }
    found
}

/// What in a schema has no end.
fn endless(document: &Value, schema: &Value) -> bool {
    let bounded = |word: &str| schema[word].is_number();
    let whole = resolve(document, schema);
    let known = whole["enum"].is_array() || whole["pattern"].is_string() || whole["format"] == "uuid";
    let choices = whole["oneOf"].as_array().into_iter().flatten();
    (is(whole, "string") && !known && !bounded("maxLength") && !whole["maxLength"].is_number())
        || (is(whole, "array") && (!bounded("maxItems") || endless(document, &whole["items"])))
        || (is(whole, "object") && whole["properties"].is_null() && !bounded("maxProperties"))
        || (!bounded("maxLength") && choices.into_iter().any(|choice| endless(document, choice)))
}

#[tokio::test]
async fn every_text_and_list_of_a_body_is_bounded() {
    let document = document(&crate::ledger::federation::Federation::new(1, false).await).await;
    let bodies = bodies(&document);
    assert!(bodies.len() > 30, "{bodies:?}");
    let mut found = Vec::new();
    for body in &bodies {
        let schema = &document["components"]["schemas"][body];
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            if endless(&document, schema) {
                found.push((body.as_str(), property.as_str()));
            }
        }
    }
    assert_eq!(found, UNBOUNDED, "bound these in `limits`");
}

/// The body with one of its properties replaced.
fn with(ask: &Ask, property: &str, value: Value) -> Ask {
    let mut body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
    body[property] = value;
    Ask { query: ask.query.clone(), headers: ask.headers, body: body.to_string().into() }
}

/// A value of so many characters or items.
fn of_size(schema: &Value, size: usize) -> Value {
    if is(schema, "array") {
        let item = if is(&schema["items"], "string") { json!("/x") } else { json!(1) };
        vec![item; size].into()
    } else {
        "x".repeat(size).into()
    }
}

#[tokio::test]
async fn what_the_document_bounds_is_refused_beyond_and_named() {
    let mut world = World::new().await;
    let document = document(&world.federation).await;
    let mut tried = 0;
    for operation in table() {
        let described = &document["paths"][&operation.path][operation.method.as_str().to_lowercase()];
        let body = &described["requestBody"]["content"]["application/json"]["schema"];
        let Some(properties) = resolve(&document, body)["properties"].as_object() else { continue };
        let kinds = described.get("security").unwrap_or(&document["security"]).clone();
        let takes = |kind: &str| kinds.as_array().unwrap().iter().any(|choice| choice.get(kind).is_some());
        let role = ROLES.into_iter().find(|role| takes(role.token_kind())).unwrap();
        let token = world.token(role).to_owned();
        let thing = world.any(&operation).await;
        let ask = (operation.ask)(&thing, "name-of-nothing");
        for (property, schema) in properties {
            let size = |word: &str| schema[word].as_u64().and_then(|size| usize::try_from(size).ok());
            let most = size("maxLength").or(size("maxItems"));
            let least = size("minLength").or(size("minItems"));
            for size in most.map(|most| most + 1).into_iter().chain(least.map(|least| least - 1)) {
                let ask = with(&ask, property, of_size(schema, size));
                let (status, answer) = world.send(&operation, Some(&token), &thing, &ask).await;
                let text = format!("{} {property} of {size}: {status} {answer}", operation.name());
                assert!((400..500).contains(&status), "{text}");
                // Passwords are refused in the policy's words, if whoever asks gets so far.
                let named = answer["errors"].as_object().is_some_and(|errors| {
                    errors.keys().any(|field| field == property || field.starts_with(&format!("{property}[")))
                });
                assert!(named || is_told_elsewhere(&operation, property), "{text}");
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

#[tokio::test]
async fn what_strangers_send_is_bounded_as_well() {
    let federation = crate::ledger::federation::Federation::new(1, false).await;
    let document = document(&federation).await;
    let mut tried = 0;
    for (method, path) in PUBLIC {
        let described = &document["paths"][path][method.as_str().to_lowercase()];
        let schema = resolve(&document, &described["requestBody"]["content"]["application/json"]["schema"]);
        for (property, bounds) in schema["properties"].as_object().into_iter().flatten() {
            let most = bounds["maxLength"].as_u64().unwrap();
            let required = schema["required"].as_array().into_iter().flatten();
            let mut body: Value = required.map(|name| (name.as_str().unwrap().to_owned(), json!("x"))).collect();
            body[property] = "x".repeat(usize::try_from(most).unwrap() + 1).into();
            let ask = federation.ask(method.clone(), path.trim_start_matches("/api"), None, Some(body), &[]);
            let answer = ask.await.expect(400);
            let is_policy = answer["code"] == "weak_password" && property == "password";
            assert!(answer["errors"][property].is_array() || is_policy, "{path} {property}: {answer}");
            tried += 1;
        }
    }
    assert!(tried > 9, "{tried}");
}

/// What is refused by a decision of its own, which may come after others.
fn is_told_elsewhere(operation: &Operation, property: &str) -> bool {
    property.contains("password") && operation.path != "/api/token/user"
}
