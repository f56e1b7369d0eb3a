//! A federation within this process, for tests: the same coordinator and nodes, but algorithms run as threads, so that
//! nothing of the machine is needed. Real keys, sealing, ledger and overlay.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use twinmesh_algorithms::sdk::{Host, HostParts};
use twinmesh_algorithms::{describe, run_in_thread};
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_client::researcher::Client;
use twinmesh_coordinator::Coordinator;
use twinmesh_coordinator::config::{Config as CoordinatorConfig, OverlayConfig, RootConfig, Secret};
use twinmesh_node::config::Config as NodeConfig;
use twinmesh_node::node::{Node, OnStop, Parts, Running};
pub use twinmesh_node::runtime::thread::ThreadRun;
use twinmesh_node::runtime::thread::ThreadRuntime;
use twinmesh_protocol::id::CollaborationId;

use crate::enrolment::{Enrolment, Member, Plan, enrol, password};

/// A federation that runs within this process.
#[derive(Debug)]
pub struct InProcess {
    /// The one collaboration.
    pub collaboration: CollaborationId,
    /// The hospitals.
    pub members: Vec<Member>,
    /// A researcher of the first hospital, logged in, with the hospitals' keys pinned.
    pub researcher: Client,
    /// The administrator, logged in.
    pub root: Api,
    nodes: Vec<Running>,
    coordinator: twinmesh_coordinator::Running,
}

impl InProcess {
    /// Starts coordinator and nodes, and returns when all nodes work.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn start(plan: &Plan) -> anyhow::Result<Self> {
        Self::start_with(plan, algorithm).await
    }

    /// As [`InProcess::start`], with something else in place of the built-in algorithms.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn start_with(
        plan: &Plan,
        algorithm: impl Fn(ThreadRun) -> Result<Vec<u8>, String> + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let root_password = password();
        let data = plan.directory.join("coordinator");
        std::fs::create_dir_all(&data).with_context(|| format!("cannot create `{data}`"))?;
        let coordinator = Coordinator::start(CoordinatorConfig {
            data_dir: PathBuf::from(&data),
            listen: ([127, 0, 0, 1], 0).into(),
            overlay: OverlayConfig {
                listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".into(), "/ip4/127.0.0.1/tcp/0".into()],
            },
            root: RootConfig { password: Some(Secret::new(root_password.clone())), ..RootConfig::default() },
            ..CoordinatorConfig::default()
        })
        .await
        .context("cannot start the coordinator")?;
        let url = coordinator.url().to_owned();
        let root = Api::new(&url, ApiOptions::default())?;
        root.log_in_user("root", &root_password, None).await.context("cannot log in as root")?;
        let Enrolment { collaboration, members, researcher, password: _ } = enrol(plan, &url, &root).await?;
        let mut nodes = Vec::new();
        for member in &members {
            let config = NodeConfig::load(&member.configuration)
                .with_context(|| format!("cannot read `{}`", member.configuration))?;
            let runtime = Arc::new(ThreadRuntime::new(algorithm.clone()));
            let node = Node::start(config, Parts::new(runtime))
                .await
                .with_context(|| format!("cannot start the node of `{}`", member.name))?;
            nodes.push(node);
        }
        Ok(Self { collaboration, members, researcher, root, nodes, coordinator })
    }

    /// Stops everything; runs that are at work are ended.
    pub async fn stop(self) {
        for node in self.nodes {
            node.shutdown(OnStop::KillRuns).await;
        }
        self.coordinator.shutdown().await;
    }
}

fn algorithm(run: ThreadRun) -> Result<Vec<u8>, String> {
    let parts = HostParts { environment: run.environment, control: Some(run.control) };
    let host = Host::new(parts).map_err(|error| describe(&error))?;
    run_in_thread(host).map_err(|error| describe(&error))
}
