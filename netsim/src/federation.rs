//! A federation of real processes on this machine: a coordinator, and a node per hospital, each with its own key,
//! journal and part of the data.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Value, json};
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_client::key::create_organization_key;
use twinmesh_client::pins::PinStore;
use twinmesh_client::researcher::Client;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::wire::{NewCollaboration, NewNode, NewOrganization, NewUser};

use crate::clock;
use crate::data::split_rows;
use crate::process::{Daemon, POLL};

/// The label under which every hospital offers its data.
pub const DATABASE: &str = "default";
/// The researcher's log-in name.
pub const RESEARCHER: &str = "researcher";
/// The built-in role of researchers (contract A.4.2).
const RESEARCHER_ROLE: RoleId = RoleId::new(5);
/// How long nodes may take to come online.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a federation is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many hospitals.
    pub nodes: usize,
    /// Where everything lives. Must exist and be empty.
    pub directory: Utf8PathBuf,
    /// A program that is this library's `cli` (it is started again as coordinator and as node).
    pub program: Utf8PathBuf,
    /// The table whose row i hospital i modulo `nodes` holds, as CSV.
    pub data: String,
    /// Whether inputs and results are encrypted end to end.
    pub encrypted: bool,
    /// Further lines of every node's configuration, by its number.
    pub extra_configuration: BTreeMap<usize, String>,
    /// How long a run goes on while its node is away.
    pub orphan_grace: Duration,
}

impl Plan {
    /// An encrypted federation of three hospitals, each with a third of the table.
    #[must_use]
    pub fn new(directory: &Utf8Path, program: &Utf8Path, data: &str) -> Self {
        Self {
            nodes: 3,
            directory: directory.into(),
            program: program.into(),
            data: data.into(),
            encrypted: true,
            extra_configuration: BTreeMap::new(),
            orphan_grace: Duration::from_secs(120),
        }
    }
}

/// A hospital's end of the federation.
#[derive(Debug)]
pub struct Hospital {
    /// Its name.
    pub name: String,
    /// Its organization.
    pub organization: OrganizationId,
    /// Its node.
    pub node: NodeId,
    /// Its node's process.
    pub daemon: Daemon,
    /// Its node's state directory.
    pub state: Utf8PathBuf,
    /// Its organization's key.
    pub key: OrganizationKey,
}

impl Hospital {
    /// What the node says about itself, `status.json`.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        read_json(&self.state.join("status.json"))
    }
}

/// A federation that runs.
#[derive(Debug)]
pub struct Federation {
    /// Where the coordinator's interface is.
    pub url: String,
    /// The coordinator's process.
    pub coordinator: Daemon,
    /// The coordinator's data directory.
    pub coordinator_data: Utf8PathBuf,
    /// The hospitals.
    pub hospitals: Vec<Hospital>,
    /// The one collaboration.
    pub collaboration: CollaborationId,
    /// A researcher of the first hospital, logged in, with the hospitals' keys pinned.
    pub researcher: Client,
    /// The researcher's password.
    pub password: String,
    /// The administrator, logged in.
    pub root: Api,
    /// The key file of the researcher's organization.
    pub researcher_key: Utf8PathBuf,
    directory: Utf8PathBuf,
}

/// What a coordinator says of itself once it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    #[serde(default)]
    overlay: Vec<String>,
    pid: u32,
}

