//! The interface's description: an OpenAPI 3.1 document, made from what stands at each handler.
//!
//! Handlers declare what is theirs: query, body, answers, and which tokens they take when that is not every kind. What
//! holds for all of them ([`complete`]) is written here once: the answers to wrong tokens and wrong requests, ids in
//! paths, the headers of pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use twinmesh_protocol::wire::{One, Problem, Task};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{OpenApi, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::docs::Page;
use super::operation::{VERBS, operations, parameters};
use crate::config::Secret;
use crate::limits::{Described, Limit, Property};

/// The extension by which a list tells [`complete`] its columns.
const SORT: &str = "x-sort";

/// What is not said at a handler.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Twinmesh coordinator",
        description = "Identity, authorization and the task ledger of a Twinmesh federation.\n\n\
            The interface keeps the contract of vantage6 4.15; what it adds are optional fields and further paths. \
            Send the token of a log-in as `Authorization: Bearer …`. Every error is a problem document with a \
            sentence for people (`msg`) and a stable word for programs (`code`). Who lacks a permission is answered \
            401. Lists come in pages and hold what the caller may see.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "token", description = "Logging in and staying so."),
        (name = "recover", description = "Getting in again after a password or an authenticator is lost."),
        (name = "task", description = "Tasks: what is asked, of whom, and how it stands."),
        (name = "run", description = "Runs: a task at one organization."),
        (name = "result", description = "Results: what came of a run."),
        (name = "organization", description = "The parties that hold data, ask questions, or both."),
        (name = "collaboration", description = "Organizations that agreed to work together."),
        (name = "study", description = "Some organizations of a collaboration."),
        (name = "node", description = "The organizations' daemons."),
        (name = "algorithm store", description = "Services that review algorithms."),
        (name = "user", description = "The people."),
        (name = "role", description = "Named sets of rules."),
        (name = "rule", description = "What may be allowed: an operation on a kind of thing in a scope."),
        (name = "object", description = "Large inputs and results, up and down in streams."),
        (name = "port", description = "Where runs of the same task reach each other."),
        (name = "overlay", description = "How nodes find each other."),
        (name = "event", description = "What happens, as it happens."),
        (name = "meta", description = "What the coordinator says of itself."),
    ),
    components(schemas(Problem, One<Task>)),
)]
struct Base;

/// The document before the routes are added.
pub(crate) fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(openapi)).routes(routes!(docs))
}

/// The names by which a list can be sorted, for its declaration.
pub(crate) fn sortable(columns: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    columns.iter().map(|(name, _)| *name).collect()
}

/// The finished document, and what requests are checked against.
#[derive(Debug)]
pub(crate) struct Document {
    json: Bytes,
    page: Page,
    #[cfg_attr(
        not(debug_assertions),
        expect(dead_code, reason = "debug builds check that no query is read undeclared")
    )]
    queries: BTreeMap<String, BTreeSet<String>>,
}

impl Document {
    /// Finishes what the routes declared, and tells the limits of bodies.
    pub(crate) fn new(declared: &utoipa::openapi::OpenApi, limits: &[&[Described]]) -> Self {
        let mut document = serde_json::to_value(declared).unwrap_or_default();
        complete(&mut document);
        for described in limits.iter().copied().flatten() {
            bound(&mut document["components"]["schemas"][described.schema]["properties"], described.properties);
        }
        let queries = operations(&document)
            .map(|(verb, path, operation)| {
                let names = parameters(operation)
                    .filter(|parameter| parameter["in"] == "query")
                    .filter_map(|parameter| parameter["name"].as_str().map(ToOwned::to_owned));
                (format!("{} {path}", verb.to_uppercase()), names.collect())
            })
            .collect();
        Self { json: Bytes::from(format!("{document:#}\n")), page: Page::new(&document), queries }
    }

    /// The document as a page for people.
    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// The query arguments of an operation, if there is one.
    #[cfg(debug_assertions)]
    pub(crate) fn query(&self, verb: &str, path: &str) -> Option<&BTreeSet<String>> {
        self.queries.get(&format!("{verb} {path}"))
    }
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "meta", responses((status = 200, body = Object)), security(()))]
async fn openapi(Extension(document): Extension<Arc<Document>>) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, document.json.clone())
}

