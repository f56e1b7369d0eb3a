//! What a task is, signed by who asks.
//!
//! The initiating organization's key signs the manifest; every node verifies it against its own pin before it runs
//! anything, so a coordinator can neither make up, edit, redirect nor repeat a task.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::id::{CollaborationId, OrganizationId, UserId};
use crate::signed::{Signed, Statement};
use crate::time::Time;
use crate::wire::TaskDatabase;

/// The version of the manifest's form.
pub const MANIFEST_VERSION: u32 = 1;

/// A number used once, that also binds a task's payloads to its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Takes 16 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Draws a new nonce from the operating system's random source.
    #[cfg(feature = "open")]
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a nonce has 32 lower-case hexadecimal digits"))
    }
}

/// An organization that is to run the task, and the input it is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// Who is to run it.
    pub organization_id: OrganizationId,
    /// The digest of the input as it goes over the wire: of its text, or of the object that it is kept as.
    pub input_sha256: Digest,
}

/// What a central function may ask of others in the task's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// The functions it may call.
    pub functions: BTreeSet<String>,
    /// The organizations at which it may call them.
    pub organizations: BTreeSet<OrganizationId>,
}

/// What a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskManifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Where the task belongs.
    pub collaboration_id: CollaborationId,
    /// The image reference, with a digest where the image has one.
    pub image: String,
    /// The function that the inputs name.
    pub function: String,
    /// The databases it may read, with everything that was asked of them.
    pub databases: Vec<TaskDatabase>,
    /// Who is to run it, each organization once.
    pub receivers: Vec<Receiver>,
    /// Who asks.
    pub initiator: OrganizationId,
    /// The initiator's user who asks; none in subtasks.
    pub user_id: Option<UserId>,
    /// The digest of the parent task's manifest, for subtasks.
    pub parent: Option<Digest>,
    /// What subtasks it may make; none if absent.
    pub delegation: Option<Delegation>,
    /// A number used once.
    pub nonce: Nonce,
    /// When it was signed, in seconds since 1970.
    pub issued_at: i64,
    /// After when it must not be started, in seconds since 1970.
    pub not_after: i64,
}

impl Statement for TaskManifest {
    const DOMAIN: &'static str = "twinmesh/task-manifest/1";
    const NOUN: &'static str = "task manifest";
}

/// A manifest with its signature.
pub type SignedManifest = Signed<TaskManifest>;

/// Why a manifest does not allow what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A form this release does not know.
    #[error("the manifest has version {found}, known is {MANIFEST_VERSION}: update the older side")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Too late.
    #[error("the manifest expired at {not_after} (it is {now})")]
    Expired {
        /// Its end, in UTC.
        not_after: String,
        /// The time asked at, in UTC.
        now: String,
    },
    /// Signed further in the future than clocks may differ.
    #[error("the manifest was signed in the future, at {issued_at} (it is {now}): check the clocks")]
    NotYetValid {
        /// Its signing time, in UTC.
        issued_at: String,
        /// The time asked at, in UTC.
        now: String,
    },
    /// The organization is not among the receivers.
    #[error("the manifest does not name organization {0} as a receiver")]
    NotReceiver(OrganizationId),
    /// The organization is named more than once.
    #[error("the manifest names organization {0} more than once")]
    RepeatedReceiver(OrganizationId),
    /// The input is not the one that was signed.
    #[error("the input of organization {0} is not the one that was signed")]
    OtherInput(OrganizationId),
    /// A field of the task differs from the manifest.
    #[error("the task's {field} is {found}, the manifest says {signed}")]
    Differs {
        /// The field's name.
        field: &'static str,
        /// What the task says.
        found: String,
        /// What was signed.
        signed: String,
    },
    /// A subtask goes beyond what its parent allows.
    #[error("the subtask goes beyond its parent's manifest: {0}")]
    BeyondParent(String),
}

/// How far clocks may differ, in seconds.
pub const CLOCK_TOLERANCE_SECONDS: i64 = 300;

impl TaskManifest {
    /// Checks version and time, and that the task's fields and this organization's input are the signed ones.
    ///
    /// # Errors
    /// The first difference found.
    pub fn check(
        &self,
        now: Time,
        collaboration: CollaborationId,
        image: &str,
        receiver: OrganizationId,
        input: &str,
    ) -> Result<(), ManifestError> {
        self.check_digest(now, collaboration, image, receiver, Digest::of(input.as_bytes()))
    }

