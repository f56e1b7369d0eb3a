use serde::{Deserialize, Serialize};

use super::{Link, Many};
use crate::id::{AlgorithmStoreId, CollaborationId, NodeId, OrganizationId, StudyId, UserId};
use crate::time::Time;

/// An organization (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its name, unique.
    pub name: String,
    /// Its Internet domain.
    pub domain: Option<String>,
    /// First line of the postal address.
    pub address1: Option<String>,
    /// Second line of the postal address.
    pub address2: Option<String>,
    /// Postal code.
    pub zipcode: Option<String>,
    /// Country.
    pub country: Option<String>,
    /// Base64 of its public key's PEM text; empty when it has none.
    pub public_key: String,
    /// Its collaborations.
    pub collaborations: String,
    /// Its nodes.
    pub nodes: String,
    /// Its users.
    pub users: String,
    /// The tasks it initiated.
    pub tasks: String,
    /// The runs at it.
    pub runs: String,
    /// The studies it takes part in.
    pub studies: String,
}

/// The body of `POST` and `PATCH /organization`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NewOrganization {
    /// Its name, not only digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// First line of the postal address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address1: Option<String>,
    /// Second line of the postal address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address2: Option<String>,
    /// Postal code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipcode: Option<String>,
    /// Country.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Its Internet domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Base64 of its public key's PEM text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// A collaboration (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Collaboration {
    /// Its id.
    pub id: CollaborationId,
    /// Its name, unique.
    pub name: String,
    /// Whether inputs and results are encrypted end to end.
    pub encrypted: bool,
    /// Its organizations.
    pub organizations: Many<Organization>,
    /// Its nodes.
    pub nodes: String,
    /// Its tasks.
    pub tasks: String,
    /// Its studies.
    pub studies: String,
    /// Its algorithm stores.
    pub algorithm_stores: String,
}

/// The body of `POST /collaboration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewCollaboration {
    /// Its name.
    pub name: String,
    /// Its organizations, each once.
    pub organization_ids: Vec<OrganizationId>,
    /// Whether inputs and results are encrypted end to end.
    pub encrypted: bool,
}

/// A node (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique.
    pub name: String,
    /// Always `node`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it was last seen.
    pub ip: Option<String>,
    /// When it was last seen.
    pub last_seen: Option<Time>,
    /// `online`, `offline`, or null before it first came.
    pub status: Option<String>,
    /// Its organization.
    pub organization: Option<Link>,
    /// Its collaboration.
    pub collaboration: Option<Link>,
    /// What it tells about itself.
    #[serde(default)]
    pub config: Vec<NodeConfigEntry>,
    /// Its API key; only in the answer to `POST /node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// One thing a node tells about itself; several may share a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeConfigEntry {
    /// What it is about.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// The body of `POST /node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// Its collaboration.
    pub collaboration_id: CollaborationId,
    /// Its organization; the caller's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<OrganizationId>,
    /// Its name; made from the names of both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A study: some organizations of a collaboration (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Study {
    /// Its id.
    pub id: StudyId,
    /// Its name, unique.
    pub name: String,
    /// Its collaboration.
    pub collaboration: Option<Link>,
    /// Its organizations.
    pub organizations: Many<Organization>,
    /// Its tasks.
    pub tasks: String,
}

/// The body of `POST /study`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewStudy {
    /// Its name.
    pub name: String,
    /// Its collaboration.
    pub collaboration_id: CollaborationId,
    /// Its organizations, all of the collaboration.
    pub organization_ids: Vec<OrganizationId>,
}

/// A link to an algorithm store (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AlgorithmStore {
    /// Its id.
    pub id: AlgorithmStoreId,
    /// Its name.
    pub name: String,
    /// Where it is, with the path of its API.
    pub url: String,
    /// The collaboration it is linked to; null for all.
    pub collaborations: Option<String>,
}

/// A public key that an organization has or had; an item of `GET /organization/<id>/key`. Our addition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeyRecord {
    /// `ed25519` or `rsa`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What people compare.
    pub fingerprint: String,
    /// Base64 of the key's PEM text.
    pub public_key: String,
    /// When it was uploaded; null for keys from before a history was kept.
    pub set_at: Option<Time>,
    /// Who uploaded it.
    pub set_by: Option<KeySetter>,
    /// When another took its place; null for the current one.
    pub replaced_at: Option<Time>,
}

/// Who uploaded a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeySetter {
    /// `user`, `node`, or `operator` for somebody at the coordinator's machine.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id of the user or node.
    pub id: Option<i64>,
}

/// What a node tells of its configuration; the body of `PUT /node/<id>/details`. It takes the place of what was told
/// before, so one that holds nothing takes everything back. Our addition; stock nodes use a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NodeDetails {
    /// Whether it expects payloads to be encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<bool>,
    /// The images it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_algorithms: Option<Vec<String>>,
    /// Whose tasks it runs. Where this and `allowed_orgs` are given, one of them suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_users: Option<Vec<UserId>>,
    /// The organizations whose tasks it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_orgs: Option<Vec<OrganizationId>>,
    /// Its databases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseDetails>,
}

/// A database of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DatabaseDetails {
    /// What tasks call it.
    pub label: String,
    /// Such as `csv`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The names of its columns, if the node tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
}
