//! Durations and sizes as people write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The error of reading a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: write {example}")]
pub struct InvalidValue {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A length of time, written as `250ms`, `30s`, `10m`, `6h` or `90d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes, written as `4096`, `64KiB`, `512MiB` or `2GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const PERIODS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

fn unit(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == name).map(|(_, factor)| *factor)
}

impl FromStr for Period {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        number_and_unit(text)
            .and_then(|(number, name)| number.checked_mul(unit(&PERIODS, name)?))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| InvalidValue { text: text.into(), what: "duration", example: "`30s`, `10m` or `6h`" })
    }
}

impl FromStr for Size {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        number_and_unit(text)
            .and_then(|(number, name)| {
                let factor = if name.is_empty() { 1 } else { unit(&SIZES, name)? };
                number.checked_mul(factor)
            })
            .map(Self)
            .ok_or_else(|| InvalidValue { text: text.into(), what: "size", example: "`64KiB`, `512MiB` or `2GiB`" })
    }
}

/// Writes with the largest unit that divides the number.
fn write_largest(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fitting = units.iter().filter(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    match fitting.max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => write!(f, "{}{name}", number / factor),
        None => write!(f, "{number}{}", units.iter().find(|(_, factor)| *factor == 1).map_or("", |(name, _)| name)),
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &PERIODS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, self.0, &SIZES)
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Period, Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_values_read_and_write_back() {
        for text in ["250ms", "30s", "10m", "6h", "90d", "0ms"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Period>().unwrap().0, Duration::from_secs(90));
        for (text, bytes) in [("2GiB", 2 << 30), ("64 KiB", 64 << 10), ("100", 100), ("3MB", 3_000_000)] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes));
        }
        assert_eq!(Size(2 << 30).to_string(), "2GiB");
    }

    #[test]
    fn what_is_no_value_is_refused_with_an_example() {
        for text in ["", "s", "-1s", "1 fortnight", "99999999999999999999d", "5"] {
            assert!(text.parse::<Period>().unwrap_err().to_string().contains("30s"), "{text}");
        }
        for text in ["", "GiB", "-1", "2 gigabytes", "99999999999TiB"] {
            assert!(text.parse::<Size>().unwrap_err().to_string().contains("2GiB"), "{text}");
        }
    }
}