/// This description, for people.
#[utoipa::path(
    get, path = "/docs", tag = "meta",
    responses((status = 200, body = String, content_type = "text/html")),
    security(()),
)]
async fn docs(Extension(document): Extension<Arc<Document>>) -> impl IntoResponse {
    let page = document.page();
    let headers: [(HeaderName, String); 5] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".into()),
        (header::CACHE_CONTROL, "no-cache".into()),
        (header::CONTENT_SECURITY_POLICY, page.policy().to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
    ];
    (headers, page.html())
}

/// Adds what holds for every operation.
fn complete(document: &mut Value) {
    document["components"]["securitySchemes"] = schemes();
    document["security"] = json!([{"user": []}, {"node": []}, {"container": []}]);
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for verb in VERBS {
            if let Some(operation) = item.get_mut(verb) {
                complete_operation(path, operation);
            }
        }
    }
    tidy(document);
    share(document);
}

fn schemes() -> Value {
    let bearer = |who: &str| json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": who});
    json!({
        "user": bearer("The access token of a user, from `POST /token/user`."),
        "node": bearer("The access token of a node, from `POST /token/node`."),
        "container": bearer("The token of an algorithm that runs, from `POST /token/container`."),
        "refresh": bearer("The refresh token of a log-in; good once."),
    })
}

