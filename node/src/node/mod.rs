//! The daemon: [`Node::start`] takes a node's place in its collaboration and works until told to stop.

mod begin;
mod enroll;
mod finish;
mod follow;
mod shared;
mod spool;
mod status;
mod supervisor;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::Utf8PathBuf;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use twinmesh_client::{
    Api, ApiError,
    key::{KeyFileError, create_organization_key},
    pins::PinError,
};
use twinmesh_overlay::{
    Clock,
    carrier::{Carrier as _, Splice},
};
use twinmesh_protocol::{
    id::{CollaborationId, NodeId, OrganizationId},
    key::{OrganizationKey, PrivateKey},
    signed::SignedError,
    time::Time,
};

use self::{
    enroll::Presence,
    shared::{DebugClock, Shared},
    status::{CoordinatorStatus, KeyStatus, Snapshot},
    supervisor::Supervisor,
};
use crate::{
    config::{Config, ConfigError},
    data::{self, DataError},
    journal::{Journal, JournalError, make_private_directory},
    policy::Policy,
    runtime::Runtime,
    sealing::Home,
    trust::{Keyring, KeyringError},
};

pub use status::{LinkStatus, NodeStatus, RunLine, RuntimeStatus, STATUS_FILE, read as read_status};
pub use supervisor::OnStop;

