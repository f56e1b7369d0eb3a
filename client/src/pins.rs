//! The public keys of organizations as first seen.
//!
//! A coordinator hands out public keys, and could hand out its own. So the first key seen of an organization is
//! pinned, and another one is refused until a person replaced the pin, having compared fingerprints with the
//! organization by other means. In the same way a collaboration seen encrypted is never again believed to be plain.
//!
//! A coordinator could as well invent an organization whose key is its own. So an encrypted collaboration's members are
//! those of its first sight: a later one is refused until a person pinned its key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::{KeyError, PublicKey};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::Organization;

use crate::file;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Why a key is not trusted, or the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Another key than the pinned one.
    #[error(
        "the coordinator shows another key for organization `{organization}` than the one pinned: shown {found}, \
         pinned {pinned}; ask the organization by other means which is its own, and replace the pin only if it is \
         the shown one"
    )]
    Mismatch {
        /// The organization's name.
        organization: String,
        /// The fingerprint of the pinned key.
        pinned: String,
        /// The fingerprint of the key shown.
        found: String,
    },
    /// The organization has not uploaded a key.
    #[error("organization `{organization}` has no public key: its node uploads one when it starts")]
    NoKey {
        /// The organization's name.
        organization: String,
    },
    /// What the coordinator shows is no key.
    #[error("the public key of organization `{organization}` cannot be used")]
    Key {
        /// The organization's name.
        organization: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A collaboration that was encrypted is shown as plain.
    #[error(
        "the coordinator shows collaboration `{collaboration}` as not encrypted, but it was encrypted before: \
         nothing is sent to it in the open"
    )]
    Downgrade {
        /// The collaboration's name.
        collaboration: String,
    },
    /// An organization that joined an encrypted collaboration after its first sight, and whose key nobody vouched for.
    #[error(
        "organization `{organization}` was not in collaboration `{collaboration}` when this was seen first, and nobody \
         vouched for its key {found}: ask the organization by other means whether the key is its own, then pin it with \
         `{}`", pin_command(.organization, *.id, .found)
    )]
    Newcomer {
        /// The organization's name.
        organization: String,
        /// Its id.
        id: OrganizationId,
        /// The collaboration's name.
        collaboration: String,
        /// The fingerprint of the key shown.
        found: String,
    },
    /// The file cannot be read.
    #[error("cannot read the pinned keys in `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the pinned keys to `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("`{path}` holds no pinned keys: {problem}; restore it from a backup, or remove it to pin anew")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, at which place.
        problem: String,
    },
}

/// A pinned key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// The organization's name when it was pinned; for people.
    pub name: String,
    /// The key, of either kind: one kind never takes the place of the other.
    pub key: PublicKey,
    /// Since when.
    pub pinned_at: Time,
    /// Whether a person set it, rather than first sight.
    pub is_confirmed: bool,
}

/// What a check of a key found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The pinned key.
    Known,
    /// A key that is pinned from now on.
    First,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    pins: Vec<Pin>,
    #[serde(default)]
    encrypted_collaborations: BTreeSet<CollaborationId>,
    #[serde(default)]
    members: BTreeMap<CollaborationId, BTreeSet<OrganizationId>>,
}

/// Pinned keys, in a file or only in memory.
///
/// Every change is written at once. Several processes may share a file.
#[derive(Debug)]
pub struct PinStore {
    path: Option<PathBuf>,
    pins: BTreeMap<OrganizationId, Pin>,
    encrypted_collaborations: BTreeSet<CollaborationId>,
    /// Who was in a collaboration at its first sight.
    members: BTreeMap<CollaborationId, BTreeSet<OrganizationId>>,
}

impl PinStore {
    /// A store that ends with the process.
    #[must_use]
    pub const fn in_memory() -> Self {
        Self { path: None, pins: BTreeMap::new(), encrypted_collaborations: BTreeSet::new(), members: BTreeMap::new() }
    }

