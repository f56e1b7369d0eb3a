//! The arguments that a run may give with its questions.
//!
//! They go on to the coordinator, which may not learn anything about the data. So each has a type that holds no text of the
//! run's own, and what goes on is written anew.

use axum::http::StatusCode;

use super::Failure;

/// What an argument may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Number,
    Flag,
    /// Words of this list, separated by commas; a sign may stand before each.
    Words(&'static [&'static str]),
    /// A text that stays here.
    Own,
}

type Known = (&'static str, Kind);

const PAGES: [Known; 3] =
    [("page", Kind::Number), ("per_page", Kind::Number), ("sort", Kind::Words(&["id", "name", "status"]))];

/// The arguments of a question, each of its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arguments(Vec<(&'static str, String)>);

impl Arguments {
    /// Reads the query of a call that is on the allow-list.
    pub(super) fn read(path: &str, query: &str) -> Result<Self, Failure> {
        let known = known(path);
        let mut arguments = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let (name, kind) = known.iter().copied().find(|(known, _)| *known == name).ok_or_else(|| {
                let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                refuse(format!("an algorithm may not give this argument with /{path}; known are: {known}"))
            })?;
            if let Some(value) = kind.read(&value).map_err(|what| refuse(format!("the argument `{name}` is {what}")))? {
                arguments.push((name, value));
            }
        }
        Ok(Self(arguments))
    }

    /// The value of an argument that may be given more than once, but not differently.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut values = self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.any(|value| Some(value) != first) {
            return Err(refuse(format!("the argument `{name}` is given twice, and differently")));
        }
        Ok(first)
    }

    /// A number, likewise.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        Ok(self.one(name)?.and_then(|text| text.parse().ok()))
    }

    /// Path and query for the coordinator.
    pub(super) fn target(&self, path: &str) -> String {
        let mut target = path.to_owned();
        for (index, (name, value)) in self.0.iter().filter(|(name, _)| *name != LABEL).enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(value);
        }
        target
    }
}

/// The label of twins' ports: a text of the image's, so the gateway looks for it itself.
pub(super) const LABEL: &str = "label";

fn known(path: &str) -> Vec<Known> {
    let number = |names: &[&'static str]| names.iter().map(|name| (*name, Kind::Number)).collect::<Vec<_>>();
    let (noun, rest) = path.split_once('/').unwrap_or((path, ""));
    if noun == "vpn" {
        let flags =
            ["include_children", "include_parent", "only_children", "only_parent", "only_siblings", "only_self"];
        return flags.map(|name| (name, Kind::Flag)).into_iter().chain([(LABEL, Kind::Own)]).collect();
    }
    let include = |words| vec![("include", Kind::Words(words))];
    let included = match noun {
        "collaboration" | "study" => include(&["organizations"]),
        "task" => include(&["runs", "results"]),
        "run" => include(&["task"]),
        _ => Vec::new(),
    };
    if !rest.is_empty() {
        return if rest.contains('/') { Vec::new() } else { included };
    }
    let own = match noun {
        "organization" => number(&["collaboration_id", "study_id", "ids"]),
        "collaboration" | "study" => number(&["collaboration_id", "organization_id"]),
        "task" => number(&["collaboration_id", "study_id", "parent_id", "job_id", "init_org_id", "run_id"]),
        "run" => {
            let mut own = number(&["task_id", "collaboration_id", "organization_id", "node_id"]);
            own.push(("state", Kind::Words(&["open"])));
            own
        }
        "result" => number(&["task_id"]),
        _ => return Vec::new(),
    };
    own.into_iter().chain(included).chain(PAGES).collect()
}

impl Kind {
    /// The value as it goes on; `None` when there is none.
    fn read(self, text: &str) -> Result<Option<String>, String> {
        match self {
            Self::Number if text.is_empty() => Ok(None),
            Self::Number => match text.parse::<i64>() {
                Ok(number) if number > 0 => Ok(Some(number.to_string())),
                Ok(_) | Err(_) => Err("no whole number from 1".into()),
            },
            Self::Flag => match text.to_ascii_lowercase().as_str() {
                "" | "true" | "1" | "yes" | "on" => Ok(Some("true".into())),
                "false" | "0" | "no" | "off" | "none" | "null" => Ok(Some("false".into())),
                _ => Err("neither true nor false".into()),
            },
            Self::Words(words) => {
                let mut read = Vec::new();
                for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                    let (sign, word) = match text.strip_prefix('-') {
                        Some(word) => ("-", word),
                        None => ("", text.trim_start_matches('+')),
                    };
                    let word = words.iter().find(|known| **known == word);
                    let word = word.ok_or_else(|| format!("none of {}", words.join(", ")))?;
                    read.push(format!("{sign}{word}"));
                }
                Ok((!read.is_empty()).then(|| read.join(",")))
            }
            Self::Own => Ok((!text.is_empty()).then(|| text.to_owned())),
        }
    }
}

fn refuse(text: String) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str, query: &str) -> Result<String, String> {
        Arguments::read(path, query)
            .map(|arguments| arguments.target(path))
            .map_err(|failure| failure.body["msg"].to_string())
    }

    #[test]
    fn arguments_that_algorithms_need_go_on_in_one_form() {
        for (path, query, expected) in [
            ("result", "task_id=7&task_id=7&page=1", "result?task_id=7&task_id=7&page=1"),
            ("organization", "ids=1&ids=2&study_id=", "organization?ids=1&ids=2"),
            ("run", "task_id=007&include=task&sort=-id,%2Bstatus", "run?task_id=7&include=task&sort=-id,status"),
            ("task/7", "include=runs%2Cresults", "task/7?include=runs,results"),
            ("task/7/status", "", "task/7/status"),
            (
                "vpn/algorithm/addresses",
                "only_siblings=True&label=secret&include_parent=0",
                "vpn/algorithm/addresses?only_siblings=true&include_parent=false",
            ),
        ] {
            assert_eq!(target(path, query).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn whatever_could_carry_a_text_to_the_coordinator_is_refused() {
        for (path, query) in [
            ("organization", "name=secret"),
            ("organization", "secret"),
            ("task", "description=secret"),
            ("task/7", "x=1"),
            ("task/7/status", "page=1"),
            ("version", "secret=1"),
            ("run", "task_id=secret"),
            ("run", "task_id=-1"),
            ("run", "include=secret"),
            ("run", "sort=secret"),
            ("result/7", "task_id=7"),
            ("node/7", "a=b"),
            ("vpn/algorithm/addresses", "only_self=secret"),
        ] {
            assert!(target(path, query).is_err(), "{path}?{query}");
        }
        let arguments = Arguments::read("result", "task_id=7&task_id=8").unwrap();
        assert!(arguments.number("task_id").is_err());
    }
}
