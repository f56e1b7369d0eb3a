//! From a run that waits to a run that runs: judge, record, start.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use twinmesh_client::ApiError;
use twinmesh_overlay::mesh::MeshId;
use twinmesh_protocol::{
    digest::Digest,
    id::{JobId, OrganizationId, RunId, TaskId},
    status::RunStatus,
    wire::{ContainerTokenRequest, NewPort, One, Run, RunPatch},
};

use super::shared::Shared;
use crate::{
    admission::{AdmissionError, Admitted, Judge, Refusal, task_of},
    data,
    journal::{Acceptance, JournalError, Record},
    mesh::Membership,
    runtime::{Entry, Layout, RunHandle, RunSpec, Secret},
    trust::Sources as _,
};

/// How long a coordinator that is away is waited for in the middle of a start.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often a start is tried (contract D.1).
const START_ATTEMPTS: u32 = 2;

/// What became of a start.
#[derive(Debug)]
pub(super) enum Begun {
    Started {
        record: Box<Record>,
        handle: Arc<dyn RunHandle>,
    },
    Refused {
        refusal: Refusal,
        /// Kept, because the coordinator may have withdrawn the run in the meantime.
        task_id: TaskId,
        job_id: JobId,
    },
    /// Nothing was done; the same may work later.
    Later(anyhow::Error),
}

/// Judges a run and starts it.
pub(super) async fn begin(shared: &Arc<Shared>, run: &Run, attempt: u32) -> Begun {
    match try_begin(shared, run, attempt).await {
        Ok(begun) => begun,
        Err(Stop::Refused(refusal)) => {
            let (task_id, job_id) = match &run.task {
                Some(One::Item(task)) => (task.id, task.job_id),
                Some(One::Link(link)) => (TaskId::new(link.id), JobId::new(0)),
                None => (TaskId::new(0), JobId::new(0)),
            };
            Begun::Refused { refusal, task_id, job_id }
        }
        Err(Stop::Later(error)) => Begun::Later(error),
    }
}

