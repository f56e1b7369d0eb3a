//! Request bodies. What does not read is a 400 that names the field, in the contract's words.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::limits::{self, Bounded, Described, Limit, bounded, described};

/// A body read as JSON, whatever its content type says, of which nothing is too long.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Bounded> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Problem::new(error.status(), "body_unreadable", error.body_text()))?;
        let body = read(&bytes)?;
        let faults = limits::faults(&body);
        if faults.is_empty() { Ok(Self(body)) } else { Err(Problem::fields(faults)) }
    }
}

/// Reads a body.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Lists would otherwise be read as an object's fields in order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::field("_schema", "Invalid input type."));
    }
    if holds_nul(bytes) {
        return Err(Problem::field("_schema", "Text must not hold the character U+0000."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| explain(&error))?;
    json.end().map_err(|error| Problem::field("_schema", format!("Invalid JSON: {error}.")))?;
    Ok(value)
}

/// Whether a text in the JSON holds the character that PostgreSQL cannot keep. JSON has it as an escape only.
fn holds_nul(mut json: &[u8]) -> bool {
    while let Some(at) = json.iter().position(|byte| *byte == b'\\') {
        json = json.get(at + 1..).unwrap_or_default();
        if json.starts_with(b"u0000") {
            return true;
        }
        // What is escaped may be a backslash itself.
        json = json.get(1..).unwrap_or_default();
    }
    false
}

fn explain(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    let path = error.path().to_string();
    let text = inner.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if inner.is_syntax() || inner.is_eof() {
        return Problem::field("_schema", format!("Invalid JSON: {inner}."));
    }
    // The path ends in the unknown field itself, or before the missing one.
    let within = |field: &str| match path.as_str() {
        "." => field.to_owned(),
        path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        path => format!("{path}.{field}"),
    };
    if let Some(field) = between(text, "unknown field `", "`") {
        Problem::field(within(field), "Unknown field.")
    } else if let Some(field) = between(text, "missing field `", "`") {
        Problem::field(within(field), "Missing data for required field.")
    } else {
        let field = if path == "." { "_schema".to_owned() } else { path };
        let mut sentence = text.to_owned();
        if let Some(first) = sentence.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Problem::field(field, format!("{sentence}."))
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.split_once(after).map(|(field, _)| field)
}

/// The body of the sub-endpoints that take one id.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Id)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdBody {
    /// The id.
    pub(crate) id: i64,
}

bounded!(IdBody as "Id" {
    id: ID;
});
pub(crate) const LIMITS: &[Described] = &[described::<IdBody>()];

/// Checks a name: neither too long nor only digits (contract A.7), and without line breaks and the like, which would make
/// lines of their own in logs.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    check_length(field, name, limits::NAME)?;
    if name.trim().is_empty() {
        return Err(Problem::field(field, "Name cannot be empty."));
    }
    if name.chars().all(|c| c.is_ascii_digit()) {
        return Err(Problem::field(field, "Name cannot be a number."));
    }
    check_printable(field, name)
}

/// Refuses a text with control characters.
pub(crate) fn check_printable(field: &str, text: &str) -> Result<(), Problem> {
    if text.contains(char::is_control) {
        return Err(Problem::field(field, limits::CONTROL_CHARACTERS));
    }
    Ok(())
}

/// The name that something has after a change: what is given is checked, what was there stays as it is.
pub(crate) fn changed_name(given: Option<String>, before: String) -> Result<String, Problem> {
    given.map_or(Ok(before), |name| check_name("name", &name).map(|()| name))
}

/// Checks the length of a text in characters.
pub(crate) fn check_length(field: &str, text: &str, limit: Limit) -> Result<(), Problem> {
    limit.fault(&text).map_or(Ok(()), |fault| Err(Problem::field(field, fault)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its presence matters")]
        name: String,
        #[expect(dead_code, reason = "only its presence matters")]
        #[serde(default)]
        inner: Vec<IdBody>,
    }

    fn errors(body: &str) -> String {
        let problem = read::<Outer>(body.as_bytes()).unwrap_err();
        assert_eq!(problem.msg(), "Request body is incorrect");
        format!("{problem:?}")
    }

    #[test]
    fn an_escaped_backslash_before_a_number_is_no_character() {
        read::<Outer>(br#"{"name":"a\\u0000\n\\"}"#).unwrap();
    }

    #[test]
    fn each_fault_is_told_by_field() {
        for (body, field, text) in [
            (r#"{"name":"a","foo":1}"#, "\"foo\"", "Unknown field."),
            (r"{}", "\"name\"", "Missing data for required field."),
            (r#"{"name":1}"#, "\"name\"", "Invalid type: integer `1`, expected a string."),
            (r#"{"name":"a","inner":[{"id":1,"x":2}]}"#, "\"inner[0].x\"", "Unknown field."),
            (r#"{"name":"a","inner":[{}]}"#, "\"inner[0].id\"", "Missing data for required field."),
            ("", "_schema", "Invalid JSON"),
            (r#"{"name":"a"} x"#, "_schema", "Invalid JSON"),
            (r#" ["a"]"#, "_schema", "Invalid input type."),
            (r#"{"name":"a\\\u0000"}"#, "_schema", "U+0000"),
            ("1", "_schema", "Invalid type"),
        ] {
            let errors = errors(body);
            assert!(errors.contains(field) && errors.contains(text), "{body}: {errors}");
        }
    }
}
