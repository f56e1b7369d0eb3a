//! What the node's administrator lets tasks do. Every refusal names its rule.

use std::collections::BTreeSet;

use twinmesh_protocol::id::{OrganizationId, UserId};

use crate::config::{Algorithm, BUILTIN_IMAGE, Config};

/// What a task wants of this node.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub image: &'a str,
    /// The labels of the databases it wants.
    pub databases: &'a [String],
}

/// Who asks for a job: its first task's user and their organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester {
    pub organization: OrganizationId,
    pub user: Option<UserId>,
}

/// The rules in effect.
#[derive(Debug, Clone)]
pub struct Policy {
    allowed_algorithms: BTreeSet<String>,
    allowed_users: Option<BTreeSet<UserId>>,
    allowed_organizations: Option<BTreeSet<OrganizationId>>,
    algorithms: Vec<Algorithm>,
    databases: BTreeSet<String>,
    /// Whether tasks without a valid signature are refused.
    pub require_signed_tasks: bool,
}

/// Why a task is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    #[error(
        "the image `{image}` is not allowed by `policies.allowed_algorithms` of this node (allowed: {})",
        list(allowed)
    )]
    Image { image: String, allowed: BTreeSet<String> },
    #[error("neither user {} nor organization {organization} is allowed by `policies.allowed_users` or `policies.allowed_organizations` of this node", user.map_or_else(|| "(unknown)".to_owned(), |user| user.to_string()))]
    Requester { user: Option<UserId>, organization: OrganizationId },
    #[error("this node has no database `{label}` (it has: {})", list(existing))]
    Database { label: String, existing: BTreeSet<String> },
    #[error("the task names the database `{label}` twice")]
    RepeatedDatabase { label: String },
}

/// Why an image that is allowed cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image `{image}` is not installed at this node (installed: {})", list(installed))]
pub struct NoImage {
    image: String,
    installed: BTreeSet<String>,
}

fn list(items: &BTreeSet<String>) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ")
}

impl Policy {
    /// The rules of a configuration, in a collaboration that is encrypted or not.
    pub fn new(config: &Config, encrypted: bool) -> Self {
        let policies = &config.policies;
        let builtin = || BTreeSet::from([BUILTIN_IMAGE.to_owned()]);
        Self {
            allowed_algorithms: policies.allowed_algorithms.clone().unwrap_or_else(builtin),
            allowed_users: policies.allowed_users.clone(),
            allowed_organizations: policies.allowed_organizations.clone(),
            algorithms: config.algorithms(),
            databases: config.databases.iter().map(|database| database.label.clone()).collect(),
            require_signed_tasks: policies.require_signed_tasks.unwrap_or(encrypted),
        }
    }

    /// Whether what the task wants may be had here.
    ///
    /// # Errors
    ///
    /// The first rule that says no.
    pub fn check(&self, request: Request<'_>) -> Result<(), PolicyRefusal> {
        if !self.allowed_algorithms.contains(request.image) {
            return Err(PolicyRefusal::Image {
                image: request.image.to_owned(),
                allowed: self.allowed_algorithms.clone(),
            });
        }
        let mut seen = BTreeSet::new();
        for label in request.databases {
            if !self.databases.contains(label) {
                return Err(PolicyRefusal::Database { label: label.clone(), existing: self.databases.clone() });
            }
            if !seen.insert(label) {
                return Err(PolicyRefusal::RepeatedDatabase { label: label.clone() });
            }
        }
        Ok(())
    }

    /// Whether tasks of this user and organization are run here.
    ///
    /// # Errors
    ///
    /// When neither is allowed.
    pub fn check_requester(&self, requester: Requester) -> Result<(), PolicyRefusal> {
        let Requester { organization, user } = requester;
        let by_user = self.allowed_users.as_ref().map(|users| user.is_some_and(|user| users.contains(&user)));
        let by_organization = self.allowed_organizations.as_ref().map(|ids| ids.contains(&organization));
        match (by_user, by_organization) {
            (None, None) | (Some(true), _) | (_, Some(true)) => Ok(()),
            (Some(false), _) | (None, Some(false)) => Err(PolicyRefusal::Requester { user, organization }),
        }
    }

    /// How an image is run.
    ///
    /// # Errors
    ///
    /// When it is not installed here.
    pub fn algorithm(&self, image: &str) -> Result<&Algorithm, NoImage> {
        self.algorithms.iter().find(|algorithm| algorithm.image == image).ok_or_else(|| NoImage {
            image: image.to_owned(),
            installed: self.algorithms.iter().map(|algorithm| algorithm.image.clone()).collect(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(extra: &str) -> Config {
        let text = format!(
            "coordinator_url = \"http://127.0.0.1:1\"\napi_key = \"x\"\nstate_directory = \"/tmp/x\"\nprivate_key = \"/tmp/k\"\n{extra}\n[[databases]]\nlabel = \"default\"\ntype = \"csv\"\npath = \"/tmp/d.csv\"\n"
        );
        toml::from_str(&text).unwrap()
    }

    fn request<'a>(image: &'a str, databases: &'a [String]) -> Request<'a> {
        Request { image, databases }
    }

    #[test]
    fn by_default_only_the_built_in_image_is_run() {
        let policy = Policy::new(&config(""), true);
        assert!(policy.require_signed_tasks);
        assert_eq!(policy.check(request(BUILTIN_IMAGE, &["default".into()])), Ok(()));
        let refusal = policy.check(request("evil", &[])).unwrap_err().to_string();
        assert!(refusal.contains("evil") && refusal.contains("allowed_algorithms"), "{refusal}");
        assert!(policy.algorithm(BUILTIN_IMAGE).is_ok());
    }

    #[test]
    fn a_user_or_an_organization_suffices() {
        for (extra, allowed) in [
            ("[policies]\nallowed_users = [3]", true),
            ("[policies]\nallowed_users = [9]", false),
            ("[policies]\nallowed_organizations = [4]", true),
            ("[policies]\nallowed_organizations = [9]", false),
            ("[policies]\nallowed_users = [9]\nallowed_organizations = [4]", true),
            ("[policies]\nallowed_users = [9]\nallowed_organizations = [9]", false),
            ("[policies]\nallowed_users = []", false),
        ] {
            let policy = Policy::new(&config(extra), true);
            let requester = Requester { user: Some(UserId::new(3)), organization: OrganizationId::new(4) };
            assert_eq!(policy.check_requester(requester).is_ok(), allowed, "{extra}");
        }
    }

    #[test]
    fn a_database_that_is_not_there_is_named_beside_those_that_are() {
        let policy = Policy::new(&config(""), false);
        assert!(!policy.require_signed_tasks);
        let refusal = policy.check(request(BUILTIN_IMAGE, &["other".into()])).unwrap_err().to_string();
        assert!(refusal.contains("`other`") && refusal.contains("`default`"), "{refusal}");
        let twice = ["default".to_owned(), "default".to_owned()];
        assert!(policy.check(request(BUILTIN_IMAGE, &twice)).is_err());
    }
}
