//! Where the coordinator is.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// The address of a coordinator, or a list with those of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorUrl(Vec<Url>);

impl CoordinatorUrl {
    /// Each instance's address; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Url> {
        self.0.iter()
    }
}

impl From<Url> for CoordinatorUrl {
    fn from(url: Url) -> Self {
        Self(vec![url])
    }
}

/// With commas in between, as the client takes them.
impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, url) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(url, f)?;
        }
        Ok(())
    }
}

impl Serialize for CoordinatorUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CoordinatorUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = CoordinatorUrl;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address like `https://coordinator.example.org`, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CoordinatorUrl, E> {
                text.parse::<Url>().map(CoordinatorUrl::from).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<CoordinatorUrl, A::Error> {
                let mut urls = Vec::new();
                while let Some(url) = list.next_element()? {
                    urls.push(url);
                }
                if urls.is_empty() {
                    return Err(de::Error::custom("the list of addresses is empty"));
                }
                Ok(CoordinatorUrl(urls))
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Settings {
        url: CoordinatorUrl,
    }

    #[test]
    fn one_address_or_several_read_and_write_back() {
        for (text, joined) in [
            ("url = \"https://a.example/api\"\n", "https://a.example/api"),
            ("url = [\"https://a.example/api\", \"https://b.example/\"]\n", "https://a.example/api,https://b.example/"),
        ] {
            let settings: Settings = toml::from_str(text).unwrap();
            assert_eq!(settings.url.to_string(), joined);
            assert_eq!(toml::to_string(&settings).unwrap(), text);
        }
        for text in ["url = []", "url = 5", "url = \"a.example\""] {
            assert!(toml::from_str::<Settings>(text).is_err(), "{text}");
        }
    }
}
