//! The file: vantage6's batch YAML, and what we add to it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use twinmesh_protocol::key::PublicKey;

use crate::config::Secret;
use crate::limits::bounded;

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Everything a file says. All but the names may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Batch {
    pub(super) organizations: Vec<Organization>,
    pub(super) collaborations: Vec<Collaboration>,
    /// Stores for all collaborations. Our addition.
    pub(super) algorithm_stores: Vec<AlgorithmStore>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Organization {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) domain: Option<String>,
    #[serde(default)]
    pub(super) address1: Option<String>,
    #[serde(default)]
    pub(super) address2: Option<String>,
    #[serde(default)]
    pub(super) zipcode: Option<String>,
    #[serde(default)]
    pub(super) country: Option<String>,
    /// A PEM text, or base64 of one.
    #[serde(default)]
    pub(super) public_key: Option<String>,
    #[serde(default)]
    pub(super) users: Vec<User>,
    /// Our addition.
    #[serde(default)]
    pub(super) roles: Vec<Role>,
}

bounded!(Organization as "organization" {
    domain: SHORT;
    address1: SHORT;
    address2: SHORT;
    zipcode: SHORT;
    country: SHORT;
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) username: Spanned<String>,
    #[serde(default)]
    pub(super) firstname: Option<String>,
    #[serde(default)]
    pub(super) lastname: Option<String>,
    #[serde(default)]
    pub(super) email: Option<String>,
    #[serde(default)]
    pub(super) password: Option<Secret>,
    /// A hash by bcrypt or argon2id. Our addition.
    #[serde(default)]
    pub(super) password_hash: Option<Secret>,
    /// Names of built-in roles and of the organization's. Our addition.
    #[serde(default)]
    pub(super) roles: Option<Vec<String>>,
    /// Ids of rules. Our addition.
    #[serde(default)]
    pub(super) rules: Vec<i64>,
}

bounded!(User as "user" {
    firstname: SHORT;
    lastname: SHORT;
    email: LOST_EMAIL;
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Role {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) description: Option<String>,
    /// Ids of rules.
    pub(super) rules: Vec<i64>,
}

bounded!(Role as "role" {
    description: DESCRIPTION;
});

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collaboration {
    pub(super) name: Spanned<String>,
    /// As in vantage6, collaborations are encrypted unless they say otherwise.
    #[serde(default = "yes")]
    pub(super) encrypted: bool,
    #[serde(default)]
    pub(super) participants: Vec<Participant>,
    /// Tasks to begin with, which vantage6 makes for tests. Not made here.
    #[serde(default)]
    pub(super) tasks: Option<serde_json::Value>,
    /// Our addition.
    #[serde(default)]
    pub(super) studies: Vec<Study>,
    /// Our addition.
    #[serde(default)]
    pub(super) algorithm_stores: Vec<AlgorithmStore>,
}

/// An organization that takes part, with its node.
#[derive(Debug)]
pub(super) struct Participant {
    pub(super) name: String,
    pub(super) api_key: Option<Secret>,
    /// Whether it has a node. Our addition.
    pub(super) node: bool,
    /// The node's name. Our addition.
    pub(super) node_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Study {
    pub(super) name: Spanned<String>,
    pub(super) organizations: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlgorithmStore {
    pub(super) name: Spanned<String>,
    pub(super) url: String,
    #[serde(default)]
    pub(super) server_url: Option<String>,
    #[serde(default)]
    pub(super) force: bool,
}

fn yes() -> bool {
    true
}

impl<'de> Deserialize<'de> for Participant {
    /// A name, or a map.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            name: String,
            #[serde(default)]
            api_key: Option<Secret>,
            #[serde(default = "yes")]
            node: bool,
            #[serde(default)]
            node_name: Option<String>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Participant;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an organization's name, or a map with `name`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Participant, E> {
                Ok(Participant { name: name.into(), api_key: None, node: true, node_name: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Participant, A::Error> {
                let Fields { name, api_key, node, node_name } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Participant { name, api_key, node, node_name })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { path: PathBuf },
    /// Line, column and key are part of the text; the values around them, which may be secrets, are not.
    #[error("`{path}` is not valid: {why}")]
    Invalid { path: PathBuf, why: String },
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Batch, FileFault> {
    let failed = |source| FileFault::Read { path: path.into(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(FileFault::TooLarge { path: path.into() });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|why| FileFault::Invalid { path: path.into(), why })
}

pub(super) fn parse(text: &str) -> Result<Batch, String> {
    if text.trim().is_empty() {
        return Ok(Batch::default());
    }
    // Without the lines around a fault, which may hold passwords.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// A public key as the interface has it.
pub(super) fn public_key(text: &str) -> Result<Option<String>, String> {
    let text = text.trim_start();
    if text.trim().is_empty() {
        return Ok(None);
    }
    let key = if text.starts_with("-----BEGIN") { STANDARD.encode(text) } else { text.trim().to_owned() };
    PublicKey::from_api(&key).map_err(|error| error.to_string())?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vantage6s_own_example_reads() {
        let batch = parse(include_str!("../../tests/fixtures/vantage6.yaml")).unwrap();
        assert_eq!(batch.organizations.len(), 3);
        assert_eq!(batch.organizations[0].users[1].username.value, "user");
        assert_eq!(batch.collaborations[0].participants[2].name, "Umbrella");
        assert!(batch.collaborations[0].tasks.is_some() && batch.collaborations[1].encrypted);
    }

    #[test]
    fn our_example_reads() {
        let batch = parse(include_str!("../../../docs/import.yaml")).unwrap();
        assert!(!batch.organizations.is_empty() && !batch.collaborations.is_empty());
    }

    #[test]
    fn a_fault_is_told_by_line_and_key_and_without_the_values_around_it() {
        for (text, words) in [
            ("organizations:\n  - name: a\n    colour: red\n", ["line 3", "colour"]),
            ("organizations:\n  - users: []\n", ["line 2", "name"]),
            ("collaborations:\n  - name: a\n    participants:\n      - {name: b, key: x}\n", ["line 4", "key"]),
            ("organisations: []\n", ["line 1", "organisations"]),
            (
                "organizations:\n  - name: a\n    users:\n      - username: x\n        password: hunter2\n        passwort: hunter2\n",
                ["line 6", "passwort"],
            ),
        ] {
            let why = parse(text).unwrap_err();
            assert!(words.iter().all(|word| why.contains(word)), "{text}: {why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_key_may_be_pem_or_base64_of_it() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = public_key(pem).unwrap();
        assert_eq!(key, Some(STANDARD.encode(pem)));
        assert_eq!(public_key(key.as_deref().unwrap()).unwrap(), key);
        assert_eq!(public_key(" \n").unwrap(), None);
        assert!(public_key("nonsense").is_err());
    }
}