    /// The file; none for a store that ends with the process.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens a store; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, PinError> {
        let mut store = Self { path: Some(path.into()), ..Self::in_memory() };
        store.reload()?;
        Ok(store)
    }

    /// The pin of an organization.
    #[must_use]
    pub fn get(&self, organization: OrganizationId) -> Option<&Pin> {
        self.pins.get(&organization)
    }

    /// The pinned key of an organization.
    #[must_use]
    pub fn key(&self, organization: OrganizationId) -> Option<PublicKey> {
        self.get(organization).map(|pin| pin.key.clone())
    }

    /// All pins, by organization.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.pins.values()
    }

    /// Compares the key that the coordinator shows for an organization with the pinned one, and pins it on first
    /// sight. Returns the key, which is then the pinned one.
    ///
    /// # Errors
    /// When the organization shows no usable key or another one, or the store cannot be written.
    pub fn check(&mut self, organization: &Organization, now: Time) -> Result<(PublicKey, Seen), PinError> {
        let found = shown_key(organization)?;
        self.check_key(organization.id, &organization.name, &found, now).map(|seen| (found, seen))
    }

    /// Compares a key with the pinned one, and pins it on first sight.
    ///
    /// # Errors
    /// When another key is pinned, or the store cannot be written.
    pub fn check_key(
        &mut self,
        organization: OrganizationId,
        name: &str,
        found: &PublicKey,
        now: Time,
    ) -> Result<Seen, PinError> {
        if let Some(pin) = self.pins.get(&organization) {
            return known(pin, name, found);
        }
        let _lock = self.lock()?;
        self.reload()?;
        // Another process may have pinned in the meantime.
        if let Some(pin) = self.pins.get(&organization) {
            return known(pin, name, found);
        }
        self.insert(organization, name, found.clone(), now);
        self.save()?;
        Ok(Seen::First)
    }

    fn insert(&mut self, organization: OrganizationId, name: &str, key: PublicKey, now: Time) {
        tracing::info!(organization.id = %organization, "pinned the key {} of `{name}` on first sight", key.fingerprint());
        let pin = Pin { organization_id: organization, name: name.into(), key, pinned_at: now, is_confirmed: false };
        self.pins.insert(organization, pin);
    }

    /// Remembers who is in a collaboration and pins the keys that they show, when the collaboration is seen for the
    /// first time; whoever shows no usable key then is still remembered, and pinned when it does. Does nothing later.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn first_sight(
        &mut self,
        collaboration: CollaborationId,
        members: &[Organization],
        now: Time,
    ) -> Result<(), PinError> {
        if self.members.contains_key(&collaboration) {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.reload()?;
        // Another process may have seen it in the meantime.
        if self.members.contains_key(&collaboration) {
            return Ok(());
        }
        for member in members {
            if let Ok(key) = shown_key(member)
                && !self.pins.contains_key(&member.id)
            {
                self.insert(member.id, &member.name, key, now);
            }
        }
        self.members.insert(collaboration, members.iter().map(|member| member.id).collect());
        self.save()
    }

    /// Whether an organization may be trusted as a member: it was one at the first sight of the collaboration, or a
    /// person vouches for its key. A key that was pinned on sight of another collaboration does not suffice.
    #[must_use]
    pub fn is_admitted(&self, collaboration: CollaborationId, organization: OrganizationId) -> bool {
        let is_member = self.members.get(&collaboration).is_some_and(|members| members.contains(&organization));
        is_member || self.pins.get(&organization).is_some_and(|pin| pin.is_confirmed)
    }

    /// Compares the key that the coordinator shows for a member of a collaboration with the pinned one. Pins it when the
    /// organization was a member at first sight, but had no key then.
    ///
    /// # Errors
    /// When the organization shows no usable key or another one, joined later without anybody vouching for its key, or the store cannot
    /// be written.
    pub fn check_member(
        &mut self,
        collaboration: (CollaborationId, &str),
        member: &Organization,
        now: Time,
    ) -> Result<(PublicKey, Seen), PinError> {
        let found = shown_key(member)?;
        if !self.is_admitted(collaboration.0, member.id) {
            // A person may have pinned it by another process.
            self.reload()?;
        }
        if !self.is_admitted(collaboration.0, member.id) {
            return Err(PinError::Newcomer {
                organization: member.name.clone(),
                id: member.id,
                collaboration: collaboration.1.into(),
                found: found.fingerprint(),
            });
        }
        self.check_key(member.id, &member.name, &found, now).map(|seen| (found, seen))
    }

    /// Pins a key that a person vouches for, instead of any before.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn set(
        &mut self,
        organization: OrganizationId,
        name: &str,
        key: impl Into<PublicKey>,
        now: Time,
    ) -> Result<(), PinError> {
        let key = key.into();
        let _lock = self.lock()?;
        self.reload()?;
        let pin = Pin { organization_id: organization, name: name.into(), key, pinned_at: now, is_confirmed: true };
        self.pins.insert(organization, pin);
        self.save()
    }

    /// Forgets the pin of an organization; `false` when there was none. The next key seen is pinned if the organization
    /// was a member of the collaboration at first sight.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn forget(&mut self, organization: OrganizationId) -> Result<bool, PinError> {
        let _lock = self.lock()?;
        self.reload()?;
        let existed = self.pins.remove(&organization).is_some();
        if existed {
            self.save()?;
        }
        Ok(existed)
    }

    /// Remembers that a collaboration is encrypted, and refuses to believe the opposite later.
    ///
    /// # Errors
    /// When it was encrypted before and is not now, or the store cannot be written.
    pub fn check_encryption(&mut self, id: CollaborationId, name: &str, encrypted: bool) -> Result<(), PinError> {
        match (encrypted, self.encrypted_collaborations.contains(&id)) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => Err(PinError::Downgrade { collaboration: name.into() }),
            (true, false) => {
                let _lock = self.lock()?;
                self.reload()?;
                self.encrypted_collaborations.insert(id);
                self.save()
            }
        }
    }

    fn reload(&mut self) -> Result<(), PinError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.pins.clear();
                self.encrypted_collaborations.clear();
                self.members.clear();
                return Ok(());
            }
            Err(source) => return Err(PinError::Read { path: path.clone(), source }),
        };
        let malformed = |problem: String| PinError::Malformed { path: path.clone(), problem };
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if content.version != VERSION {
            return Err(malformed(format!("it has version {}, known is {VERSION}", content.version)));
        }
        self.pins = content.pins.into_iter().map(|pin| (pin.organization_id, pin)).collect();
        self.encrypted_collaborations = content.encrypted_collaborations;
        self.members = content.members;
        Ok(())
    }

    fn save(&self) -> Result<(), PinError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let content = Content {
            version: VERSION,
            pins: self.pins.values().cloned().collect(),
            encrypted_collaborations: self.encrypted_collaborations.clone(),
            members: self.members.clone(),
        };
        let write = |source| PinError::Write { path: path.clone(), source };
        let mut bytes = serde_json::to_vec_pretty(&content).map_err(|error| write(error.into()))?;
        bytes.push(b'\n');
        file::replace_private(path, &bytes).map_err(write)
    }

    /// Keeps other processes from changing the file until dropped.
    fn lock(&self) -> Result<Option<File>, PinError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        file::lock(path).map(Some).map_err(|source| PinError::Write { path: path.clone(), source })
    }
}

