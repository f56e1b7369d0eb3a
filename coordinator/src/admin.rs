//! `twinmesh-coordinator admin …`: what an operator at the machine needs on a bad day, when nobody can log in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use twinmesh_protocol::id::{OrganizationId, UserId};
use twinmesh_protocol::time::Time;

use crate::authn::password::check_policy;
use crate::authn::secret;
use crate::authz::action::{ChangePassword, CreateUser, DeleteUser, RenewApiKey};
use crate::authz::grant::{grant, grant_roles};
use crate::authz::operator::operator;
use crate::authz::rule::RuleSet;
use crate::authz::{Target, decide};
use crate::config::Config;
use crate::files;
use crate::house::House;
use crate::http::organization::key_record;
use crate::http::user::{check_email, check_username};
use crate::print::{self, optional};
use crate::store::node::NewApiKey;
use crate::store::operator as find;
use crate::store::page::PageRequest;
use crate::store::user::{Rights, UserDetails};
use crate::store::{self};

/// Something that was named is not there: an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("there is no {noun} `{name}`")]
pub(crate) struct NotFound {
    noun: &'static str,
    name: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// People.
    #[command(subcommand)]
    User(UserVerb),
    /// Organizations' ends of a collaboration.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Parties that hold data, ask questions, or both.
    #[command(subcommand)]
    Organization(OrganizationVerb),
    /// Organizations' public keys.
    #[command(subcommand)]
    Key(KeyVerb),
}

/// What to do with users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// List users: who is locked, who has a second factor.
    List,
    /// Make a user.
    #[command(after_help = "Example:\n  twinmesh-coordinator admin user create rescue --organization root --role Root")]
    Create {
        /// The user's name.
        username: String,
        /// Whose member: an organization's name.
        #[arg(long)]
        organization: String,
        /// The user's mail address.
        #[arg(long)]
        email: Option<String>,
        /// A built-in role, or one of the organization's; may be repeated.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        password: PasswordFlags,
    },
    /// Give a user another password, unlock the account, and end what was logged in with the old one.
    #[command(after_help = "Example:\n  twinmesh-coordinator admin user reset-password root --data-dir ./coordinator")]
    ResetPassword {
        /// The user's name.
        username: String,
        #[command(flatten)]
        password: PasswordFlags,
    },
    /// Let a user try again who gave too many wrong passwords.
    Unlock {
        /// The user's name.
        username: String,
    },
    /// Forget a user's second factor: the next log-in sets up another.
    ResetTwoFactor {
        /// The user's name.
        username: String,
    },
    /// Delete a user.
    Delete {
        /// The user's name.
        username: String,
        /// Also delete the tasks they made.
        #[arg(long)]
        dependents: bool,
        /// Really.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Where a password comes from; made up and printed once if from nowhere.
#[derive(Debug, Args)]
pub(crate) struct PasswordFlags {
    /// A file that holds the password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List nodes.
    List,
    /// Give a node another API key; the old one, and every token had with it, stops working.
    #[command(
        after_help = "Example:\n  twinmesh-coordinator admin node new-key 'hospital-a - trial Node' --key-file new.key"
    )]
    NewKey {
        /// The node's name.
        node: String,
        /// A file to write the key to, for its owner only; printed once if not given.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
}

/// What to do with organizations.
#[derive(Debug, Subcommand)]
pub(crate) enum OrganizationVerb {
    /// List organizations.
    List,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// List the keys an organization has had, newest first.
    History {
        /// The organization's name.
        organization: String,
    },
}

/// Does it.
///
/// # Errors
/// When the database cannot be had, something named is not there, or a value is refused.
pub(crate) async fn run(config: &Config, verb: Admin, json: bool) -> anyhow::Result<()> {
    let house = House::open(config).await?;
    let done = match verb {
        Admin::User(verb) => user(&house, verb, json).await,
        Admin::Node(verb) => node(&house, verb, json).await,
        Admin::Organization(OrganizationVerb::List) => organization_list(&house, json).await,
        Admin::Key(KeyVerb::History { organization }) => key_history(&house, &organization, json).await,
    };
    house.close().await;
    done
}