    /// As [`TaskManifest::check`], for an input of which the digest is known: its text's, or that of the object that
    /// it is kept as.
    ///
    /// # Errors
    /// The first difference found.
    pub fn check_digest(
        &self,
        now: Time,
        collaboration: CollaborationId,
        image: &str,
        receiver: OrganizationId,
        input: Digest,
    ) -> Result<(), ManifestError> {
        self.check_time(now)?;
        if self.collaboration_id != collaboration {
            return Err(ManifestError::Differs {
                field: "collaboration",
                found: collaboration.to_string(),
                signed: self.collaboration_id.to_string(),
            });
        }
        if self.image != image {
            return Err(ManifestError::Differs { field: "image", found: image.into(), signed: self.image.clone() });
        }
        let mut entries = self.receivers.iter().filter(|entry| entry.organization_id == receiver);
        let entry = entries.next().ok_or(ManifestError::NotReceiver(receiver))?;
        if entries.next().is_some() {
            return Err(ManifestError::RepeatedReceiver(receiver));
        }
        if entry.input_sha256 != input {
            return Err(ManifestError::OtherInput(receiver));
        }
        Ok(())
    }

    /// Checks version and time alone.
    ///
    /// # Errors
    /// When the version is unknown or `now` is outside the manifest's time.
    pub fn check_time(&self, now: Time) -> Result<(), ManifestError> {
        let text = |seconds: i64| Time::from_micros(seconds.saturating_mul(1_000_000)).to_rfc3339();
        if self.version != MANIFEST_VERSION {
            return Err(ManifestError::Version { found: self.version });
        }
        if now.seconds() > self.not_after {
            return Err(ManifestError::Expired { not_after: text(self.not_after), now: now.to_rfc3339() });
        }
        if self.issued_at > now.seconds().saturating_add(CLOCK_TOLERANCE_SECONDS) {
            return Err(ManifestError::NotYetValid { issued_at: text(self.issued_at), now: now.to_rfc3339() });
        }
        Ok(())
    }

    /// Checks that this subtask stays within what its parent's manifest delegates: same collaboration and image,
    /// made at one of the parent's receivers, function, receivers and databases among those allowed, no longer life,
    /// and no further delegation than the parent's.
    ///
    /// # Errors
    /// What goes beyond.
    pub fn check_within(&self, parent: &SignedManifest, parent_manifest: &Self) -> Result<(), ManifestError> {
        let beyond = |text: String| Err(ManifestError::BeyondParent(text));
        if self.parent != Some(parent.digest()) {
            return beyond("it names another parent".into());
        }
        if self.collaboration_id != parent_manifest.collaboration_id {
            return beyond(format!("collaboration {}", self.collaboration_id));
        }
        if self.image != parent_manifest.image {
            return beyond(format!("image `{}`", self.image));
        }
        if !parent_manifest.receivers.iter().any(|receiver| receiver.organization_id == self.initiator) {
            return beyond(format!("organization {} does not run the parent", self.initiator));
        }
        let Some(allowed) = &parent_manifest.delegation else {
            return beyond("the parent may make no subtasks".into());
        };
        if !allowed.functions.contains(&self.function) {
            return beyond(format!("function `{}`", self.function));
        }
        if let Some(receiver) =
            self.receivers.iter().find(|entry| !allowed.organizations.contains(&entry.organization_id))
        {
            return beyond(format!("organization {}", receiver.organization_id));
        }
        if let Some(asked) = self.databases.iter().find(|asked| !parent_manifest.databases.contains(asked)) {
            return beyond(format!("database `{}` with {}", asked.label, asked.parameters));
        }
        if self.not_after > parent_manifest.not_after {
            return beyond("it lives longer".into());
        }
        if let Some(further) = &self.delegation
            && !(further.functions.is_subset(&allowed.functions)
                && further.organizations.is_subset(&allowed.organizations))
        {
            return beyond("it delegates more than it may".into());
        }
        Ok(())
    }

