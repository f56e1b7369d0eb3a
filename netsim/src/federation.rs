//! A federation of real processes on this machine: one coordinator or several that work as one, and a node per hospital,
//! each with its own key, journal and part of the data.

use std::time::Duration;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_client::researcher::Client;
use twinmesh_node::node::{NodeStatus, read_status};
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::key::OrganizationKey;

pub use crate::enrolment::{COLLABORATION, DATABASE, Plan, RESEARCHER};
use crate::enrolment::{Enrolment, enrol, password};
use crate::process::{Daemon, POLL};

/// How long nodes may take to come online.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// What the node says about itself; `None` before it has said anything.
    #[must_use]
    pub fn status(&self) -> Option<NodeStatus> {
        read_status(&self.state).ok()
    }

    /// Whether the node follows the coordinator and has its place in the overlay.
    fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| {
            Some(status.pid) == self.daemon.pid() && status.coordinator.link.connected && status.keys.registered
        })
    }
}

/// A coordinator, or one of several that work as one.
#[derive(Debug)]
pub struct Instance {
    /// Where its interface is.
    pub url: String,
    /// Its process.
    pub daemon: Daemon,
    /// Its data directory.
    pub data: Utf8PathBuf,
}

impl Instance {
    /// Starts it again after its end, at the same addresses, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.daemon.start()?;
        wait_ready(&mut self.daemon, &self.data).await?;
        Ok(())
    }
}

/// A federation that runs.
#[derive(Debug)]
pub struct Federation {
    /// Where the interfaces of all coordinators are, with commas in between.
    pub url: String,
    /// The coordinators, at least one.
    pub instances: Vec<Instance>,
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
pub(crate) struct Ready {
    pub(crate) url: String,
    #[serde(default)]
    overlay: Vec<String>,
    pid: u32,
}

impl Federation {
    /// Prepares a federation and waits until all nodes are online and their keys are there. `program` is one that
    /// begins with [`crate::cli::main`]; it is started as coordinator and as node.
    ///
    /// # Errors
    /// What went wrong, with the end of the log of the process concerned.
    pub async fn start(plan: &Plan, program: &Utf8Path) -> anyhow::Result<Self> {
        let mut federation = Self::prepare(plan, program).await?;
        federation.wait_online().await?;
        Ok(federation)
    }

    /// Starts a coordinator, makes organizations, users, a collaboration and nodes in it, and starts the nodes.
    ///
    /// # Errors
    /// What went wrong, with the end of the log of the process concerned.
    pub async fn prepare(plan: &Plan, program: &Utf8Path) -> anyhow::Result<Self> {
        let directory = plan.directory.clone();
        let logs = directory.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create `{logs}`"))?;
        let root_password = password();
        let mut instances = Vec::new();
        for number in 1..=plan.instances {
            instances.push(start_instance(plan, program, number, &root_password).await?);
        }
        let urls: Vec<&str> = instances.iter().map(|instance| instance.url.as_str()).collect();
        let url = urls.join(",");
        let root = Api::new(&url, ApiOptions::default())?;
        root.log_in_user("root", &root_password, None).await.context("cannot log in as root")?;
        let Enrolment { collaboration, members, researcher, password } = enrol(plan, &url, &root).await?;

        let researcher_key = members.first().context("a federation needs a hospital")?.key_file.clone();
        let parent = std::process::id().to_string();
        let mut hospitals = Vec::new();
        for member in members {
            let arguments = [
                "--parent",
                &parent,
                "node",
                "start",
                "--config",
                member.configuration.as_str(),
                "--stop-runs-on-exit",
            ];
            let log = logs.join(format!("{}.log", member.name));
            let mut daemon = Daemon::new(&member.name, program, &arguments, log);
            daemon.start()?;
            hospitals.push(Hospital {
                name: member.name,
                organization: member.organization,
                node: member.node,
                daemon,
                state: member.state,
                key: member.key,
            });
        }
        Ok(Self { url, instances, hospitals, collaboration, researcher, password, root, researcher_key, directory })
    }