fn when(at: Option<Time>) -> Option<String> {
    at.map(|at| at.to_rfc3339())
}

#[derive(Debug, Serialize)]
struct UserLine {
    id: i64,
    username: String,
    email: Option<String>,
    organization: String,
    roles: Vec<String>,
    locked: bool,
    two_factor: bool,
    last_seen: Option<String>,
}

async fn user(house: &House, verb: UserVerb, json: bool) -> anyhow::Result<()> {
    match verb {
        UserVerb::List => user_list(house, json).await,
        UserVerb::Create { username, organization, email, roles, password } => {
            user_create(house, &username, &organization, email, &roles, &password, json).await
        }
        UserVerb::ResetPassword { username, password } => reset_password(house, &username, &password, json).await,
        UserVerb::Unlock { username } => {
            let mut tx = house.store.write().await?;
            let id = find_user(&mut tx, &username).await?;
            store::operator::user_unlock(&mut tx, id).await?;
            tx.commit().await?;
            say(&format!("user `{username}` may log in again"));
            Ok(())
        }
        UserVerb::ResetTwoFactor { username } => {
            let mut tx = house.store.write().await?;
            let id = find_user(&mut tx, &username).await?;
            store::operator::second_factor_forget(&mut tx, id, house.now).await?;
            tx.commit().await?;
            say(&format!("the next log-in of user `{username}` sets up a second factor"));
            Ok(())
        }
        UserVerb::Delete { username, dependents, yes } => user_delete(house, &username, dependents, yes).await,
    }
}

async fn user_list(house: &House, json: bool) -> anyhow::Result<()> {
    let mut tx = house.store.read().await?;
    let mut lines = Vec::new();
    for account in store::operator::account_list(tx.conn()).await? {
        lines.push(UserLine {
            id: account.id.get(),
            roles: store::user::role_names(tx.conn(), account.id).await?,
            locked: house.lockout.is_locked(account.attempts, house.now),
            two_factor: account.has_second_factor,
            last_seen: when(account.last_seen),
            username: account.username,
            email: account.email,
            organization: account.organization,
        });
    }
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let headers = ["ID", "USERNAME", "ORGANIZATION", "ROLES", "LOCKED", "TWO FACTOR", "LAST SEEN"];
    print::list(json, &lines, &headers, |line| {
        vec![
            line.id.to_string(),
            line.username.clone(),
            line.organization.clone(),
            optional(Some(line.roles.join(", "))),
            yes_no(line.locked),
            yes_no(line.two_factor),
            optional(line.last_seen.as_ref()),
        ]
    })
}

/// The password to set, and whether it was made up.
fn password(flags: &PasswordFlags) -> anyhow::Result<(String, bool)> {
    let given = match &flags.password_file {
        Some(path) => files::read_secret(path)?,
        None => return Ok((secret::new_password(), true)),
    };
    check_policy(&given).map_err(|why| anyhow::anyhow!("the password is refused: {why}"))?;
    Ok((given, false))
}

/// Tells a password that was made up: data, and only this once.
fn tell_password(username: &str, password: &str, is_made_up: bool, json: bool) -> anyhow::Result<()> {
    match (is_made_up, json) {
        (false, _) => Ok(()),
        (true, true) => print::value(&serde_json::json!({"username": username, "password": password})),
        (true, false) => {
            say("the password is shown this once:");
            print::data(&format!("{password}\n"))
        }
    }
}

