//! Values as people type them.

use std::time::Duration;

use serde_json::Value;
use twinmesh_protocol::id::EventSequence;

/// A named argument of a function.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) value: Value,
}

/// Reads `name=value`. What is not JSON is text, so that words need no quotes.
pub(super) fn parse_argument(text: &str) -> Result<Argument, String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let is_name = |name: &str| {
        let mut characters = name.chars();
        characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && characters.all(|character| character.is_alphanumeric() || character == '_')
    };
    if !is_name(name) {
        return Err(format!("`{name}` is no name of an argument: use letters, digits and `_`"));
    }
    let value = match serde_json::from_str(value) {
        Ok(value) => value,
        // What begins like a list, an object or a quoted text was meant as JSON.
        Err(error) if value.starts_with(['[', '{', '"']) => return Err(format!("the value is no JSON: {error}")),
        Err(_) => Value::String(value.into()),
    };
    Ok(Argument { name: name.into(), value })
}

/// Reads a duration like `90s`, `30m`, `12h` or `7d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = || "write a number with a unit, as in 90s, 30m, 12h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(hint)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(hint()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| hint())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=10 * 365 * 86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "use between 1 second and 10 years".into())
}

/// Reads a place in the event log.
pub(super) fn parse_sequence(text: &str) -> Result<EventSequence, String> {
    match text.parse::<i64>() {
        Ok(sequence) if sequence >= 0 => Ok(EventSequence::new(sequence)),
        Ok(_) | Err(_) => Err("use a whole number from 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_are_json_or_else_text() {
        for (text, value) in [
            ("x=1", json!(1)),
            ("x=age", json!("age")),
            ("x=\"1\"", json!("1")),
            ("x=[\"a\", 2]", json!(["a", 2])),
            ("x=a=b", json!("a=b")),
            ("x=", json!("")),
            ("x=true", json!(true)),
        ] {
            assert_eq!(parse_argument(text), Ok(Argument { name: "x".into(), value }), "{text}");
        }
        for text in ["x", "=1", "1x=2", "a b=1", "x=[1", "x={]"] {
            assert!(parse_argument(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_an_end() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["", "7", "d", "-1s", "0s", "1y", "99999999999999999999d", "9999999999999999d", "1µ"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_json_value_survives(name in "[a-z_][a-z0-9_]{0,8}", number in any::<i64>(), text in ".{0,20}") {
            for value in [json!(number), json!(text), json!([number, text])] {
                let parsed = parse_argument(&format!("{name}={value}")).unwrap();
                prop_assert_eq!(parsed, Argument { name: name.clone(), value });
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,40}") {
            let _ = parse_argument(&text);
            let _ = parse_duration(&text);
        }
    }
}
