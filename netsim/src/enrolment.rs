//! What an administrator does once: organizations, users, a collaboration and nodes, and what each node is given.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_client::key::create_organization_key;
use twinmesh_client::pins::PinStore;
use twinmesh_client::researcher::Client;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::wire::{NewCollaboration, NewNode, NewOrganization, NewUser};

use crate::clock;
use crate::data::split_rows;

/// The label under which every hospital offers its data.
pub const DATABASE: &str = "default";
/// The collaboration's name.
pub const COLLABORATION: &str = "breast-cancer";
/// The researcher's log-in name.
pub const RESEARCHER: &str = "researcher";
/// The built-in role of researchers (contract A.4.2).
const RESEARCHER_ROLE: RoleId = RoleId::new(5);

/// What a federation is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many hospitals.
    pub nodes: usize,
    /// Where everything lives. Must exist and be empty.
    pub directory: Utf8PathBuf,
    /// The table whose row i hospital i modulo `nodes` holds, as CSV.
    pub data: String,
    /// Whether inputs and results are encrypted end to end.
    pub encrypted: bool,
    /// Further lines of a node's configuration, by its number from 0.
    pub extra_configuration: BTreeMap<usize, String>,
    /// How long a run goes on while its node is away.
    pub orphan_grace: Duration,
    /// How many coordinators work as one; several need `database`.
    pub instances: usize,
    /// The URL of an empty PostgreSQL database for the coordinators; without it, SQLite.
    pub database: Option<String>,
    /// Further variables of the coordinators' environment.
    pub coordinator_environment: BTreeMap<String, String>,
}

impl Plan {
    /// An encrypted federation of three hospitals, each with a third of the table.
    #[must_use]
    pub fn new(directory: &Utf8Path, data: &str) -> Self {
        Self {
            nodes: 3,
            directory: directory.into(),
            data: data.into(),
            encrypted: true,
            extra_configuration: BTreeMap::new(),
            orphan_grace: Duration::from_secs(120),
            instances: 1,
            database: None,
            coordinator_environment: BTreeMap::new(),
        }
    }
}

/// A hospital that has its place in the collaboration.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its organization.
    pub organization: OrganizationId,
    /// Its node.
    pub node: NodeId,
    /// Its organization's key.
    pub key: OrganizationKey,
    /// The file that holds that key.
    pub key_file: Utf8PathBuf,
    /// Its node's configuration file.
    pub configuration: Utf8PathBuf,
    /// Its node's state directory.
    pub state: Utf8PathBuf,
}

/// A collaboration that is ready for its nodes to come.
#[derive(Debug)]
pub struct Enrolment {
    /// The collaboration.
    pub collaboration: CollaborationId,
    /// Its hospitals.
    pub members: Vec<Member>,
    /// A researcher of the first hospital, logged in, with the hospitals' keys pinned.
    pub researcher: Client,
    /// The researcher's password.
    pub password: String,
}

/// Makes organizations with keys, a collaboration, nodes with their data and configuration, and a researcher.
///
/// `url` has the addresses of all coordinators, with commas in between. Each node begins with another of them, the first
/// node with the second; the researcher begins with the first.
///
/// # Errors
/// What the coordinator refused, or which file cannot be written.
pub async fn enrol(plan: &Plan, url: &str, root: &Api) -> anyhow::Result<Enrolment> {
    let directory = &plan.directory;
    let mut organizations = Vec::new();
    for number in 1..=plan.nodes {
        let name = format!("hospital-{number}");
        let new = NewOrganization { name: Some(name.clone()), ..NewOrganization::default() };
        let organization = root.organization_create(&new).await.with_context(|| format!("cannot create `{name}`"))?;
        let key_file = directory.join(format!("{name}.pem"));
        let (key, _) = create_organization_key(key_file.as_std_path(), false)
            .with_context(|| format!("cannot create the key of `{name}`"))?;
        organizations.push((name, organization.id, key, key_file));
    }
    let collaboration = root
        .collaboration_create(&NewCollaboration {
            name: COLLABORATION.into(),
            organization_ids: organizations.iter().map(|(_, id, ..)| *id).collect(),
            encrypted: plan.encrypted,
        })
        .await
        .context("cannot create the collaboration")?
        .id;
    let pins: BTreeMap<String, String> =
        organizations.iter().map(|(_, id, key, _)| (id.to_string(), key.public().to_pem())).collect();

    let mut members = Vec::new();
    let parts = split_rows(&plan.data, plan.nodes);
    for (number, ((name, organization, key, key_file), rows)) in organizations.into_iter().zip(parts).enumerate() {
        let new = NewNode { collaboration_id: collaboration, organization_id: Some(organization), name: None };
        let node = root.node_create(&new).await.with_context(|| format!("cannot register the node of `{name}`"))?;
        let state = directory.join(&name);
        std::fs::create_dir_all(&state).with_context(|| format!("cannot create `{state}`"))?;
        let data = directory.join(format!("{name}.csv"));
        std::fs::write(&data, rows).with_context(|| format!("cannot write `{data}`"))?;
        let configuration = directory.join(format!("{name}.toml"));
        let text = node_configuration(&NodeSettings {
            urls: rotated(url, number + 1),
            api_key: node.api_key.as_deref().context("the coordinator gave no API key")?,
            state: &state,
            key_file: &key_file,
            data: &data,
            encrypted: plan.encrypted,
            orphan_grace: plan.orphan_grace,
            pins: &pins,
            extra: plan.extra_configuration.get(&number).map_or("", String::as_str),
        })?;
        crate::process::write_private(&configuration, &text)?;
        members.push(Member { name, organization, node: node.id, key, key_file, configuration, state });
    }
    let (researcher, password) = researcher(url, root, &members).await?;
    Ok(Enrolment { collaboration, members, researcher, password })
}