async fn user_create(
    house: &House,
    username: &str,
    organization: &str,
    email: Option<String>,
    roles: &[String],
    flags: &PasswordFlags,
    json: bool,
) -> anyhow::Result<()> {
    let refused =
        |field: &'static str| move |_| anyhow::anyhow!("`{field}` is refused: see the rules of the interface");
    check_username(username).map_err(refused("username"))?;
    if let Some(email) = &email {
        check_email(email).map_err(refused("email"))?;
    }
    let (password, is_made_up) = password(flags)?;
    let hash = house.hasher.hash(password.clone()).await?;
    let actor = operator(None);
    let mut tx = house.store.write().await?;
    let organization_id = find_organization(&mut tx, organization).await?;
    if let Some(what) = store::user::user_names_taken(tx.conn(), username, email.as_deref(), None).await? {
        anyhow::bail!("another user has this {what}");
    }
    let mut ids = BTreeSet::new();
    for name in roles {
        let role = find::role_by_name(tx.conn(), name, organization_id).await?;
        ids.insert(role.ok_or_else(|| NotFound { noun: "role", name: name.clone() })?);
    }
    let records = store::role::role_all(tx.conn(), &ids).await?;
    let by_roles = records.iter().fold(RuleSet::EMPTY, |all, role| all.union(role.rules));
    let target = Target::organization(organization_id, []);
    let rights = Rights {
        roles: grant_roles(&actor, &target, by_roles, ids)?,
        rules: grant(&actor, &target, RuleSet::EMPTY, RuleSet::EMPTY)?,
    };
    let permit = decide::<CreateUser>(&actor, organization_id, &target)?;
    let details = UserDetails { username: username.to_owned(), firstname: None, lastname: None, email };
    store::user::user_insert(&mut tx, permit, &details, &hash, &rights).await?;
    tx.commit().await?;
    say(&format!("user `{username}` made"));
    tell_password(username, &password, is_made_up, json)
}

async fn reset_password(house: &House, username: &str, flags: &PasswordFlags, json: bool) -> anyhow::Result<()> {
    let (password, is_made_up) = password(flags)?;
    let mut tx = house.store.read().await?;
    find_user(&mut tx, username).await?;
    drop(tx);
    let hash = house.hasher.hash(password.clone()).await?;
    let mut tx = house.store.write().await?;
    let id = find_user(&mut tx, username).await?;
    let target = Target::anywhere().owned_by(Some(id));
    let permit = decide::<ChangePassword>(&operator(Some(id)), id, &target)?;
    store::user::password_replace(&mut tx, permit, &hash, None, house.now).await?;
    store::operator::user_unlock(&mut tx, id).await?;
    tx.commit().await?;
    say(&format!("user `{username}` has another password"));
    tell_password(username, &password, is_made_up, json)
}

async fn user_delete(house: &House, username: &str, dependents: bool, yes: bool) -> anyhow::Result<()> {
    let mut tx = house.store.write().await?;
    let id = find_user(&mut tx, username).await?;
    anyhow::ensure!(yes, "user `{username}` would be deleted\nhint: say --yes");
    let found = store::user::user_dependents(tx.conn(), id).await?;
    anyhow::ensure!(
        dependents || found.is_empty(),
        "user `{username}` has {} that would be deleted too\nhint: say --dependents",
        found.join(", ")
    );
    let permit = decide::<DeleteUser>(&operator(None), id, &Target::anywhere())?;
    let rooted = store::user::any_root(tx.conn()).await?;
    store::user::user_delete(&mut tx, permit, house.now).await?;
    anyhow::ensure!(
        !rooted || store::user::any_root(tx.conn()).await?,
        "user `{username}` is the last with every right\nhint: make another user with the role Root first"
    );
    tx.commit().await?;
    say(&format!("user `{username}` deleted"));
    Ok(())
}

#[derive(Debug, Serialize)]
struct NodeLine {
    id: i64,
    name: String,
    organization: String,
    collaboration: String,
    status: Option<String>,
    last_seen: Option<String>,
}

async fn node(house: &House, verb: NodeVerb, json: bool) -> anyhow::Result<()> {
    match verb {
        NodeVerb::List => {
            let mut tx = house.store.read().await?;
            let nodes = store::operator::node_account_list(tx.conn()).await?;
            let lines: Vec<_> = nodes
                .into_iter()
                .map(|node| NodeLine {
                    id: node.id.get(),
                    name: node.name,
                    organization: node.organization,
                    collaboration: node.collaboration,
                    status: node.status,
                    last_seen: when(node.last_seen),
                })
                .collect();
            let headers = ["ID", "NAME", "ORGANIZATION", "COLLABORATION", "STATUS", "LAST SEEN"];
            print::list(json, &lines, &headers, |line| {
                vec![
                    line.id.to_string(),
                    line.name.clone(),
                    line.organization.clone(),
                    line.collaboration.clone(),
                    optional(line.status.as_ref()),
                    optional(line.last_seen.as_ref()),
                ]
            })
        }
        NodeVerb::NewKey { node, key_file } => new_key(house, &node, key_file.as_deref(), json).await,
    }
}

