use std::fmt;

use serde::{Deserialize, Serialize};

use super::Link;
use crate::id::{OrganizationId, RoleId, RuleId, UserId};
use crate::time::Time;

/// The answer to a log-in or refresh (contract A.2.1). Its `Debug` shows no token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TokenPair {
    /// Proves who asks, for some hours.
    pub access_token: String,
    /// Buys the next pair.
    pub refresh_token: String,
    /// Where to refresh, as a path from the host's root.
    pub refresh_url: String,
    /// Who logged in, if a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_url: Option<String>,
    /// Who logged in, if a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_url: Option<String>,
}

impl fmt::Debug for TokenPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenPair([redacted])")
    }
}

/// A user (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// Always `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The log-in name, unique.
    pub username: String,
    /// First name.
    pub firstname: Option<String>,
    /// Last name.
    pub lastname: Option<String>,
    /// Mail address, unique.
    pub email: Option<String>,
    /// Where last seen.
    pub ip: Option<String>,
    /// When last seen.
    pub last_seen: Option<Time>,
    /// `online`, `offline` or null.
    pub status: Option<String>,
    /// The user's organization.
    pub organization: Option<Link>,
    /// The user's roles.
    pub roles: String,
    /// The user's own rules.
    pub rules: String,
    /// Always null (contract F.1-6).
    pub otp_secret: Option<String>,
    /// When the user was last told of failed log-ins.
    pub last_email_failed_login_sent: Option<Time>,
    /// When the user was last sent a recovery mail.
    pub last_email_recover_password_sent: Option<Time>,
    /// What the user may do, with `include_permissions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub permissions: Option<serde_json::Value>,
}

/// The body of `POST /user`. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Log-in name: a letter, then letters, digits, dots, hyphens and underscores.
    pub username: String,
    /// Password, to the policy of contract A.3.
    pub password: String,
    /// Mail address.
    pub email: String,
    /// First name.
    #[serde(default)]
    pub firstname: Option<String>,
    /// Last name.
    #[serde(default)]
    pub lastname: Option<String>,
    /// The user's organization; the caller's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<OrganizationId>,
    /// Roles to give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<RoleId>>,
    /// Rules to give besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleId>>,
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A role (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Role {
    /// Its id.
    pub id: RoleId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it is built in.
    pub is_default_role: bool,
    /// Its organization; null when built in.
    pub organization: Option<Link>,
    /// Its rules.
    pub rules: String,
    /// Who has it.
    pub users: String,
}

/// The body of `POST /role`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    /// Its name, not that of a built-in role.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Its rules; the caller must hold each.
    pub rules: Vec<RuleId>,
    /// Its organization; the caller's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<OrganizationId>,
}

/// A rule: an operation on a kind of resource in a scope (contract A.4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Rule {
    /// Its id, 1 to 86.
    pub id: RuleId,
    /// The kind of resource.
    pub name: String,
    /// `VIEW`, `EDIT`, `CREATE`, `DELETE`, `SEND` or `RECEIVE`.
    pub operation: String,
    /// `OWN`, `ORGANIZATION`, `COLLABORATION` or `GLOBAL`.
    pub scope: String,
    /// In words.
    pub description: Option<String>,
    /// Who has it.
    pub users: String,
}