impl Federation {
    /// Prepares a federation and waits until all nodes are online and their keys are there.
    ///
    /// # Errors
    /// What went wrong, with the end of the log of the process concerned.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut federation = Self::prepare(plan).await?;
        federation.wait_online().await?;
        Ok(federation)
    }

    /// Starts a coordinator, makes organizations, users, a collaboration and nodes in it, and starts the nodes.
    ///
    /// # Errors
    /// What went wrong, with the end of the log of the process concerned.
    pub async fn prepare(plan: Plan) -> anyhow::Result<Self> {
        let directory = plan.directory.clone();
        let coordinator_data = directory.join("coordinator");
        let root_password = password();
        std::fs::create_dir_all(&coordinator_data).with_context(|| format!("cannot create `{coordinator_data}`"))?;
        let mut unbound = coordinator_daemon(&plan.program, &directory, &coordinator_data, "127.0.0.1:0", None)
            .with_variable("TWINMESH_ROOT_PASSWORD", &root_password);
        unbound.start()?;
        let ready = wait_ready(&mut unbound, &coordinator_data).await?;
        let root = Api::new(&ready.url, ApiOptions::default())?;
        root.log_in_user("root", &root_password, None).await.context("cannot log in as root")?;

        let mut members = Vec::new();
        for number in 1..=plan.nodes {
            let name = format!("hospital-{number}");
            let new = NewOrganization { name: Some(name.clone()), ..NewOrganization::default() };
            let organization =
                root.organization_create(&new).await.with_context(|| format!("cannot create `{name}`"))?;
            let key_file = directory.join(format!("{name}.pem"));
            let (key, _) = create_organization_key(key_file.as_std_path(), false)
                .with_context(|| format!("cannot create the key of `{name}`"))?;
            members.push((name, organization.id, key, key_file));
        }
        let collaboration = root
            .collaboration_create(&NewCollaboration {
                name: "breast-cancer".into(),
                organization_ids: members.iter().map(|(_, id, ..)| *id).collect(),
                encrypted: plan.encrypted,
            })
            .await
            .context("cannot create the collaboration")?
            .id;

        let mut hospitals = Vec::new();
        for (number, ((name, organization, key, key_file), rows)) in
            members.iter().zip(split_rows(&plan.data, plan.nodes)).enumerate()
        {
            let new = NewNode { collaboration_id: collaboration, organization_id: Some(*organization), name: None };
            let node = root.node_create(&new).await.with_context(|| format!("cannot register the node of `{name}`"))?;
            let state = directory.join(name);
            std::fs::create_dir_all(&state).with_context(|| format!("cannot create `{state}`"))?;
            let data = directory.join(format!("{name}.csv"));
            std::fs::write(&data, rows).with_context(|| format!("cannot write `{data}`"))?;
            let configuration = directory.join(format!("{name}.toml"));
            let api_key = node.api_key.as_deref().context("the coordinator gave no API key")?;
            let pins = members.iter().map(|(_, id, key, _)| (id.to_string(), key.public().to_pem()));
            let text = node_configuration(&NodeSettings {
                url: &ready.url,
                api_key,
                state: &state,
                key_file,
                data: &data,
                encrypted: plan.encrypted,
                orphan_grace: plan.orphan_grace,
                pins: pins.collect(),
                extra: plan.extra_configuration.get(&number).map_or("", String::as_str),
            })?;
            std::fs::write(&configuration, text).with_context(|| format!("cannot write `{configuration}`"))?;
            let parent = std::process::id().to_string();
            let log = directory.join("logs").join(format!("{name}.log"));
            let daemon = Daemon::new(
                name,
                &plan.program,
                &["--parent", &parent, "node", "start", "--config", configuration.as_str(), "--stop-runs-on-exit"],
                log,
            );
            hospitals.push(Hospital {
                name: name.clone(),
                organization: *organization,
                node: node.id,
                daemon,
                state,
                key: key.clone(),
            });
        }
        for hospital in &mut hospitals {
            hospital.daemon.start()?;
        }

        let (_, first, key, key_file) = members.first().context("a federation needs a hospital")?;
        let researcher_password = password();
        root.user_create(&NewUser {
            username: RESEARCHER.into(),
            password: researcher_password.clone(),
            email: "researcher@hospital-1.example".into(),
            firstname: Some("Robin".into()),
            lastname: Some("Researcher".into()),
            organization_id: Some(*first),
            roles: Some(vec![RESEARCHER_ROLE]),
            rules: None,
        })
        .await
        .context("cannot create the researcher")?;
        let api = Api::new(&ready.url, ApiOptions::default())?;
        api.log_in_user(RESEARCHER, &researcher_password, None).await.context("cannot log in as the researcher")?;
        let mut pins = PinStore::in_memory();
        for hospital in &hospitals {
            pins.set(hospital.organization, &hospital.name, hospital.key.public(), clock::now())?;
        }
        let researcher = Client::new(api, Some(key.clone()), pins).await.context("cannot set up the researcher")?;
        Ok(Self {
            coordinator: restartable(&plan.program, &directory, &coordinator_data, &ready, unbound)?,
            url: ready.url,
            coordinator_data,
            hospitals,
            collaboration,
            researcher,
            password: researcher_password,
            root,
            researcher_key: key_file.clone(),
            directory,
        })
    }

    /// Where everything lives.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Waits until all nodes are online and their organizations' keys are at the coordinator.
    ///
    /// # Errors
    /// When it takes too long, or a node ends.
    pub async fn wait_online(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let nodes = self.root.node_list(Some(self.collaboration)).await.context("cannot list the nodes")?;
            let organizations = self.root.organization_list(Some(self.collaboration)).await?;
            let online = nodes.iter().filter(|node| node.status.as_deref() == Some("online")).count();
            let keys = organizations.iter().filter(|organization| !organization.public_key.is_empty()).count();
            let meeting = self.hospitals.iter().filter(|hospital| is_ready(hospital)).count();
            let wanted = self.hospitals.len();
            if online == wanted && (keys == wanted || keys == 0) && meeting == wanted {
                return Ok(());
            }
            for hospital in &mut self.hospitals {
                if hospital.daemon.has_ended()? {
                    bail!("the node of `{}` ended:\n{}", hospital.name, hospital.daemon.log_tail());
                }
            }
            if tokio::time::Instant::now() > deadline {
                let logs: Vec<String> = self.hospitals.iter().map(|hospital| hospital.daemon.log_tail()).collect();
                bail!("only {online} of {wanted} nodes came online:\n{}", logs.join("\n--\n"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the coordinator again after its end, at the same addresses, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_coordinator(&mut self) -> anyhow::Result<()> {
        self.coordinator.start()?;
        wait_ready(&mut self.coordinator, &self.coordinator_data).await?;
        Ok(())
    }

    /// Stops all processes in order. What they wrote stays.
    ///
    /// # Errors
    /// When a process cannot be stopped.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let nodes = self.hospitals.iter_mut().map(|hospital| hospital.daemon.stop());
        for stopped in futures::future::join_all(nodes).await {
            stopped?;
        }
        self.coordinator.stop().await?;
        Ok(())
    }
}

/// Whether a node says that everything it needs is there.
fn is_ready(hospital: &Hospital) -> bool {
    let pid = hospital.daemon.pid().map(u64::from);
    hospital.status().is_some_and(|status| status["ready"] == json!(true) && status["pid"].as_u64() == pid)
}

fn coordinator_daemon(
    program: &Utf8Path,
    directory: &Utf8Path,
    data: &Utf8Path,
    listen: &str,
    overlay: Option<&[String]>,
) -> Daemon {
    let parent = std::process::id().to_string();
    let mut arguments =
        vec!["--parent", &parent, "coordinator", "start", "--data-dir", data.as_str(), "--listen", listen];
    let default = ["/ip4/127.0.0.1/udp/0/quic-v1".to_owned(), "/ip4/127.0.0.1/tcp/0".to_owned()];
    for address in overlay.unwrap_or(&default) {
        arguments.extend(["--overlay-listen", address]);
    }
    let logs = directory.join("logs");
    // The daemon's start says what is wrong if this did not work.
    let _ = std::fs::create_dir_all(&logs);
    Daemon::new("coordinator", program, &arguments, logs.join("coordinator.log"))
}

/// The same coordinator as one that is always started at the addresses it has got.
fn restartable(
    program: &Utf8Path,
    directory: &Utf8Path,
    data: &Utf8Path,
    ready: &Ready,
    running: Daemon,
) -> anyhow::Result<Daemon> {
    let listen = ready.url.trim_start_matches("http://").trim_end_matches("/api").trim_end_matches('/');
    let overlay: Vec<String> = ready
        .overlay
        .iter()
        .map(|address| address.split("/p2p/").next().unwrap_or(address).trim_end_matches('/').to_owned())
        .collect();
    let daemon = coordinator_daemon(program, directory, data, listen, Some(&overlay));
    daemon.taking_over(running)
}

async fn wait_ready(coordinator: &mut Daemon, data: &Utf8Path) -> anyhow::Result<Ready> {
    let file = data.join("coordinator.json");
    let pid = coordinator.pid();
    coordinator
        .wait_until(|| {
            let ready: Ready = serde_json::from_value(read_json(&file)?).ok()?;
            (Some(ready.pid) == pid).then_some(ready)
        })
        .await
}

struct NodeSettings<'a> {
    url: &'a str,
    api_key: &'a str,
    state: &'a Utf8Path,
    key_file: &'a Utf8Path,
    data: &'a Utf8Path,
    encrypted: bool,
    orphan_grace: Duration,
    pins: BTreeMap<String, String>,
    extra: &'a str,
}

fn node_configuration(settings: &NodeSettings<'_>) -> anyhow::Result<String> {
    let pins: toml::Table = settings.pins.iter().map(|(id, pem)| (id.clone(), pem.clone().into())).collect();
    let mut table = toml::toml! {
        coordinator_url = "-"
        api_key = "-"
        state_directory = "-"
        private_key = "-"

        [encryption]
        enabled = true

        [[databases]]
        label = "default"
        type = "csv"
        path = "-"

        [runtime]
        minimum = "lite"
        orphan_grace = "-"

        [overlay]
        listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]
    };
    table["coordinator_url"] = settings.url.into();
    table["api_key"] = settings.api_key.into();
    table["state_directory"] = settings.state.as_str().into();
    table["private_key"] = settings.key_file.as_str().into();
    table["encryption"]["enabled"] = settings.encrypted.into();
    table["databases"][0]["label"] = DATABASE.into();
    table["databases"][0]["path"] = settings.data.as_str().into();
    table["runtime"]["orphan_grace"] = format!("{}s", settings.orphan_grace.as_secs()).into();
    table.insert("pins".into(), pins.into());
    let extra: toml::Table = settings.extra.parse().context("the plan's extra configuration is no TOML")?;
    merge(&mut table, extra);
    Ok(toml::to_string_pretty(&table).context("cannot write the node's configuration")?)
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

fn read_json(path: &Utf8Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A random password that any policy takes.
fn password() -> String {
    format!("Aa1-{:032x}", rand::random::<u128>())
}
