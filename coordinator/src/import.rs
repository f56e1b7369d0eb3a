//! `twinmesh-coordinator import FILE`: a federation from one file (vantage6's `v6 server import`, and what we add).
//!
//! All of it is written in one transaction or none of it. What has a name that exists is kept as it is, and what it lacks
//! is added: users, members, nodes, studies, links. So a file can be imported again.

mod file;
pub(crate) mod fuzzing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_saphyr::Spanned;
use twinmesh_protocol::id::{CollaborationId, OrganizationId, RoleId, RuleId};
use uuid::Uuid;

use self::file::{AlgorithmStore, Batch, Collaboration, Organization, Participant, Role, Study, User};
use crate::algorithm_store::StoreAddress;
use crate::authn::password::{check_hash, check_policy};
use crate::authn::secret;
use crate::authz::action::{
    CreateCollaboration, CreateNode, CreateOrganization, CreateRole, CreateStudy, CreateUser, LinkAlgorithmStore,
    ReplaceMembers,
};
use crate::authz::grant::{grant, grant_roles};
use crate::authz::operator::operator;
use crate::authz::role::{ROLES, is_reserved};
use crate::authz::rule::{self, RuleSet};
use crate::authz::{Action, Actor, Permit, Target, decide};
use crate::config::{Config, Secret};
use crate::files;
use crate::house::House;
use crate::http::body::{check_name, check_printable};
use crate::limits::{self, Bounded, NAME};
use crate::store::algorithm_store::NewLink;
use crate::store::node::NewApiKey;
use crate::store::operator as find;
use crate::store::organization::{NewKey, OrganizationDetails};
use crate::store::user::{Rights, UserDetails};
use crate::store::{self, Tx};

/// The role of users for whom the file names none.
const DEFAULT_ROLE: &str = "Researcher";
/// The role that vantage6's import gives to every user.
const ALL_RULES_ROLE: &str = "super";
/// How many passwords are hashed at a time.
const HASHES_AT_A_TIME: usize = 4;

/// How a file is imported.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Show what would be done.
    pub(crate) dry_run: bool,
    /// Where generated API keys go; printed when `None`.
    pub(crate) keys_dir: Option<PathBuf>,
    /// Users without roles get every rule, as in vantage6.
    pub(crate) all_rules: bool,
    /// Take passwords that the policy refuses.
    pub(crate) weak_passwords: bool,
}

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Created,
    Kept,
}

/// A line of the report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) outcome: Outcome,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// A node's generated key, if it is not written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// Where it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
}

/// What was done, and what a person should know.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
    pub(crate) warnings: Vec<String>,
    pub(crate) new_root_password: Option<String>,
}

/// Imports a file.
///
/// # Errors
/// The first thing that stands against it; nothing is written then.
pub(crate) async fn import(config: &Config, path: &Path, options: &Options) -> anyhow::Result<Report> {
    let batch = file::read(path)?;
    let mut house = if options.dry_run { House::open(config).await? } else { House::open_or_make(config).await? };
    let new_root_password = house.new_root_password.take();
    let hashes = hash_passwords(&house, &batch, options).await.with_context(|| in_file(path))?;
    let mut tx = house.store.write().await?;
    let mut import = Import {
        tx: &mut tx,
        config,
        actor: operator(None),
        options,
        hashes,
        house: &house,
        report: Report::default(),
        keys: Vec::new(),
    };
    let done = import.batch(&batch).await;
    let Import { mut report, keys, .. } = import;
    done.with_context(|| in_file(path))?;
    if options.dry_run {
        drop(tx);
    } else {
        // Before the commit: a key that nobody has would be of no use.
        let written = hand_out(&mut report, keys, options.keys_dir.as_deref())?;
        if let Err(error) = tx.commit().await {
            for path in written {
                files::remove(&path)?;
            }
            return Err(error.into());
        }
    }
    house.close().await;
    report.new_root_password = new_root_password;
    Ok(report)
}

fn in_file(path: &Path) -> String {
    format!("nothing was imported from `{}`", path.display())
}

/// A line of the file.
fn at(spanned: &Spanned<String>) -> String {
    format!("line {}", spanned.referenced.line())
}