enum Stop {
    Refused(Refusal),
    Later(anyhow::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn refused(status: RunStatus, reason: impl Into<String>) -> Stop {
    Stop::Refused(Refusal { status, reason: reason.into() })
}

async fn try_begin(shared: &Arc<Shared>, run: &Run, attempt: u32) -> Result<Begun, Stop> {
    if run.kill_requested {
        return Err(refused(RunStatus::Killed, "the run was killed before it began"));
    }
    let task = task_of(run)?;
    let judge = Judge { home: &shared.home, policy: &shared.policy, sources: shared.keyring.as_ref() };
    let request = ContainerTokenRequest { task_id: task.id, image: task.image.clone() };
    // Asked for while the task is judged: it gives nothing away, and dies with the run.
    let (judged, token) = tokio::join!(judge.admit(run, shared.now()), shared.api.container_token_create(&request));
    let mut admitted = judged.map_err(|error| match error {
        AdmissionError::Refused(refusal) => Stop::Refused(refusal),
        AdmissionError::Later(error) => Stop::Later(error.into()),
    })?;
    let token = token.map_err(|error| match error {
        ApiError::Refused(refusal) if (400..500).contains(&refusal.status) && refusal.status != 429 => {
            refused(RunStatus::Failed, format!("the coordinator gives the run no token: {}", refusal.msg))
        }
        error => Stop::Later(error.into()),
    })?;
    let token = Secret::new(token.container_token);
    if shared.meshes.is_none() {
        admitted.algorithm.ports.clear();
    }
    if admitted.details.members.is_empty() && !admitted.algorithm.ports.is_empty() {
        // Nobody signed who takes part, so everybody in the collaboration may whom this node knows.
        let organizations = shared
            .api
            .organization_list(Some(shared.home.collaboration_id))
            .await
            .map_err(|error| Stop::Later(error.into()))?;
        for organization in organizations {
            match shared.keyring.key(organization.id).await {
                Ok(_) => admitted.details.members.push(organization.id),
                Err(error) if error.is_transient() => return Err(Stop::Later(error.into())),
                Err(error) => {
                    tracing::warn!(organization.id = %organization.id, %error, "not a twin of runs here");
                }
            }
        }
    }
    let acceptance = Acceptance {
        run_id: run.id,
        task_id: task.id,
        job_id: task.job_id,
        parent_id: task.parent.as_ref().map(|link| TaskId::new(link.id)),
        details: admitted.details.clone(),
        manifest: admitted.manifest,
        ports: admitted.algorithm.ports.clone(),
        token_digest: Digest::of(token.expose().as_bytes()),
    };
    let record = shared.journal.run_begin(&acceptance, attempt, shared.now()).await.map_err(|error| match error {
        JournalError::Replayed { run_id } => refused(
            RunStatus::NotAllowed,
            format!("the task is a replay: its manifest was accepted before, as run {run_id}"),
        ),
        JournalError::Full => refused(RunStatus::Failed, DISK_FULL),
        JournalError::NoPort { .. } => refused(RunStatus::Failed, error.to_string()),
        error => Stop::Later(error.into()),
    })?;
    // From here on the attempt counts: every failure is the run's end.
    match start(shared, &record, &admitted, token, attempt).await {
        Ok(handle) => Ok(Begun::Started { record: Box::new(record), handle }),
        Err(error) => {
            if let Some(meshes) = &shared.meshes {
                meshes.leave(run.id);
            }
            Err(refused(RunStatus::StartFailed, format!("the run cannot be started: {error:#}")))
        }
    }
}

/// What a run's log says when the node has no room to record it.
pub(super) const DISK_FULL: &str = "the node's disk is full: the run was not started, or its result could not be kept. \
     The node's administrator has to free some space; then try again";

async fn start(
    shared: &Arc<Shared>,
    record: &Record,
    admitted: &Admitted,
    token: Secret,
    attempt: u32,
) -> anyhow::Result<Arc<dyn RunHandle>> {
    let accepted = record.accepted.as_ref().context("the journal lost the run")?;
    let membership = open_mesh(shared, record).await?;
    register_ports(shared, record).await?;

    let algorithm = &admitted.algorithm;
    let entry = match &algorithm.root {
        None => Entry::Builtin,
        Some(root) => Entry::Command {
            root: root.clone(),
            argv: algorithm.command.clone(),
            working_directory: algorithm.working_directory.clone().unwrap_or_else(|| "/".into()),
        },
    };
    let mut spec = RunSpec {
        run_id: record.run_id,
        directory: shared.attempt_directory(record.run_id, attempt),
        entry,
        environment: std::collections::BTreeMap::new(),
        files: data::files(&shared.config, &admitted.databases),
        input: admitted.input.clone(),
        token,
        temporary: Some(shared.job_directory(&accepted.details.mesh)),
        limits: shared.config.runtime.limits.to_limits(),
        network: true,
        orphan_grace: shared.config.runtime.orphan_grace.0,
    };
    let layout: Layout = shared.runtime.layout(&spec);
    spec.environment = data::environment(&shared.config, algorithm, &admitted.databases, &layout, accepted.seed)
        .map_err(anyhow::Error::msg)?;
    let mut tries = 0;
    let handle = loop {
        tries += 1;
        match shared.runtime.start(spec.clone()).await {
            Ok(handle) => break handle,
            Err(error) if tries < START_ATTEMPTS => {
                tracing::warn!(run.id = %record.run_id, error = format!("{:#}", anyhow::Error::new(error)), "cannot start the run; trying once more");
                remove_directory(&spec.directory);
            }
            Err(error) => return Err(error.into()),
        }
    };
    if let (Some(meshes), Some(membership)) = (&shared.meshes, membership) {
        meshes.join(membership, handle.clone());
    }
    report_active(shared, record);
    Ok(handle)
}

/// What a run has to do with its job's mesh; `None` for runs without ports or nodes without overlay.
pub(super) async fn open_mesh(shared: &Shared, record: &Record) -> anyhow::Result<Option<Membership>> {
    let (Some(meshes), Some(accepted)) = (&shared.meshes, &record.accepted) else { return Ok(None) };
    if accepted.details.members.is_empty() {
        return Ok(None);
    }
    let mesh: MeshId = accepted.details.mesh.parse()?;
    let mut members = accepted.details.members.clone();
    if !members.contains(&shared.home.organization_id) {
        members.push(shared.home.organization_id);
    }
    let keys = shared.keyring.keys(&members).await?;
    let members: std::collections::BTreeSet<OrganizationId> = keys.keys().copied().collect();
    meshes.expect(&members).await;
    meshes.open(record.run_id, &mesh, keys);
    Ok(Some(Membership { run_id: record.run_id, job_id: record.job_id, mesh, members, ports: accepted.ports.clone() }))
}

/// Registers a run's ports, so that its twins find them from the moment it runs.
async fn register_ports(shared: &Shared, record: &Record) -> anyhow::Result<()> {
    let ports = record.accepted.as_ref().map(|accepted| accepted.ports.as_slice()).unwrap_or_default();
    let registrations = ports.iter().map(|port| async move {
        let new = NewPort { run_id: record.run_id, port: port.external, label: port.label.clone() };
        let result = twinmesh_client::api::retry(PATIENCE, || shared.api.port_create(&new)).await;
        match result {
            // The attempt before registered it.
            Err(error) if matches!(error.status(), Some(409)) => Ok(()),
            other => other.map(drop).with_context(|| format!("cannot register port {}", port.external)),
        }
    });
    futures::future::try_join_all(registrations).await.map(drop)
}

/// Tells the coordinator that the run runs. Not waited for: the report at its end says so, too.
fn report_active(shared: &Arc<Shared>, record: &Record) {
    let patch =
        RunPatch { status: Some(RunStatus::Active), started_at: Some(record.started_at), ..RunPatch::default() };
    let (shared, run_id) = (shared.clone(), record.run_id);
    tokio::spawn(async move {
        let result = twinmesh_client::api::retry(PATIENCE, || shared.api.run_patch(run_id, &patch)).await;
        if let Err(error) = result {
            tracing::debug!(run.id = %run_id, %error, "the coordinator was not told that the run runs");
        }
    });
}

/// Removes a run's directory; what is left over takes space and nothing else.
pub(super) fn remove_directory(directory: &camino::Utf8Path) {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%directory, %error, "cannot remove a directory"),
    }
}

/// Asks for one run, with its task.
pub(super) async fn fetch(shared: &Shared, run_id: RunId) -> Result<Option<Run>, ApiError> {
    match twinmesh_client::api::retry(PATIENCE, || shared.api.run_get(run_id)).await {
        Ok(run) => Ok(Some(run)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