/// How often the status file is written although nothing changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(
        "the coordinator at {url} does not know the API key of this node: is it the one shown at its registration?"
    )]
    LogIn { url: String, source: ApiError },
    #[error("the coordinator shows another public key for this organization, and takes no other from this node")]
    KeyRefused(#[source] ApiError),
    #[error("the coordinator does not say to which {what} node {node_id} belongs")]
    Incomplete { node_id: NodeId, what: &'static str },
    #[error(
        "the collaboration `{collaboration}` is {theirs} according to the coordinator, but this node's configuration says `encryption.enabled = {ours}`: make them agree"
    )]
    Encryption { collaboration: String, theirs: &'static str, ours: bool },
    #[error(transparent)]
    Pin(PinError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Overlay(#[from] twinmesh_overlay::StartError),
    #[error("the node's certificate cannot be signed")]
    Certificate(#[source] SignedError),
    #[error("cannot write to the state directory `{path}`")]
    State { path: Utf8PathBuf, source: io::Error },
}

/// What a node is given from outside.
#[derive(Clone)]
pub struct Parts {
    /// Where runs are.
    pub runtime: Arc<dyn Runtime>,
    /// Tells the time.
    pub clock: Clock,
}

impl Parts {
    /// A runtime, and the system's clock.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, clock: system_clock() }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// The system's clock.
pub fn system_clock() -> Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the edge at which the clock is read")]
    Arc::new(|| Time::from(chrono::Utc::now()))
}

/// One organization's daemon.
#[derive(Debug)]
pub struct Node;

/// A node at work. Dropping it leaves it at work; [`Running::shutdown`] ends it.
#[derive(Debug)]
pub struct Running {
    pub node_id: NodeId,
    pub organization_id: OrganizationId,
    pub collaboration_id: CollaborationId,
    state_directory: Utf8PathBuf,
    stop: CancellationToken,
    kill_runs: Arc<AtomicBool>,
    supervisor: JoinHandle<()>,
    reporter: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Node {
    /// Starts a node: returns when it has taken its place and begun to work.
    ///
    /// Waits for a coordinator that is away.
    ///
    /// # Errors
    ///
    /// What a person has to mend first.
    pub async fn start(config: Config, parts: Parts) -> Result<Running, StartError> {
        config.check()?;
        let api_key = config.read_api_key()?;
        data::check(&config.databases)?;
        let clock = parts.clock;
        let directory = config.state_directory.clone();
        let journal = Journal::open(&directory, config.runtime.limits.journal.map(|size| size.0)).await?;
        let in_state = |source| StartError::State { path: directory.clone(), source };
        make_private_directory(&directory.join("runs")).map_err(in_state)?;
        make_private_directory(&directory.join("jobs")).map_err(in_state)?;
        let node_key = node_key(&config)?;
        let api = Api::new(&config.coordinator_url.to_string(), config.api_options()?)?;

        let identity = enroll::identify(&api, &api_key).await?;
        let keyring = Arc::new(Keyring::open(api.clone(), clock.clone(), &config, &directory)?);
        let key = enroll::settle_keys(&config, &identity, &api, &keyring, clock()).await?;
        enroll::enrol(&identity, &api, &keyring).await?;
        enroll::publish_details(&config, &identity, &api).await;
        let stop = CancellationToken::new();
        let policy = Policy::new(&config, identity.encrypted);
        if let Some(PrivateKey::Rsa(_)) = &key {
            warn_of_rsa(&policy, identity.encrypted);
        }
        let (meshes, presence) = match key.as_ref().and_then(PrivateKey::ed25519) {
            Some(key) => {
                let keys = enroll::Keys { organization: key, node: &node_key };
                let (meshes, presence) =
                    enroll::join_overlay(&config, &identity, keys, &api, &keyring, &clock, stop.clone()).await?;
                (Some(meshes), presence)
            }
            None => {
                tracing::info!("without an Ed25519 key there is no overlay: runs have no twins here");
                (None, Presence::none())
            }
        };
        let home = Arc::new(Home {
            organization_id: identity.organization_id,
            collaboration_id: identity.collaboration_id,
            encrypted: identity.encrypted,
            key,
        });
        let records = journal.run_list().await?;
        let shared = Arc::new(Shared {
            node_id: identity.node_id,
            home,
            policy,
            api,
            keyring,
            journal,
            runtime: parts.runtime,
            meshes,
            clock: DebugClock(clock),
            config,
        });
        let (status, snapshots) = watch::channel(Snapshot::default());
        let supervisor = Supervisor::new(shared.clone(), records, presence.clone(), status);
        let kill_runs = Arc::new(AtomicBool::new(false));
        let on_stop = {
            let kill_runs = kill_runs.clone();
            move || if kill_runs.load(Ordering::Relaxed) { OnStop::KillRuns } else { OnStop::LeaveRuns }
        };
        let supervisor = tokio::spawn(supervisor.run(stop.clone(), on_stop));
        let reporter = tokio::spawn(report(shared.clone(), snapshots, presence));
        tracing::info!(
            node.id = %identity.node_id, organization.id = %identity.organization_id,
            collaboration.id = %identity.collaboration_id, runtime = %shared.runtime.strength(), "the node works"
        );
        Ok(Running {
            node_id: identity.node_id,
            organization_id: identity.organization_id,
            collaboration_id: identity.collaboration_id,
            state_directory: directory,
            stop,
            kill_runs,
            supervisor,
            reporter,
            shared,
        })
    }
}

impl Running {
    /// What the node says about itself.
    ///
    /// # Errors
    ///
    /// When the status file cannot be read; it is written within seconds of the start.
    pub fn status(&self) -> io::Result<NodeStatus> {
        status::read(&self.state_directory)
    }

    /// Stops working and returns when all is put down. Runs go on, and are found again by the next start, or are killed.
    pub async fn shutdown(self, on_stop: OnStop) {
        self.kill_runs.store(on_stop == OnStop::KillRuns, Ordering::Relaxed);
        self.stop.cancel();
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the supervisor failed");
        }
        self.reporter.abort();
        // Aborted or ended, it is over.
        let _ = self.reporter.await;
        if let Some(meshes) = &self.shared.meshes {
            meshes.job_meshes().overlay().shutdown().await;
        }
        self.shared.journal.close().await;
        // Its absence says that the node does not run.
        let _ = std::fs::remove_file(self.state_directory.join(STATUS_FILE));
    }

    /// Waits until the node has ended by itself, which it does only by a fault.
    pub async fn failed(&mut self) {
        // A panic in the supervisor is logged by the runtime's hook.
        let _ = (&mut self.supervisor).await;
    }
}

/// Says what an organization with an RSA key does without.
fn warn_of_rsa(policy: &Policy, encrypted: bool) {
    tracing::warn!("the organization's key is RSA, which proves nothing: who asks what is the coordinator's word");
    if encrypted && policy.require_signed_tasks {
        tracing::warn!(
            "tasks of organizations with RSA keys, which nobody signs, are refused here unless `policies.require_signed_tasks = false`"
        );
    }
}

/// The node's own key: its identity in the overlay.
fn node_key(config: &Config) -> Result<OrganizationKey, StartError> {
    let path = config.state_directory.join("node.key");
    let (key, _) = create_organization_key(path.as_std_path(), false)?;
    Ok(key)
}

/// Keeps the status file up to date.
async fn report(shared: Arc<Shared>, mut snapshots: watch::Receiver<Snapshot>, presence: Presence) {
    let mut failed = false;
    let mut registrations = presence.watch();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let overlay = match &shared.meshes {
            Some(meshes) => meshes.job_meshes().overlay().status().await,
            None => None,
        };
        let registration = presence.state();
        let status = NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ready: snapshot.link.connected && (shared.meshes.is_none() || registration.registered),
            updated_at: shared.now(),
            coordinator: CoordinatorStatus { url: shared.api.base().into(), link: snapshot.link },
            node_id: shared.node_id,
            organization_id: shared.home.organization_id,
            collaboration_id: shared.home.collaboration_id,
            encrypted: shared.home.encrypted,
            keys: KeyStatus {
                organization: shared.home.key.as_ref().map(|key| key.public().fingerprint()),
                registered: registration.registered,
                registration_error: registration.error,
            },
            runtime: shared.runtime.strength().into(),
            traffic: overlay.as_ref().map(|overlay| overlay.traffic).unwrap_or_default(),
            carrier: overlay.as_ref().map(|_| Splice.name().to_owned()),
            overlay,
            databases: shared.config.databases.iter().map(|database| database.label.clone()).collect(),
            algorithms: shared.config.algorithms().into_iter().map(|algorithm| algorithm.image).collect(),
            runs: snapshot.runs,
        };
        match status::write(&shared.config.state_directory, &status) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(%error, "the status file cannot be written");
            }
            Err(_) => {}
        }
        // Changes come in bursts; one write tells of all of them.
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Ok(()) = registrations.changed() => {}
            () = tokio::time::sleep(STATUS_INTERVAL) => {}
        }
    }
}
