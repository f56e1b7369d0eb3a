//! Query arguments. Unknown ones are ignored; known ones that do not read are a 400 that names them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::NaiveDate;
use twinmesh_protocol::time::Time;

use super::problem::Problem;
use crate::limits::PATTERN;

/// The query of a request, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    path: String,
    pairs: Vec<(String, String)>,
    /// What the handler has declared, to find out in tests when it reads anything else.
    #[cfg(debug_assertions)]
    declared: Option<BTreeSet<String>>,
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let uri = parts.extensions.get::<axum::extract::OriginalUri>().map_or(&parts.uri, |original| &original.0);
        let params = Self::parse(uri.path(), uri.query().unwrap_or_default());
        #[cfg(debug_assertions)]
        let params = params.declared(parts);
        Ok(params)
    }
}

impl Params {
    pub(crate) fn parse(path: &str, query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self {
            path: path.to_owned(),
            pairs,
            #[cfg(debug_assertions)]
            declared: None,
        }
    }

    #[cfg(debug_assertions)]
    fn declared(self, parts: &Parts) -> Self {
        let declared = parts
            .extensions
            .get::<std::sync::Arc<super::openapi::Document>>()
            .zip(parts.extensions.get::<axum::extract::MatchedPath>())
            .and_then(|(document, path)| document.query(parts.method.as_str(), path.as_str()));
        Self { declared: declared.cloned(), ..self }
    }

    /// The path that was asked for, from the host's root.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Every argument as it was given.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// A text; absent when empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// What a text is to be like: `%` and `_` stand for others. Comparing takes time for each character of it.
    pub(crate) fn pattern(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.text(name) {
            Some(text) if PATTERN.fault(&text).is_some() => {
                Err(invalid(name, format!("use up to {} characters", PATTERN.max)))
            }
            pattern => Ok(pattern),
        }
    }

    /// A value of a type that reads from text: an id, a number, a status. Absent when empty.
    pub(crate) fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name).map(|text| read(name, text)).transpose()
    }

    /// Every value of an argument that may be repeated, each once.
    pub(crate) fn several<T: FromStr<Err: Display> + Ord>(&self, name: &str) -> Result<BTreeSet<T>, Problem> {
        self.all(name).filter(|text| !text.is_empty()).map(|text| read(name, text)).collect()
    }

    /// A truth value: `false`, `0`, `no`, `off` and nothing are false whatever the case, `true`, `1`, `yes`, `on` are
    /// true (contract F.1-1).
    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>, Problem> {
        let Some(text) = self.all(name).next() else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "" | "false" | "0" | "no" | "off" | "none" | "null" => Ok(Some(false)),
            "true" | "1" | "yes" | "on" => Ok(Some(true)),
            _ => Err(invalid(name, "use true or false")),
        }
    }

    /// A truth value that is false when absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.truth(name)?.unwrap_or(false))
    }

    /// Whether an argument stands there at all, with whatever value.
    pub(crate) fn is_present(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// An instant. A day alone, as the stock client's documentation has it, is its beginning; Python's own text of a
    /// date and time has a space in the middle.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Time>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let whole =
            if text.parse::<NaiveDate>().is_ok() { format!("{text}T00:00:00") } else { text.replacen(' ', "T", 1) };
        read(name, &whole).map(Some)
    }

    /// Whether `include=` names something, in a list or repeated.
    pub(crate) fn includes(&self, what: &str) -> bool {
        self.all("include").any(|value| value.split(',').any(|word| word.trim() == what))
    }

    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        #[cfg(debug_assertions)]
        debug_assert!(
            self.declared.as_ref().is_none_or(|declared| declared.contains(name)),
            "the query argument `{name}` of `{}` is read but not declared",
            self.path
        );
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A 400 about a query argument.
pub(crate) fn invalid(name: &str, why: impl Display) -> Problem {
    Problem::bad_request("invalid_query", format!("The query argument `{name}` is invalid: {why}"))
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| invalid(name, error))
}

/// Undoes percent encoding and `+`; what is no UTF-8 becomes the replacement character.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| data_encoding::HEXLOWER_PERMISSIVE.decode(hex).ok());
        match escaped.as_deref() {
            Some([value]) => {
                out.push(*value);
                at += 3;
            }
            Some(_) | None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes a query argument's name or value as Python's `urlencode` does, for links.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b',' | b':' => out.push(byte.into()),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_as_it_was_meant() {
        let params = Params::parse("/api/task", "ids=1&ids=2&name=a+b%20%2525&include=runs,results&x&bad=%zz%4");
        assert_eq!(params.several::<i64>("ids").unwrap(), BTreeSet::from([1, 2]));
        assert_eq!(params.text("name"), Some("a b %25"));
        assert!(params.includes("results") && params.includes("runs") && !params.includes("run"));
        assert!(params.is_present("x"));
        assert_eq!(params.text("bad"), Some("%zz%4"));
        assert!(params.get::<i64>("name").unwrap_err().msg().contains("`name`"));
    }

    #[test]
    fn a_pattern_that_is_too_long_is_named() {
        let params = |length: usize| Params::parse("", &format!("name={}", "%C3%A9".repeat(length)));
        assert_eq!(params(1024).pattern("name").unwrap().map(|text| text.chars().count()), Some(1024));
        assert!(params(1025).pattern("name").unwrap_err().msg().contains("`name`"));
        assert_eq!(params(0).pattern("name").unwrap(), None);
    }

    #[test]
    fn false_as_text_is_false() {
        for (text, value) in [("False", false), ("0", false), ("", false), ("no", false), ("True", true), ("1", true)] {
            assert_eq!(Params::parse("", &format!("f={text}")).flag("f").unwrap(), value, "{text}");
        }
        assert!(Params::parse("", "f=perhaps").flag("f").is_err());
        assert_eq!(Params::parse("", "").truth("f").unwrap(), None);
    }

    #[test]
    fn an_instant_may_be_a_day_or_what_python_prints() {
        let time = |text| Params::parse("", &format!("at={}", encode(text))).time("at");
        let midnight = time("2026-11-23T00:00:00").unwrap();
        assert!(midnight.is_some());
        for text in ["2026-11-23", "2026-11-23 00:00:00", "2026-11-23T01:00:00+01:00", "2026-11-23 01:00:00+01:00"] {
            assert_eq!(time(text).unwrap(), midnight, "{text}");
        }
        for text in ["2026-11-31", "yesterday", "2026", "2026-11-23 noon"] {
            assert!(time(text).unwrap_err().msg().contains("`at`"), "{text}");
        }
        assert_eq!(time("").unwrap(), None);
    }
}