/// Hashes the passwords of users who are new, a few at a time, before anything is locked.
async fn hash_passwords(house: &House, batch: &Batch, options: &Options) -> anyhow::Result<BTreeMap<String, String>> {
    let mut tx = house.store.read().await?;
    let mut new: Vec<(&User, &Secret)> = Vec::new();
    for user in batch.organizations.iter().flat_map(|organization| &organization.users) {
        let name = &user.username.value;
        if find::user_by_name(tx.conn(), name).await?.is_some() {
            continue;
        }
        match (&user.password, &user.password_hash) {
            (Some(password), None) => new.push((user, password)),
            (None, Some(_)) => {}
            (None, None) => bail!("{}: user `{name}` has neither `password` nor `password_hash`", at(&user.username)),
            (Some(_), Some(_)) => {
                bail!("{}: user `{name}` has both `password` and `password_hash`: keep one", at(&user.username));
            }
        }
    }
    drop(tx);
    if !options.weak_passwords {
        for (user, password) in &new {
            check_policy(password.reveal()).map_err(|why| {
                anyhow::anyhow!(
                    "{}: the password of user `{}` is refused: {why}\nhint: --weak-passwords takes it all the same",
                    at(&user.username),
                    user.username.value
                )
            })?;
        }
    }
    futures::stream::iter(new)
        .map(|(user, password)| async move {
            let hash = house.hasher.hash(password.reveal().to_owned()).await?;
            anyhow::Ok((user.username.value.clone(), hash))
        })
        .buffer_unordered(HASHES_AT_A_TIME)
        .try_collect()
        .await
}

/// Gives the generated keys to who runs the import.
fn hand_out(report: &mut Report, keys: Vec<(usize, String)>, directory: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    if let Some(directory) = directory.filter(|_| !keys.is_empty()) {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    }
    for (line, key) in keys {
        let Some(line) = report.lines.get_mut(line) else { continue };
        match directory {
            None => line.api_key = Some(key),
            Some(directory) => {
                let plain =
                    |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
                let name: String = line.name.chars().map(plain).collect();
                let path = directory.join(format!("{name}.key"));
                ensure!(!path.exists(), "`{}` is there already\nhint: give another --keys-dir", path.display());
                files::write_private(&path, format!("{key}\n").as_bytes())?;
                line.api_key_file = Some(path.clone());
                written.push(path);
            }
        }
    }
    Ok(written)
}

struct Import<'a> {
    tx: &'a mut Tx,
    config: &'a Config,
    actor: Actor,
    options: &'a Options,
    /// By user name.
    hashes: BTreeMap<String, String>,
    house: &'a House,
    report: Report,
    /// Generated API keys, by line of the report.
    keys: Vec<(usize, String)>,
}