async fn new_key(house: &House, name: &str, key_file: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let mut tx = house.store.write().await?;
    let id = find::node_by_name(tx.conn(), name).await?;
    let id = id.ok_or_else(|| NotFound { noun: "node", name: name.into() })?;
    let permit = decide::<RenewApiKey>(&operator(None), id, &Target::anywhere())?;
    let key = secret::new_key().to_string();
    let hash = secret::hash(&key);
    store::node::api_key_replace(&mut tx, permit, NewApiKey::of_operator(&hash), house.now).await?;
    if let Some(path) = key_file {
        anyhow::ensure!(!path.exists(), "`{}` is there already", path.display());
        files::write_private(path, format!("{key}\n").as_bytes())?;
    }
    if let Err(error) = tx.commit().await {
        if let Some(path) = key_file {
            files::remove(path)?;
        }
        return Err(error).context("the node keeps its key");
    }
    match (key_file, json) {
        (Some(path), _) => say(&format!("node `{name}` has another API key, which is in {}", path.display())),
        (None, true) => print::value(&serde_json::json!({"node": name, "api_key": key}))?,
        (None, false) => {
            say(&format!("node `{name}` has another API key, which is shown this once:"));
            print::data(&format!("{key}\n"))?;
        }
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct OrganizationLine {
    id: i64,
    name: String,
    country: Option<String>,
    has_key: bool,
}

async fn organization_list(house: &House, json: bool) -> anyhow::Result<()> {
    let mut tx = house.store.read().await?;
    let all = store::organization::organization_all(tx.conn(), &store::filter::Filter::default()).await?;
    let lines: Vec<_> = all
        .into_iter()
        .map(|organization| OrganizationLine {
            id: organization.id.get(),
            name: organization.details.name,
            country: organization.details.country,
            has_key: organization.public_key.is_some_and(|key| !key.is_empty()),
        })
        .collect();
    print::list(json, &lines, &["ID", "NAME", "COUNTRY", "KEY"], |line| {
        let key = if line.has_key { "yes" } else { "no" };
        vec![line.id.to_string(), line.name.clone(), optional(line.country.as_ref()), key.into()]
    })
}

async fn key_history(house: &House, organization: &str, json: bool) -> anyhow::Result<()> {
    let mut tx = house.store.read().await?;
    let id = find_organization(&mut tx, organization).await?;
    let (found, _) = store::organization::organization_key_page(tx.conn(), id, &PageRequest::all()).await?;
    let keys: Vec<_> = found.into_iter().map(key_record).collect();
    print::list(json, &keys, &["FINGERPRINT", "TYPE", "SET", "BY", "REPLACED"], |key| {
        let by = key.set_by.as_ref().map(|by| match by.id {
            Some(id) => format!("{} {id}", by.kind),
            None => by.kind.clone(),
        });
        vec![
            key.fingerprint.clone(),
            key.kind.clone(),
            optional(when(key.set_at)),
            optional(by),
            when(key.replaced_at).unwrap_or_else(|| "in use".into()),
        ]
    })
}

async fn find_user(tx: &mut store::Tx, name: &str) -> anyhow::Result<UserId> {
    let id = find::user_by_name(tx.conn(), name).await?;
    Ok(id.ok_or_else(|| NotFound { noun: "user", name: name.into() })?)
}

async fn find_organization(tx: &mut store::Tx, name: &str) -> anyhow::Result<OrganizationId> {
    let id = find::organization_by_name(tx.conn(), name).await?;
    Ok(id.ok_or_else(|| NotFound { noun: "organization", name: name.into() })?)
}

/// To the person, not to a program.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