    /// Where everything lives.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Waits until all nodes follow the coordinator, have their place in the overlay, and are online.
    ///
    /// # Errors
    /// When it takes too long, or a node ends.
    pub async fn wait_online(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let wanted = self.hospitals.len();
            let ready = self.hospitals.iter().filter(|hospital| hospital.is_ready()).count();
            if ready == wanted {
                let nodes = self.root.node_list(Some(self.collaboration)).await.context("cannot list the nodes")?;
                if nodes.iter().filter(|node| node.status.as_deref() == Some("online")).count() == wanted {
                    return Ok(());
                }
            }
            for hospital in &mut self.hospitals {
                if hospital.daemon.has_ended()? {
                    bail!("the node of `{}` ended:\n{}", hospital.name, hospital.daemon.log_tail());
                }
            }
            if tokio::time::Instant::now() > deadline {
                let logs: Vec<String> = self.hospitals.iter().map(|hospital| hospital.daemon.log_tail()).collect();
                bail!("only {ready} of {wanted} nodes came online within {PATIENCE:?}:\n{}", logs.join("\n--\n"));
            }
            tokio::time::sleep(POLL).await;
        }
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
        for instance in &mut self.instances {
            instance.daemon.stop().await?;
        }
        Ok(())
    }
}

/// Starts a coordinator on a new data directory. It can be started again at the addresses that it has got.
async fn start_instance(
    plan: &Plan,
    program: &Utf8Path,
    number: usize,
    root_password: &str,
) -> anyhow::Result<Instance> {
    let name = if number == 1 { "coordinator".to_owned() } else { format!("coordinator-{number}") };
    let data = plan.directory.join(&name);
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create `{data}`"))?;
    let daemon = |listen: &str, overlay: &[String]| {
        let parent = std::process::id().to_string();
        let mut arguments =
            vec!["--parent", &parent, "coordinator", "start", "--data-dir", data.as_str(), "--listen", listen];
        for address in overlay {
            arguments.extend(["--overlay-listen", address]);
        }
        let log = plan.directory.join("logs").join(format!("{name}.log"));
        let mut daemon = Daemon::new(&name, program, &arguments, log);
        if let Some(database) = &plan.database {
            daemon = daemon.with_variable("COORDINATOR__DATABASE__URL", database);
        }
        if plan.instances > 1 {
            // What one has taken up any other must find.
            let objects = format!("file://{}", plan.directory.join("objects"));
            daemon = daemon.with_variable("COORDINATOR__OBJECTS__URL", &objects);
        }
        plan.coordinator_environment.iter().fold(daemon, |daemon, (name, value)| daemon.with_variable(name, value))
    };
    let anywhere = ["/ip4/127.0.0.1/udp/0/quic-v1".to_owned(), "/ip4/127.0.0.1/tcp/0".to_owned()];
    let mut unbound = daemon("127.0.0.1:0", &anywhere).with_variable("TWINMESH_ROOT_PASSWORD", root_password);
    unbound.start()?;
    let ready = wait_ready(&mut unbound, &data).await?;
    let listen = ready.url.trim_start_matches("http://").trim_end_matches("/api");
    let without_peer = |address: &String| address.split("/p2p/").next().unwrap_or(address).to_owned();
    let overlay: Vec<String> = ready.overlay.iter().map(without_peer).collect();
    let daemon = daemon(listen, &overlay).taking_over(unbound)?;
    Ok(Instance { url: ready.url, daemon, data })
}

/// Waits until a coordinator has told where it is.
pub(crate) async fn wait_ready(coordinator: &mut Daemon, data: &Utf8Path) -> anyhow::Result<Ready> {
    let file = data.join("coordinator.json");
    let pid = coordinator.pid();
    coordinator
        .wait_until(|| {
            let ready: Ready = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (Some(ready.pid) == pid).then_some(ready)
        })
        .await
}
