//! Whether what was signed is what was asked.
//!
//! The nodes decide this again, against keys that they pinned. Refusing here names the mistake to who makes it.

use std::collections::BTreeSet;

use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::key::{KeyError, PublicKey};
use twinmesh_protocol::manifest::{ManifestError, SignedManifest};
use twinmesh_protocol::signed::SignedError;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::TaskDatabase;

use super::open::OpenedTask;

/// Why a manifest does not go with its task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestRefusal {
    /// The initiator has not registered a key to verify it with.
    #[error("organization {0} has no registered public key to verify the manifest with: upload it first")]
    NoKey(OrganizationId),
    /// The initiator's registered key cannot be read.
    #[error("the registered public key of organization {organization} cannot verify the manifest: {source}")]
    UnreadableKey {
        /// Whose.
        organization: OrganizationId,
        /// What is wrong.
        source: KeyError,
    },
    /// The initiator's registered key cannot sign.
    #[error("the registered public key of organization {0} is an RSA key; a manifest needs an Ed25519 key")]
    RsaKey(OrganizationId),
    /// Signature or form.
    #[error(transparent)]
    Signature(#[from] SignedError),
    /// Another organization signed as initiator.
    #[error("the manifest is signed as organization {signed}, the task is made by organization {asking}")]
    OtherInitiator {
        /// Who signed.
        signed: OrganizationId,
        /// Who asks.
        asking: OrganizationId,
    },
    /// Content or time.
    #[error(transparent)]
    Content(#[from] ManifestError),
    /// It names organizations that the task does not.
    #[error("the manifest names organization {0} as a receiver, the task does not")]
    MissingReceiver(OrganizationId),
    /// Other databases.
    #[error("the task's databases are [{asked}], the manifest says [{signed}]")]
    OtherDatabases {
        /// The task's labels.
        asked: String,
        /// The manifest's labels.
        signed: String,
    },
    /// It hangs on another task.
    #[error("the task's parent manifest is {asked}, the manifest says {signed}")]
    OtherParent {
        /// The parent task's.
        asked: String,
        /// The manifest's.
        signed: String,
    },
}

/// What a manifest is checked against besides the task itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ManifestContext<'a> {
    /// The registered public key of the initiating organization, as the interface has it; empty for none.
    pub(crate) registered_key: &'a str,
    /// The parent task's manifest, if there is a parent that has one.
    pub(crate) parent: Option<&'a SignedManifest>,
}

/// Checks that the manifest is signed by the task's initiating organization and says what the task says.
///
/// # Errors
/// The first difference found.
pub(crate) fn check(
    signed: &SignedManifest,
    task: &OpenedTask,
    context: ManifestContext<'_>,
    now: Time,
) -> Result<(), ManifestRefusal> {
    let asking = task.init_org;
    if context.registered_key.is_empty() {
        return Err(ManifestRefusal::NoKey(asking));
    }
    let key = match PublicKey::from_api(context.registered_key) {
        Ok(PublicKey::Ed25519(key)) => key,
        Ok(PublicKey::Rsa(_)) => return Err(ManifestRefusal::RsaKey(asking)),
        Err(source) => return Err(ManifestRefusal::UnreadableKey { organization: asking, source }),
    };
    let manifest = signed.verify(&key)?;
    if manifest.initiator != asking {
        return Err(ManifestRefusal::OtherInitiator { signed: manifest.initiator, asking });
    }
    for (organization, input) in &task.inputs {
        let digest = task.kept.get(organization).map_or_else(|| Digest::of(input.as_bytes()), |kept| kept.digest);
        manifest.check_digest(now, task.collaboration_id, &task.image, *organization, digest)?;
    }
    let asked: BTreeSet<_> = task.inputs.iter().map(|(organization, _)| *organization).collect();
    if let Some(receiver) = manifest.receivers.iter().find(|entry| !asked.contains(&entry.organization_id)) {
        return Err(ManifestRefusal::MissingReceiver(receiver.organization_id));
    }
    if task.databases != manifest.databases {
        return Err(ManifestRefusal::OtherDatabases {
            asked: in_words(&task.databases),
            signed: in_words(&manifest.databases),
        });
    }
    let parent = context.parent.map(SignedManifest::digest);
    if manifest.parent != parent {
        let text = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
        return Err(ManifestRefusal::OtherParent { asked: text(parent), signed: text(manifest.parent) });
    }
    if let Some(parent) = context.parent {
        manifest.check_within(parent, &parent.read_unverified()?)?;
    }
    Ok(())
}

/// Databases and what was asked of them, for people.
fn in_words(databases: &[TaskDatabase]) -> String {
    let words: Vec<_> =
        databases.iter().map(|database| format!("{} {}", database.label, database.parameters)).collect();
    words.join(", ")
}