    /// Every organization that takes part in the task or may be asked by it: the members of the job's mesh.
    #[must_use]
    pub fn participants(&self) -> BTreeSet<OrganizationId> {
        let receivers = self.receivers.iter().map(|receiver| receiver.organization_id);
        let delegated = self.delegation.iter().flat_map(|delegation| delegation.organizations.iter().copied());
        receivers.chain(delegated).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::OrganizationKey;
    use crate::signed::SignedError;

    fn manifest() -> TaskManifest {
        TaskManifest {
            version: MANIFEST_VERSION,
            collaboration_id: CollaborationId::new(1),
            image: "twinmesh/builtin:0.1.0".into(),
            function: "summary".into(),
            databases: vec![database("default", "{}")],
            receivers: vec![Receiver { organization_id: OrganizationId::new(2), input_sha256: Digest::of(b"input") }],
            initiator: OrganizationId::new(3),
            user_id: Some(UserId::new(9)),
            parent: None,
            delegation: Some(Delegation {
                functions: ["summary_partial".to_owned()].into(),
                organizations: [2, 3].map(OrganizationId::new).into(),
            }),
            nonce: Nonce::new([7; 16]),
            issued_at: 1_000_000,
            not_after: 1_003_600,
        }
    }

    fn database(label: &str, parameters: &str) -> TaskDatabase {
        TaskDatabase { label: label.into(), parameters: parameters.into() }
    }

    fn check(manifest: &TaskManifest, seconds: i64) -> Result<(), ManifestError> {
        let now = Time::from_micros(seconds * 1_000_000);
        manifest.check(now, CollaborationId::new(1), "twinmesh/builtin:0.1.0", OrganizationId::new(2), "input")
    }

    /// The canonical bytes are the wire form: a change here breaks every signature made before.
    #[test]
    fn the_canonical_form_is_this_one() {
        let key = OrganizationKey::from_seed(&[1; 32]);
        let signed = Signed::sign(&manifest(), &key).unwrap();
        let json = serde_json::to_value(&signed).unwrap();
        let body = crate::payload::from_text(json["body"].as_str().unwrap()).unwrap();
        let expected = concat!(
            r#"{"collaboration_id":1,"databases":[{"label":"default","parameters":"{}"}],"delegation":{"functions":["summary_partial"],"#,
            r#""organizations":[2,3]},"function":"summary","image":"twinmesh/builtin:0.1.0","initiator":3,"#,
            r#""issued_at":1000000,"nonce":"07070707070707070707070707070707","not_after":1003600,"parent":null,"#,
            r#""receivers":[{"input_sha256":"c96c6d5be8d08a12e7b5cdc1b207fa6b2430974c86803d8891675e76fd992c20","#,
            r#""organization_id":2}],"user_id":9,"version":1}"#
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        // Made with `openssl pkeyutl -sign -rawin`: Ed25519 is deterministic (RFC 8032 §5.1.6).
        assert_eq!(json["signature"], VECTOR_SIGNATURE);
    }
    const VECTOR_SIGNATURE: &str =
        "oNOPJYbP6oCXVeJb6kcYnYY+DyMxSGaYT+AhDz38YnuvOwDQmGof40/pUbMA3DcOiaOanrQz9kw0b/BDq4T6BA==";

    #[test]
    fn a_signed_manifest_reads_back_and_any_change_is_noticed() {
        let key = OrganizationKey::from_seed(&[1; 32]);
        let signed = Signed::sign(&manifest(), &key).unwrap();
        assert_eq!(signed.verify(&key.public()).unwrap(), manifest());

        let other = OrganizationKey::from_seed(&[2; 32]).public();
        assert!(matches!(signed.verify(&other), Err(SignedError::OtherKey { .. })));

        let text = serde_json::to_string(&signed).unwrap();
        let edited = TaskManifest { function: "other".into(), ..manifest() };
        let body = crate::payload::to_text(&canonical(&edited));
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["body"] = body.into();
        let forged: SignedManifest = serde_json::from_value(json).unwrap();
        assert!(matches!(forged.verify(&key.public()), Err(SignedError::BadSignature { .. })));
    }

    #[test]
    fn a_signature_under_another_domain_is_refused() {
        let key = OrganizationKey::from_seed(&[1; 32]);
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Other(TaskManifest);
        impl Statement for Other {
            const DOMAIN: &'static str = "twinmesh/other/1";
            const NOUN: &'static str = "other";
        }
        let signed = Signed::sign(&Other(manifest()), &key).unwrap();
        let text = serde_json::to_string(&signed).unwrap();
        let moved: SignedManifest = serde_json::from_str(&text).unwrap();
        assert!(matches!(moved.verify(&key.public()), Err(SignedError::BadSignature { .. })));
    }

    #[test]
    fn a_signed_but_not_canonical_form_is_refused() {
        let key = OrganizationKey::from_seed(&[1; 32]);
        let spaced = serde_json::to_vec_pretty(&manifest()).unwrap();
        let signature = key.sign(&crate::signed::message::<TaskManifest>(&spaced));
        let json = serde_json::json!({
            "body": crate::payload::to_text(&spaced),
            "signature": crate::payload::to_text(&signature),
            "key": key.public(),
        });
        let signed: SignedManifest = serde_json::from_value(json).unwrap();
        assert!(matches!(signed.verify(&key.public()), Err(SignedError::Unreadable { .. })));
    }

    #[test]
    fn each_difference_between_task_and_manifest_is_named() {
        assert_eq!(check(&manifest(), 1_000_100), Ok(()));
        assert!(matches!(check(&manifest(), 1_003_601), Err(ManifestError::Expired { .. })));
        assert!(matches!(check(&manifest(), 999_000), Err(ManifestError::NotYetValid { .. })));
        let newer = TaskManifest { version: 2, ..manifest() };
        assert_eq!(check(&newer, 1_000_100), Err(ManifestError::Version { found: 2 }));
        let other = TaskManifest { image: "other".into(), ..manifest() };
        assert!(matches!(check(&other, 1_000_100), Err(ManifestError::Differs { field: "image", .. })));
        let none = TaskManifest { receivers: vec![], ..manifest() };
        assert_eq!(check(&none, 1_000_100), Err(ManifestError::NotReceiver(OrganizationId::new(2))));
        let mut twice = manifest();
        twice.receivers.push(twice.receivers[0].clone());
        assert_eq!(check(&twice, 1_000_100), Err(ManifestError::RepeatedReceiver(OrganizationId::new(2))));
        let mut input = manifest();
        input.receivers[0].input_sha256 = Digest::of(b"another");
        assert_eq!(check(&input, 1_000_100), Err(ManifestError::OtherInput(OrganizationId::new(2))));
    }

    #[test]
    fn a_subtask_stays_within_its_parent() {
        let parent = Signed::sign(&manifest(), &OrganizationKey::from_seed(&[1; 32])).unwrap();
        let subtask = TaskManifest {
            function: "summary_partial".into(),
            receivers: vec![
                Receiver { organization_id: OrganizationId::new(2), input_sha256: Digest::of(b"a") },
                Receiver { organization_id: OrganizationId::new(3), input_sha256: Digest::of(b"b") },
            ],
            initiator: OrganizationId::new(2),
            parent: Some(parent.digest()),
            delegation: None,
            ..manifest()
        };
        let within = |subtask: &TaskManifest| subtask.check_within(&parent, &manifest());
        assert_eq!(within(&subtask), Ok(()));
        let mut stranger = subtask.clone();
        stranger.receivers[1].organization_id = OrganizationId::new(9);
        let cases = [
            TaskManifest { parent: None, ..subtask.clone() },
            TaskManifest { parent: Some(Digest::of(b"x")), ..subtask.clone() },
            TaskManifest { collaboration_id: CollaborationId::new(2), ..subtask.clone() },
            TaskManifest { image: "other".into(), ..subtask.clone() },
            TaskManifest { initiator: OrganizationId::new(3), ..subtask.clone() },
            TaskManifest { function: "summary".into(), ..subtask.clone() },
            TaskManifest { databases: vec![database("secret", "{}")], ..subtask.clone() },
            TaskManifest { databases: vec![database("default", r#"{"query":"select 1"}"#)], ..subtask.clone() },
            TaskManifest { not_after: 1_003_601, ..subtask.clone() },
            TaskManifest {
                delegation: Some(Delegation { functions: ["x".to_owned()].into(), organizations: [].into() }),
                ..subtask.clone()
            },
            stranger,
        ];
        for case in cases {
            assert!(matches!(within(&case), Err(ManifestError::BeyondParent(_))), "{case:?}");
        }
        let without = TaskManifest { delegation: None, ..manifest() };
        assert!(subtask.check_within(&parent, &without).is_err());
    }

    fn canonical(manifest: &TaskManifest) -> Vec<u8> {
        serde_json_canonicalizer::to_vec(manifest).unwrap()
    }
}