fn complete_operation(path: &str, operation: &mut Value) {
    // Handlers of different nouns share their names.
    let name = format!(
        "{}_{}",
        operation["tags"][0].as_str().unwrap_or_default(),
        operation["operationId"].as_str().unwrap_or_default()
    );
    operation["operationId"] = name.into();

    let mut parameters: Vec<Value> = parameters(operation).cloned().collect();
    parameters.splice(0..0, path_parameters(path, &parameters));
    if let Some(columns) = operation.as_object_mut().and_then(|operation| operation.remove(SORT)) {
        sort_by(&mut parameters, &columns);
    }
    for parameter in parameters.iter_mut().filter(|parameter| parameter["in"] != "path") {
        // What is optional is left away, never null.
        if let Some(schema) = parameter.get_mut("schema") {
            not_null(schema);
        }
    }
    let asks = !parameters.is_empty() || operation.get("requestBody").is_some();
    let public = operation["security"] == json!([{}]);
    let mut failures = Vec::new();
    if asks {
        failures.push((StatusCode::BAD_REQUEST, "The request does not read, or makes no sense as things are"));
    }
    if !public {
        failures.push((StatusCode::UNAUTHORIZED, "No valid token, or one that does not allow this"));
        failures.push((StatusCode::UNPROCESSABLE_ENTITY, "The token is none"));
        if asks {
            failures.push((StatusCode::NOT_FOUND, "There is no such thing"));
        }
    }
    if operation.get("requestBody").is_some() {
        failures.push((StatusCode::REQUEST_TIMEOUT, "The body came too slowly"));
        let too_large = if public { "The body is larger than 64 KiB" } else { "The body is larger than 1 MiB" };
        failures.push((StatusCode::PAYLOAD_TOO_LARGE, too_large));
        if !public {
            failures.push((StatusCode::SERVICE_UNAVAILABLE, "There is no room for the body at the moment"));
        }
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    for (status, why) in failures {
        let answer = &mut operation["responses"][status.as_str()];
        if answer.is_null() {
            *answer = json!({"description": why});
        }
    }
    for (status, answer) in operation["responses"].as_object_mut().into_iter().flatten() {
        let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
        if answer["description"].as_str().is_none_or(str::is_empty) {
            answer["description"] = status.canonical_reason().unwrap_or_default().into();
        }
        if status.as_u16() >= 400 && answer.get("content").is_none() {
            answer["content"] = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
        }
        let page = answer["content"]["application/json"]["schema"]["$ref"].as_str();
        if page.is_some_and(|name| name.starts_with("#/components/schemas/Page_")) {
            answer["headers"] = json!({
                "total-count": {"description": "How many there are on all pages", "schema": {"type": "integer"}},
                "link": {"description": "The other pages", "schema": {"type": "string"}},
            });
        }
    }
}

/// The ids in a path that the handler did not declare itself.
fn path_parameters(path: &str, declared: &[Value]) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .filter(|name| !declared.iter().any(|parameter| parameter["in"] == "path" && parameter["name"] == *name))
        .map(|name| {
            let schema = json!({"type": "integer", "format": "int64", "minimum": 1});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect()
}

/// Tells by which columns a list is sorted.
fn sort_by(parameters: &mut [Value], columns: &Value) {
    let columns: Vec<&str> = columns.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for parameter in parameters.iter_mut().filter(|parameter| parameter["name"] == "sort") {
        let one = format!("[-+]?({})", columns.join("|"));
        parameter["schema"]["pattern"] = format!("^({one}(,{one})*)?$").into();
        parameter["description"] = format!(
            "The columns to sort by, separated by commas, `-` before those that go down: {}",
            columns.join(", ")
        )
        .into();
    }
}

fn not_null(schema: &mut Value) {
    if let Some(types) = schema.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|word| word != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    for of in ["oneOf", "anyOf"] {
        if let Some(choices) = schema.get_mut(of).and_then(Value::as_array_mut) {
            choices.retain(|choice| choice["type"] != "null");
            if let [only] = choices.as_slice() {
                *schema = only.clone();
            }
        }
    }
}

/// Tells how long properties may be.
fn bound(schemas: &mut Value, properties: &[Property]) {
    for Property { name, limit, items } in properties {
        let schema = &mut schemas[name];
        debug_assert!(schema.is_object(), "there is no property `{name}`");
        tell(schema, *limit);
        if let Some(limit) = items {
            tell(&mut schema["items"], *limit);
        }
    }
}

fn tell(schema: &mut Value, limit: Limit) {
    let is = |word: &str| match &schema["type"] {
        Value::Array(words) => words.iter().any(|known| known == word),
        known => known == word,
    };
    let (least, most) = match () {
        () if is("array") => ("minItems", "maxItems"),
        () if is("object") => ("minProperties", "maxProperties"),
        () if is("integer") => ("minimum", "maximum"),
        () => ("minLength", "maxLength"),
    };
    if limit.min > 0 {
        schema[least] = limit.min.into();
    }
    if limit.max < usize::MAX {
        schema[most] = limit.max.into();
    }
}

/// Puts references in place of what stands among the components too.
fn share(document: &mut Value) {
    let components = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let names: BTreeMap<String, &str> = components
        .iter()
        .filter(|(_, schema)| schema["type"] == "object" && schema.get("properties").is_some())
        .map(|(name, schema)| (schema.to_string(), name.as_str()))
        .collect();
    for (name, value) in document.as_object_mut().into_iter().flatten() {
        if name == "components" {
            for schema in value["schemas"].as_object_mut().into_iter().flat_map(|schemas| schemas.values_mut()) {
                share_within(schema, &names);
            }
        } else {
            share_within(value, &names);
        }
    }
}

fn share_within(value: &mut Value, names: &BTreeMap<String, &str>) {
    let parts: Vec<&mut Value> = match value {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(values) => values.iter_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return,
    };
    for part in parts {
        match names.get(&part.to_string()) {
            Some(name) => *part = json!({"$ref": format!("#/components/schemas/{name}")}),
            None => share_within(part, names),
        }
    }
}

/// Leaves out what only readers of the code know.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match value {
                    Value::String(text) if name == "description" || name == "summary" => {
                        *text = without_sources(text);
                    }
                    _ => tidy(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The text without "(contract …)".
fn without_sources(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (contract ") {
        out.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Password);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_sentence_is_left_out() {
        assert_eq!(without_sources("A task (contract A.6)."), "A task.");
        assert_eq!(without_sources("As it is (our own)."), "As it is (our own).");
    }
}
