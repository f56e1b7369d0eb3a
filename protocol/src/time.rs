//! Instants, in the text form of the contract.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC with microseconds.
///
/// Its wire form is ISO 8601 without a zone (`2026-11-23T02:21:12.429374`, contract A.1); text with an offset is
/// read too and converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// The error of reading an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no date and time: use ISO 8601, as in 2026-11-23T02:21:12")]
pub struct InvalidTime(String);

impl Time {
    /// The instant so many microseconds after 1970-01-01T00:00:00 UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00 UTC.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00 UTC.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This instant plus a duration; the end of time if that lies beyond it.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 with a `Z`, for people and logs.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        self.datetime().to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn datetime(self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH.checked_add_signed(TimeDelta::microseconds(self.0)).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }
}

impl From<DateTime<Utc>> for Time {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_micros())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.datetime().naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f"))
    }
}

impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(at.timestamp_micros()));
        }
        text.parse::<NaiveDateTime>()
            .map(|at| Self(at.and_utc().timestamp_micros()))
            .map_err(|_| InvalidTime(text.into()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("An instant in UTC: ISO 8601 with microseconds and without a zone."))
            .pattern(Some(r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}$"))
            .examples(["2026-11-23T02:21:12.429374"])
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Time {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_the_contracts() {
        let text = "2026-11-23T02:21:12.429374";
        let at: Time = text.parse().unwrap();
        assert_eq!(at.to_string(), text);
        assert_eq!("2026-11-23T03:21:12.429374+01:00".parse::<Time>().unwrap(), at);
        assert_eq!(at.to_rfc3339(), "2026-11-23T02:21:12.429Z");
    }

    #[test]
    fn extreme_instants_neither_panic_nor_wrap() {
        for micros in [i64::MIN, i64::MAX, 0] {
            let _ = Time::from_micros(micros).to_string();
        }
        assert!("tomorrow".parse::<Time>().is_err());
    }
}