async fn researcher(url: &str, root: &Api, members: &[Member]) -> anyhow::Result<(Client, String)> {
    let first = members.first().context("a federation needs a hospital")?;
    let password = password();
    root.user_create(&NewUser {
        username: RESEARCHER.into(),
        password: password.clone(),
        email: "researcher@hospital-1.example".into(),
        firstname: Some("Robin".into()),
        lastname: Some("Researcher".into()),
        organization_id: Some(first.organization),
        roles: Some(vec![RESEARCHER_ROLE]),
        rules: None,
    })
    .await
    .context("cannot create the researcher")?;
    let api = Api::new(url, ApiOptions::default())?;
    api.log_in_user(RESEARCHER, &password, None).await.context("cannot log in as the researcher")?;
    let mut pins = PinStore::in_memory();
    for member in members {
        pins.set(member.organization, &member.name, member.key.public(), clock::now())?;
    }
    let client =
        Client::new(api, Some(first.key.clone().into()), pins).await.context("cannot set up the researcher")?;
    Ok((client, password))
}

/// Addresses with commas in between, begun at another place.
fn rotated(urls: &str, by: usize) -> Vec<&str> {
    let mut urls: Vec<&str> = urls.split(',').collect();
    let by = by % urls.len();
    urls.rotate_left(by);
    urls
}

struct NodeSettings<'a> {
    urls: Vec<&'a str>,
    api_key: &'a str,
    state: &'a Utf8Path,
    key_file: &'a Utf8Path,
    data: &'a Utf8Path,
    encrypted: bool,
    orphan_grace: Duration,
    pins: &'a BTreeMap<String, String>,
    extra: &'a str,
}

fn node_configuration(settings: &NodeSettings<'_>) -> anyhow::Result<String> {
    let mut table = toml::toml! {
        [runtime]
        minimum = "lite"

        [overlay]
        listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]

        [[databases]]
        type = "csv"
    };
    let urls = match settings.urls[..] {
        [one] => one.into(),
        ref several => several.iter().map(|url| toml::Value::from(*url)).collect::<Vec<_>>().into(),
    };
    table.insert("coordinator_url".into(), urls);
    table.insert("api_key".into(), settings.api_key.into());
    table.insert("state_directory".into(), settings.state.as_str().into());
    table.insert("private_key".into(), settings.key_file.as_str().into());
    table.insert("encryption".into(), toml::Table::from_iter([("enabled".into(), settings.encrypted.into())]).into());
    let pins = settings.pins.iter().map(|(id, pem)| (id.clone(), pem.clone().into()));
    table.insert("pins".into(), toml::Table::from_iter(pins).into());
    let set = |table: &mut toml::Table, path: [&str; 2], value: toml::Value| {
        let section = match table.get_mut(path[0]) {
            Some(toml::Value::Table(section)) => Some(section),
            Some(toml::Value::Array(sections)) => sections.first_mut().and_then(toml::Value::as_table_mut),
            Some(_) | None => None,
        };
        if let Some(section) = section {
            section.insert(path[1].into(), value);
        }
    };
    set(&mut table, ["databases", "label"], DATABASE.into());
    set(&mut table, ["databases", "path"], settings.data.as_str().into());
    set(&mut table, ["runtime", "orphan_grace"], format!("{}s", settings.orphan_grace.as_secs()).into());
    let extra: toml::Table = settings.extra.parse().context("the plan's extra configuration is no TOML")?;
    merge(&mut table, extra);
    toml::to_string_pretty(&table).context("cannot write the node's configuration")
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A random password that any policy takes.
pub(crate) fn password() -> String {
    format!("Aa1-{:032x}", rand::random::<u128>())
}