/// The key that the coordinator shows for an organization, unchecked.
///
/// # Errors
/// When there is none, or it is no key.
pub fn shown_key(organization: &Organization) -> Result<PublicKey, PinError> {
    let name = || organization.name.clone();
    if organization.public_key.is_empty() {
        return Err(PinError::NoKey { organization: name() });
    }
    PublicKey::from_api(&organization.public_key).map_err(|source| PinError::Key { organization: name(), source })
}

fn known(pin: &Pin, name: &str, found: &PublicKey) -> Result<Seen, PinError> {
    if pin.key == *found {
        return Ok(Seen::Known);
    }
    Err(PinError::Mismatch { organization: name.into(), pinned: pin.key.fingerprint(), found: found.fingerprint() })
}

/// A name is written by others and meant to be pasted into a shell: one that needs quotes gives way to the id.
fn pin_command(name: &str, id: OrganizationId, fingerprint: &str) -> String {
    let is_word = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '.');
    let is_plain = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_word);
    let name = if is_plain { name.into() } else { id.to_string() };
    format!("twinmesh organization pin {name} --fingerprint '{fingerprint}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinmesh_protocol::key::OrganizationKey;

    const NOW: Time = Time::from_micros(1_700_000_000_000_000);
    const HOSPITAL: OrganizationId = OrganizationId::new(2);

    fn key(seed: u8) -> PublicKey {
        OrganizationKey::from_seed(&[seed; 32]).public().into()
    }

    /// Another organization's kind of key: made by `openssl genrsa 2048`.
    const RSA: &str = include_str!("../tests/api/rsa_public.pem");

    #[test]
    fn an_rsa_key_is_pinned_and_never_takes_the_place_of_another_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.json");
        let rsa = PublicKey::from_pem(RSA).unwrap();
        let mut store = PinStore::open(&path).unwrap();
        store.check_key(HOSPITAL, "hospital-b", &key(1), NOW).unwrap();
        store.check_key(OrganizationId::new(3), "hospital-c", &rsa, NOW).unwrap();
        let mut again = PinStore::open(&path).unwrap();
        assert_eq!(again.key(OrganizationId::new(3)).unwrap().to_pem(), RSA);
        let swaps = [(HOSPITAL, &rsa), (OrganizationId::new(3), &key(1))];
        for (organization, shown) in swaps {
            let error = again.check_key(organization, "hospital", shown, NOW).unwrap_err();
            assert!(matches!(error, PinError::Mismatch { .. }), "{error}");
        }
    }

    #[test]
    fn the_first_key_is_pinned_and_another_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.json");
        let mut store = PinStore::open(&path).unwrap();
        assert_eq!(store.check_key(HOSPITAL, "hospital-b", &key(1), NOW).unwrap(), Seen::First);

        let mut again = PinStore::open(&path).unwrap();
        assert_eq!(again.check_key(HOSPITAL, "hospital-b", &key(1), NOW).unwrap(), Seen::Known);
        let error = again.check_key(HOSPITAL, "hospital-b", &key(2), NOW).unwrap_err().to_string();
        for part in ["hospital-b", &key(1).fingerprint(), &key(2).fingerprint(), "replace the pin"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!file::is_open_to_others(&path).unwrap());
    }

    #[test]
    fn a_person_may_replace_and_forget_a_pin() {
        let mut store = PinStore::in_memory();
        store.check_key(HOSPITAL, "hospital-b", &key(1), NOW).unwrap();
        store.set(HOSPITAL, "hospital-b", key(2), NOW).unwrap();
        assert_eq!(store.check_key(HOSPITAL, "hospital-b", &key(2), NOW).unwrap(), Seen::Known);
        assert!(store.get(HOSPITAL).unwrap().is_confirmed);
        assert!(store.forget(HOSPITAL).unwrap());
        assert!(!store.forget(HOSPITAL).unwrap());
        assert_eq!(store.check_key(HOSPITAL, "hospital-b", &key(3), NOW).unwrap(), Seen::First);
    }

    #[test]
    fn two_holders_of_one_file_do_not_lose_each_others_pins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.json");
        let (mut one, mut two) = (PinStore::open(&path).unwrap(), PinStore::open(&path).unwrap());
        one.check_key(HOSPITAL, "hospital-b", &key(1), NOW).unwrap();
        two.check_key(OrganizationId::new(3), "hospital-c", &key(3), NOW).unwrap();
        assert!(two.check_key(HOSPITAL, "hospital-b", &key(9), NOW).is_err());
        assert_eq!(PinStore::open(&path).unwrap().iter().count(), 2);
    }

    #[test]
    fn a_collaboration_once_encrypted_is_never_believed_to_be_plain() {
        let mut store = PinStore::in_memory();
        let id = CollaborationId::new(1);
        store.check_encryption(id, "demo", false).unwrap();
        store.check_encryption(id, "demo", true).unwrap();
        assert!(matches!(store.check_encryption(id, "demo", false), Err(PinError::Downgrade { .. })));
    }

    fn organization(id: i64, name: &str, public_key: String) -> Organization {
        let link = String::new;
        Organization {
            id: OrganizationId::new(id),
            name: name.into(),
            domain: None,
            address1: None,
            address2: None,
            zipcode: None,
            country: None,
            public_key,
            collaborations: link(),
            nodes: link(),
            users: link(),
            tasks: link(),
            runs: link(),
            studies: link(),
        }
    }

    #[test]
    fn members_are_those_of_the_first_sight_until_a_person_pins_another() {
        const TRIAL: (CollaborationId, &str) = (CollaborationId::new(1), "trial");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.json");
        let mut store = PinStore::open(&path).unwrap();
        let (early, keyless) = (organization(2, "early", key(2).to_api()), organization(3, "keyless", String::new()));
        store.first_sight(TRIAL.0, &[early.clone(), keyless.clone()], NOW).unwrap();
        assert!(matches!(store.check_member(TRIAL, &keyless, NOW), Err(PinError::NoKey { .. })));

        let late = organization(4, "late", key(4).to_api());
        let mut again = PinStore::open(&path).unwrap();
        again.first_sight(TRIAL.0, &[early.clone(), keyless, late.clone()], NOW).unwrap();
        assert_eq!(again.check_member(TRIAL, &early, NOW).unwrap(), (key(2), Seen::Known));
        // Seen elsewhere is not vouched for.
        again.first_sight(CollaborationId::new(2), std::slice::from_ref(&late), NOW).unwrap();
        let with_key = organization(3, "keyless", key(3).to_api());
        assert_eq!(again.check_member(TRIAL, &with_key, NOW).unwrap(), (key(3), Seen::First));
        let error = again.check_member(TRIAL, &late, NOW).unwrap_err().to_string();
        let command = format!("twinmesh organization pin late --fingerprint '{}'", key(4).fingerprint());
        for part in ["organization `late`", "collaboration `trial`", &command] {
            assert!(error.contains(part), "{error}");
        }

        store.set(late.id, &late.name, key(4), NOW).unwrap();
        assert_eq!(again.check_member(TRIAL, &late, NOW).unwrap(), (key(4), Seen::Known));
    }

    #[test]
    fn a_name_cannot_put_words_into_the_command_that_a_person_copies() {
        for name in ["a'; rm -rf ~; '", "$(reboot)", "a b", "-x", "", "a\nb"] {
            let command = pin_command(name, HOSPITAL, "0f1e");
            assert_eq!(command, "twinmesh organization pin 2 --fingerprint '0f1e'");
        }
    }

    #[test]
    fn a_damaged_file_is_reported_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.json");
        for text in ["", "[]", "{\"version\": 2, \"pins\": []}", "{\"version\": 1, \"pins\": [{}]}"] {
            fs::write(&path, text).unwrap();
            let error = PinStore::open(&path).unwrap_err().to_string();
            assert!(error.contains("pins.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