impl Import<'_> {
    fn permit<A: Action>(&self, subject: A::Subject, target: &Target) -> anyhow::Result<Permit<A>> {
        Ok(decide::<A>(&self.actor, subject, target)?)
    }

    fn note(&mut self, outcome: Outcome, kind: &'static str, name: impl Into<String>) {
        self.report.lines.push(Line { outcome, kind, name: name.into(), api_key: None, api_key_file: None });
    }

    async fn batch(&mut self, batch: &Batch) -> anyhow::Result<()> {
        for organization in &batch.organizations {
            let name = &organization.name;
            let context = || format!("{}: organization `{}`", at(name), name.value);
            self.organization(organization).await.with_context(context)?;
        }
        for collaboration in &batch.collaborations {
            let name = &collaboration.name;
            let context = || format!("{}: collaboration `{}`", at(name), name.value);
            self.collaboration(collaboration).await.with_context(context)?;
        }
        for link in &batch.algorithm_stores {
            self.algorithm_store(link, None).await?;
        }
        Ok(())
    }

    async fn organization(&mut self, given: &Organization) -> anyhow::Result<()> {
        let name = &given.name.value;
        let id = match find::organization_by_name(self.tx.conn(), name).await? {
            Some(id) => {
                self.note(Outcome::Kept, "organization", name);
                id
            }
            None => {
                check("name", name)?;
                check_lengths(given)?;
                let details = OrganizationDetails {
                    name: name.clone(),
                    domain: given.domain.clone(),
                    address1: given.address1.clone(),
                    address2: given.address2.clone(),
                    zipcode: given.zipcode.clone(),
                    country: given.country.clone(),
                };
                let key = file::public_key(given.public_key.as_deref().unwrap_or_default())
                    .map_err(|why| anyhow::anyhow!("`public_key` is refused: {why}"))?;
                let key = key.as_deref().map(|public_key| NewKey { public_key, by: "operator", now: self.house.now });
                let permit = self.permit::<CreateOrganization>((), &Target::anywhere())?;
                let id = store::organization::organization_insert(self.tx, permit, &details, key).await?;
                self.note(Outcome::Created, "organization", name);
                id
            }
        };
        for role in &given.roles {
            let context = || format!("{}: role `{}`", at(&role.name), role.name.value);
            self.role(id, role).await.with_context(context)?;
        }
        for user in &given.users {
            let context = || format!("{}: user `{}`", at(&user.username), user.username.value);
            self.user(id, name, user).await.with_context(context)?;
        }
        Ok(())
    }

    async fn role(&mut self, organization: OrganizationId, given: &Role) -> anyhow::Result<()> {
        let name = &given.name.value;
        ensure!(!is_reserved(name), "the name is that of a built-in role");
        if find::role_by_name(self.tx.conn(), name, organization).await?.is_some() {
            self.note(Outcome::Kept, "role", name);
            return Ok(());
        }
        check("name", name)?;
        check_lengths(given)?;
        let rules = rules(&given.rules)?;
        self.role_insert(organization, name, given.description.as_deref(), rules).await?;
        Ok(())
    }

    async fn role_insert(
        &mut self,
        organization: OrganizationId,
        name: &str,
        description: Option<&str>,
        rules: RuleSet,
    ) -> anyhow::Result<RoleId> {
        let target = Target::organization(organization, []);
        let permit = self.permit::<CreateRole>(organization, &target)?;
        let rules = grant(&self.actor, &target, RuleSet::EMPTY, rules)?;
        let id = store::role::role_insert(self.tx, permit, name, description, rules).await?;
        self.note(Outcome::Created, "role", name);
        Ok(id)
    }

    async fn user(&mut self, organization: OrganizationId, of: &str, given: &User) -> anyhow::Result<()> {
        let name = &given.username.value;
        if find::user_by_name(self.tx.conn(), name).await?.is_some() {
            self.note(Outcome::Kept, "user", name);
            return Ok(());
        }
        check("username", name)?;
        check_lengths(given)?;
        for (field, text) in [("firstname", &given.firstname), ("lastname", &given.lastname)] {
            let is_plain = check_printable(field, text.as_deref().unwrap_or_default()).is_ok();
            ensure!(is_plain, "`{field}` is refused: it has control characters");
        }
        let email = given.email.as_deref().filter(|email| !email.is_empty());
        if store::user::user_names_taken(self.tx.conn(), name, email, None).await?.is_some() {
            bail!("another user has the same `email`");
        }
        let hash = match &given.password_hash {
            Some(hash) => {
                check_hash(hash.reveal()).context("`password_hash` is refused")?;
                hash.reveal().to_owned()
            }
            // Somebody may have removed the user since the hashes were made.
            None => self.hashes.remove(name).context("the user was removed meanwhile: import again")?,
        };
        let roles = self.roles_of(organization, of, given).await?;
        let own = rules(&given.rules)?;
        let records = store::role::role_all(self.tx.conn(), &roles).await?;
        let by_roles = records.iter().fold(RuleSet::EMPTY, |all, role| all.union(role.rules));
        let target = Target::organization(organization, []);
        let rights = Rights {
            roles: grant_roles(&self.actor, &target, by_roles, roles)?,
            rules: grant(&self.actor, &target, RuleSet::EMPTY, own)?,
        };
        let details = UserDetails {
            username: name.clone(),
            firstname: given.firstname.clone(),
            lastname: given.lastname.clone(),
            email: email.map(ToOwned::to_owned),
        };
        let permit = self.permit::<CreateUser>(organization, &target)?;
        store::user::user_insert(self.tx, permit, &details, &hash, &rights).await?;
        self.note(Outcome::Created, "user", name);
        Ok(())
    }

    async fn roles_of(
        &mut self,
        organization: OrganizationId,
        of: &str,
        given: &User,
    ) -> anyhow::Result<BTreeSet<RoleId>> {
        let names = match &given.roles {
            Some(names) => names.clone(),
            None if self.options.all_rules => {
                let role = find::role_by_name(self.tx.conn(), ALL_RULES_ROLE, organization).await?;
                let id = match role {
                    Some(id) => id,
                    None => {
                        let all = ROLES[0].rules();
                        self.role_insert(organization, ALL_RULES_ROLE, Some("Super user"), all).await?
                    }
                };
                return Ok(BTreeSet::from([id]));
            }
            None => {
                let warning = format!(
                    "user `{}` of `{of}` has no `roles` and gets `{DEFAULT_ROLE}`; vantage6 would give every rule, as \
                     --all-rules does",
                    given.username.value
                );
                self.report.warnings.push(warning);
                vec![DEFAULT_ROLE.to_owned()]
            }
        };
        let mut roles = BTreeSet::new();
        for name in names {
            let found = find::role_by_name(self.tx.conn(), &name, organization).await?;
            roles.insert(found.with_context(|| format!("`{of}` has no role `{name}`, and there is no built-in one"))?);
        }
        Ok(roles)
    }

    async fn collaboration(&mut self, given: &Collaboration) -> anyhow::Result<()> {
        let name = &given.name.value;
        let mut members = BTreeSet::new();
        for participant in &given.participants {
            let id = find::organization_by_name(self.tx.conn(), &participant.name).await?;
            let id = id.with_context(|| format!("there is no organization `{}`", participant.name))?;
            ensure!(members.insert(id), "organization `{}` takes part twice", participant.name);
        }
        let id = match find::collaboration_by_name(self.tx.conn(), name).await? {
            Some(id) => {
                self.note(Outcome::Kept, "collaboration", name);
                let before = store::collaboration::members_of(self.tx.conn(), id).await?;
                if !members.is_subset(&before) {
                    let all = before.union(&members).copied().collect();
                    let permit = self.permit::<ReplaceMembers>(id, &Target::collaboration(id))?;
                    store::collaboration::members_replace(self.tx, permit, &all, self.house.now).await?;
                    for participant in &given.participants {
                        let joined = find::organization_by_name(self.tx.conn(), &participant.name).await?;
                        if joined.is_some_and(|id| !before.contains(&id)) {
                            self.note(Outcome::Created, "member", format!("{} in {name}", participant.name));
                        }
                    }
                }
                id
            }
            None => {
                check("name", name)?;
                let permit = self.permit::<CreateCollaboration>((), &Target::anywhere())?;
                let encrypted = given.encrypted;
                let id = store::collaboration::collaboration_insert(self.tx, permit, name, encrypted, &members).await?;
                self.note(Outcome::Created, "collaboration", name);
                id
            }
        };
        for participant in given.participants.iter().filter(|participant| participant.node) {
            let context = || format!("the node of participant `{}`", participant.name);
            self.node(id, name, participant).await.with_context(context)?;
        }
        for study in &given.studies {
            let context = || format!("{}: study `{}`", at(&study.name), study.name.value);
            self.study(id, study).await.with_context(context)?;
        }
        for link in &given.algorithm_stores {
            self.algorithm_store(link, Some(id)).await?;
        }
        if given.tasks.as_ref().is_some_and(|tasks| tasks.as_array().is_none_or(|tasks| !tasks.is_empty())) {
            self.report.warnings.push(format!("`tasks` of collaboration `{name}` are not imported"));
        }
        Ok(())
    }

    async fn node(&mut self, collaboration: CollaborationId, of: &str, given: &Participant) -> anyhow::Result<()> {
        let organization = find::organization_by_name(self.tx.conn(), &given.name).await?;
        let organization = organization.with_context(|| format!("there is no organization `{}`", given.name))?;
        let name = given.node_name.clone().unwrap_or_else(|| format!("{} - {of} Node", given.name));
        if let Some(id) = store::node::node_at(self.tx.conn(), organization, collaboration).await? {
            let known = store::node::node_fetch(self.tx.conn(), id).await?;
            self.note(Outcome::Kept, "node", known.map_or(name, |node| node.name));
            return Ok(());
        }
        if let Some(name) = &given.node_name {
            check("node_name", name)?;
        }
        let taken = store::node::node_name_taken(self.tx.conn(), &name, None).await?;
        ensure!(!taken, "another node has the name `{name}`\nhint: give `node_name`");
        let (key, is_made) = match &given.api_key {
            // Written as it is told to nodes: the hash is of the text.
            Some(key) => {
                let uuid = key.reveal().parse::<Uuid>().ok().filter(|uuid| uuid.to_string() == key.reveal());
                (uuid.context("`api_key` is no UUID in lower case with hyphens")?.to_string(), false)
            }
            None => (secret::new_key().to_string(), true),
        };
        let hash = secret::hash(&key);
        let taken = store::node::node_by_api_key(self.tx.conn(), &hash).await?;
        ensure!(taken.is_none(), "another node has the same `api_key`");
        let target = Target::organization_in(organization, collaboration);
        let permit = self.permit::<CreateNode>((collaboration, organization), &target)?;
        store::node::node_insert(self.tx, permit, &name, NewApiKey::of_operator(&hash)).await?;
        if is_made {
            self.keys.push((self.report.lines.len(), key));
        }
        self.note(Outcome::Created, "node", name);
        Ok(())
    }

    async fn study(&mut self, collaboration: CollaborationId, given: &Study) -> anyhow::Result<()> {
        let name = &given.name.value;
        if find::study_by_name(self.tx.conn(), name).await?.is_some() {
            self.note(Outcome::Kept, "study", name);
            return Ok(());
        }
        check("name", name)?;
        let members = store::collaboration::members_of(self.tx.conn(), collaboration).await?;
        let mut organizations = BTreeSet::new();
        for organization in &given.organizations {
            let id = find::organization_by_name(self.tx.conn(), organization).await?;
            let id = id.filter(|id| members.contains(id));
            organizations.insert(id.with_context(|| format!("organization `{organization}` does not take part"))?);
        }
        ensure!(!organizations.is_empty(), "it has no organizations");
        let permit = self.permit::<CreateStudy>(collaboration, &Target::collaboration(collaboration))?;
        store::study::study_insert(self.tx, permit, name, &organizations).await?;
        self.note(Outcome::Created, "study", name);
        Ok(())
    }

    /// Links a store. It is not told: whoever may do that at the store does it there.
    async fn algorithm_store(
        &mut self,
        given: &AlgorithmStore,
        collaboration: Option<CollaborationId>,
    ) -> anyhow::Result<()> {
        let name = &given.name.value;
        let context = || format!("{}: algorithm store `{name}`", at(&given.name));
        check("name", name).with_context(context)?;
        let allow_local = self.config.algorithm_stores.allow_local;
        let address = StoreAddress::parse(&given.url, given.force, allow_local).with_context(context)?;
        let links = store::algorithm_store::algorithm_stores_at(self.tx.conn(), address.as_str()).await?;
        if links.iter().any(|link| link.collaboration.is_none() || link.collaboration == collaboration) {
            self.note(Outcome::Kept, "algorithm store", name);
            return Ok(());
        }
        let target = collaboration.map_or_else(Target::anywhere, Target::collaboration);
        let permit = self.permit::<LinkAlgorithmStore>(collaboration, &target)?;
        let server_url = given.server_url.as_deref();
        let link = NewLink { name, url: address.as_str(), server_url, forced: given.force };
        store::algorithm_store::algorithm_store_insert(self.tx, permit, &link).await?;
        self.note(Outcome::Created, "algorithm store", name);
        Ok(())
    }
}

/// Rules by their ids.
fn rules(ids: &[i64]) -> anyhow::Result<RuleSet> {
    let mut set = RuleSet::EMPTY;
    for id in ids {
        let id = RuleId::new(*id);
        ensure!(rule::rule(id).is_some(), "there is no rule {id}: they are numbered from 1 to 86");
        set = set.with(id);
    }
    Ok(set)
}

/// Checks how long everything else is as the interface does.
fn check_lengths(given: &impl Bounded) -> anyhow::Result<()> {
    match limits::faults(given).into_iter().next() {
        Some((field, why)) => bail!("`{field}` is refused: {}", why.join(" ")),
        None => Ok(()),
    }
}

/// Checks a name as the interface does.
fn check(field: &str, name: &str) -> anyhow::Result<()> {
    check_name(field, name).map_err(|_| {
        anyhow::anyhow!(
            "`{field}` is refused: {} to {} characters are needed, not only digits, no control characters",
            NAME.min,
            NAME.max
        )
    })
}
