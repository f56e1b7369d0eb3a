//! The shell around [`reconcile`](crate::reconcile): one task that knows every run, and jobs that work for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use twinmesh_client::{
    ApiError,
    events::{After, EventStream, Update},
};
use twinmesh_protocol::{
    id::{JobId, RunId, TaskId},
    status::RunStatus,
    time::Time,
    wire::{Event, EventKind, Run, RunPatch},
};

use super::{
    begin::{self, Begun, DISK_FULL},
    enroll::Presence,
    finish, follow,
    shared::Shared,
    status::{LinkStatus, RunLine, Snapshot},
};
use crate::{
    admission::Refusal,
    gateway::{self, Served},
    journal::{End, Record, Stage},
    reconcile::{Action, Conclusion, Desired, Ledger, Live, Observed, Rules, plan},
    runtime::{Exit, ExitCause, RunHandle},
};

/// How often a run is started at most: once, and once more when something outside ended it (design section 8).
const MAX_ATTEMPTS: u32 = 2;

/// How often the whole truth is fetched although no event was missed that we know of.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// How long a start that failed for a passing reason waits: doubling, up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// How long the end of the node waits for jobs and runs.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// News for the supervisor. Jobs send few and small ones; the bound only stops a runaway.
const QUEUE: usize = 1024;

/// What a job has to tell.
#[derive(Debug)]
enum News {
    /// The complete list of open runs, as asked for at that time.
    Listed {
        runs: Vec<Run>,
        as_of: Time,
    },
    ListFailed {
        error: ApiError,
    },
    /// One run, as asked for at that time.
    Fetched {
        run: Box<Run>,
        as_of: Time,
    },
    Begun {
        run_id: RunId,
        begun: Begun,
    },
    Attached {
        run_id: RunId,
        handle: Option<Arc<dyn RunHandle>>,
        /// Whether its algorithm may have begun.
        began: bool,
    },
    AttachFailed {
        run_id: RunId,
        reason: String,
    },
    Ended {
        run_id: RunId,
        exit: Exit,
    },
    /// The end is recorded, or must be kept in memory.
    Concluded {
        run_id: RunId,
        unrecorded: Option<RunPatch>,
    },
    Delivered {
        run_id: RunId,
        at: Time,
    },
    Forgotten {
        run_id: RunId,
    },
}

/// A run as the supervisor knows it.
#[derive(Debug)]
struct Entry {
    record: Option<Record>,
    live: Live,
    handle: Option<Arc<dyn RunHandle>>,
    exit: Option<Exit>,
    /// A report for which the journal had no room.
    unrecorded: Option<RunPatch>,
    /// Ends the run's gateway and the watch over it.
    stop: CancellationToken,
    failures: u32,
    problem: Option<String>,
}

impl Entry {
    fn new(record: Option<Record>, live: Live) -> Self {
        Self {
            record,
            live,
            handle: None,
            exit: None,
            unrecorded: None,
            stop: CancellationToken::new(),
            failures: 0,
            problem: None,
        }
    }
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    presence: Presence,
    desired: Desired,
    /// The open runs with their tasks.
    bodies: BTreeMap<RunId, Box<Run>>,
    /// Runs of which single events told, and when they were asked for: a list asked for earlier may lack them.
    heard: BTreeMap<RunId, Time>,
    entries: BTreeMap<RunId, Entry>,
    sender: mpsc::Sender<News>,
    receiver: mpsc::Receiver<News>,
    status: watch::Sender<Snapshot>,
    link: LinkStatus,
    listing: bool,
    list_again: bool,
    last_list: tokio::time::Instant,
    twins: follow::Twins,
    jobs: Jobs,
}

/// What goes on beside the supervisor.
#[derive(Default)]
struct Jobs {
    tasks: JoinSet<()>,
    /// Ends the jobs that the next start of the node does again.
    stop: CancellationToken,
}

impl Jobs {
    /// A job that must not be broken off in the middle.
    fn spawn(&mut self, job: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(job);
    }

    /// A job that may be broken off anywhere.
    fn spawn_repeatable(&mut self, job: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            tokio::select! {
                () = job => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends all jobs; those that must not be broken off get some seconds.
    async fn finish(&mut self) {
        self.stop.cancel();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, finished).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// What to do with runs when the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They go on, and the restarted node finds them again.
    LeaveRuns,
    KillRuns,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        records: Vec<Record>,
        presence: Presence,
        status: watch::Sender<Snapshot>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let entries = records.into_iter().map(|record| (record.run_id, Entry::new(Some(record), Live::Idle))).collect();
        let twins = follow::Twins::new(shared.clone());
        Self {
            shared,
            presence,
            desired: Desired::default(),
            bodies: BTreeMap::new(),
            heard: BTreeMap::new(),
            entries,
            sender,
            receiver,
            status,
            link: LinkStatus::default(),
            listing: false,
            list_again: false,
            last_list: tokio::time::Instant::now(),
            twins,
            jobs: Jobs::default(),
        }
    }

    /// Works until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken, on_stop: impl Fn() -> OnStop) {
        let mut events = self.shared.api.events(After::Latest);
        self.list();
        self.step();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(news) = self.receiver.recv() => {
                    self.hear(news);
                    // What has come in the meantime is taken together, and planned for once.
                    while let Ok(news) = self.receiver.try_recv() {
                        self.hear(news);
                    }
                }
                update = next(&mut events) => self.follow(update),
                _ = tick.tick() => {
                    if self.last_list.elapsed() > LIST_INTERVAL && self.link.connected {
                        self.list();
                    }
                }
            }
            self.step();
        }
        drop(events);
        self.stop_runs(on_stop()).await;
    }

    fn step(&mut self) {
        let rules = Rules {
            max_attempts: MAX_ATTEMPTS,
            max_concurrent: self.shared.config.runtime.concurrent_runs,
            accepting: true,
        };
        let actions = plan(&self.desired, &self.observed(), &rules, self.shared.now());
        for action in actions {
            self.perform(action);
        }
        self.publish();
    }

    fn observed(&self) -> BTreeMap<RunId, Observed> {
        self.entries
            .iter()
            .map(|(run_id, entry)| {
                let ledger = match (&entry.record, &entry.unrecorded) {
                    (Some(record), None) => Ledger::Recorded { accepted_at: record.accepted_at, stage: record.stage },
                    (Some(Record { accepted_at, stage: Stage::Delivered { at }, .. }), Some(_)) => {
                        Ledger::Recorded { accepted_at: *accepted_at, stage: Stage::Delivered { at: *at } }
                    }
                    (Some(record), Some(_)) => {
                        Ledger::Recorded { accepted_at: record.accepted_at, stage: Stage::Finished }
                    }
                    (None, Some(_)) => Ledger::Recorded { accepted_at: Time::from_micros(0), stage: Stage::Finished },
                    (None, None) => Ledger::Absent,
                };
                (*run_id, Observed { ledger, live: entry.live })
            })
            .collect()
    }

    /// Starts the job that an action is.
    fn perform(&mut self, action: Action) {
        let run_id = action.run_id();
        let entry = self.entries.entry(run_id).or_insert_with(|| Entry::new(None, Live::Idle));
        tracing::debug!(run.id = %run_id, ?action, "next");
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        match action {
            Action::Start { attempt, .. } => {
                let Some(run) = self.bodies.get(&run_id).cloned() else { return };
                entry.live = Live::Busy;
                self.jobs.spawn(async move {
                    let begun = begin::begin(&shared, &run, attempt).await;
                    send(&sender, News::Begun { run_id, begun }).await;
                });
            }
            Action::Attach { attempt, .. } => {
                entry.live = Live::Busy;
                let record = entry.record.clone();
                self.jobs.spawn_repeatable(async move { attach(shared, sender, run_id, attempt, record).await });
            }
            Action::Kill { .. } => {
                tracing::info!(run.id = %run_id, "the coordinator ended the run; killing it");
                entry.live = Live::Ending;
                if let Some(handle) = entry.handle.clone() {
                    self.jobs.spawn(async move { handle.kill().await });
                }
            }
            Action::Conclude { cause, .. } => {
                entry.live = Live::Busy;
                entry.stop.cancel();
                let (Some(record), Some(exit)) = (entry.record.clone(), entry.exit.clone()) else { return };
                let handle = entry.handle.take();
                self.jobs.spawn(async move { conclude(shared, sender, record, cause, exit, handle).await });
            }
            Action::Deliver { .. } => {
                entry.live = Live::Busy;
                let unrecorded = entry.unrecorded.clone();
                self.jobs.spawn_repeatable(async move {
                    let patch = match unrecorded {
                        Some(patch) => Some(patch),
                        None => shared.journal.run_patch(run_id).await.unwrap_or_else(|error| {
                            tracing::error!(run.id = %run_id, %error, "the report of a run cannot be read");
                            None
                        }),
                    };
                    let patch = patch.unwrap_or_else(|| RunPatch {
                        status: Some(RunStatus::UnknownError),
                        log: Some("the node lost the report of this run".into()),
                        ..RunPatch::default()
                    });
                    finish::deliver(&shared, run_id, patch).await;
                    let at = shared.now();
                    if let Err(error) = shared.journal.run_delivered(run_id, at).await {
                        tracing::warn!(run.id = %run_id, %error, "the delivery is not recorded; it may be repeated");
                    }
                    send(&sender, News::Delivered { run_id, at }).await;
                });
            }
            Action::Forget { .. } => {
                let Some(record) = entry.record.clone() else {
                    self.entries.remove(&run_id);
                    self.bodies.remove(&run_id);
                    return;
                };
                entry.live = Live::Busy;
                let mesh = |record: &Record| record.accepted.as_ref().map(|accepted| accepted.details.mesh.clone());
                let job = mesh(&record);
                let is_last = !self.entries.iter().any(|(other, entry)| {
                    *other != run_id && entry.record.as_ref().and_then(mesh).is_some_and(|other| Some(other) == job)
                });
                self.jobs.spawn(async move {
                    begin::remove_directory(&shared.run_directory(run_id));
                    shared.spool().remove(run_id);
                    if let Some(job) = job
                        && is_last
                    {
                        begin::remove_directory(&shared.job_directory(&job));
                    }
                    if let Err(error) = shared.journal.run_forget(run_id, shared.now()).await {
                        tracing::debug!(run.id = %run_id, %error, "a run is not forgotten yet");
                    }
                    send(&sender, News::Forgotten { run_id }).await;
                });
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Listed { runs, as_of } => {
                self.listing = false;
                self.link.error = None;
                self.take_list(runs, as_of);
                if std::mem::take(&mut self.list_again) {
                    self.list();
                }
            }
            News::ListFailed { error } => {
                self.listing = false;
                tracing::warn!(%error, "cannot fetch the runs of this node");
                self.link.error = Some(error.to_string());
            }
            News::Fetched { run, as_of } => {
                if self.desired.as_of.is_some_and(|list| list > as_of) || run.status.is_finished() {
                    return;
                }
                self.desired.open.insert(run.id);
                self.heard.insert(run.id, as_of);
                self.bodies.insert(run.id, run);
            }
            News::Begun { run_id, begun } => self.begun(run_id, begun),
            News::Attached { run_id, handle, began } => {
                let Some(entry) = self.entries.get_mut(&run_id) else { return };
                match handle {
                    Some(handle) => {
                        tracing::info!(run.id = %run_id, "found a run again");
                        entry.handle = Some(handle);
                        entry.live = Live::Running;
                        self.watch(run_id);
                    }
                    None => {
                        if !began && let Some(Record { stage: Stage::Begun { attempts }, .. }) = &mut entry.record {
                            // Recorded, but the node died before the algorithm began: such an attempt does not count.
                            *attempts = attempts.saturating_sub(1);
                        }
                        let exit = Exit { cause: ExitCause::Vanished, finished_at: self.shared.now() };
                        self.ended(run_id, exit, began);
                    }
                }
            }
            News::AttachFailed { run_id, reason } => self.wait(run_id, reason),
            News::Ended { run_id, exit } => self.ended(run_id, exit, true),
            News::Concluded { run_id, unrecorded } => {
                if let Some(entry) = self.entries.get_mut(&run_id) {
                    entry.live = Live::Idle;
                    entry.handle = None;
                    entry.problem = None;
                    match (&mut entry.record, unrecorded) {
                        (Some(record), None) => record.stage = Stage::Finished,
                        (_, patch) => entry.unrecorded = patch,
                    }
                }
            }
            News::Delivered { run_id, at } => {
                self.desired.open.remove(&run_id);
                self.heard.remove(&run_id);
                self.bodies.remove(&run_id);
                if let Some(entry) = self.entries.get_mut(&run_id) {
                    entry.live = Live::Idle;
                    match &mut entry.record {
                        Some(record) => record.stage = Stage::Delivered { at },
                        None => {
                            self.entries.remove(&run_id);
                        }
                    }
                }
            }
            News::Forgotten { run_id } => {
                self.entries.remove(&run_id);
                self.bodies.remove(&run_id);
            }
        }
    }

    fn begun(&mut self, run_id: RunId, begun: Begun) {
        let Some(entry) = self.entries.get_mut(&run_id) else { return };
        match begun {
            Begun::Started { record, handle } => {
                tracing::info!(run.id = %run_id, task.id = %record.task_id, "the run has started");
                entry.record = Some(*record);
                entry.handle = Some(handle);
                entry.exit = None;
                entry.failures = 0;
                entry.problem = None;
                entry.stop = CancellationToken::new();
                entry.live = Live::Running;
                self.watch(run_id);
                if self.bodies.get(&run_id).is_some_and(|run| run.kill_requested) {
                    // It was asked for during the start; a list from now on tells of a run that is known.
                    self.list();
                }
            }
            Begun::Refused { refusal, task_id, job_id } => self.refuse(run_id, task_id, job_id, &refusal),
            Begun::Later(error) => self.wait(run_id, format!("{error:#}")),
        }
    }

    /// A refusal is an end like any other, delivered until it is acknowledged.
    fn refuse(&mut self, run_id: RunId, task_id: TaskId, job_id: JobId, refusal: &Refusal) {
        tracing::warn!(run.id = %run_id, status = %refusal.status, "the run is refused: {refusal}");
        let now = self.shared.now();
        let patch = RunPatch {
            status: Some(refusal.status),
            started_at: Some(now),
            finished_at: Some(now),
            log: Some(refusal.reason.clone()),
            ..RunPatch::default()
        };
        let end = End { run_id, task_id, job_id, patch };
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        let is_full = refusal.reason == DISK_FULL;
        self.jobs.spawn(async move {
            let unrecorded = if is_full { Some(end.patch) } else { finish::record_end(&shared, end, now).await };
            send(&sender, News::Concluded { run_id, unrecorded }).await;
        });
        if let Some(entry) = self.entries.get_mut(&run_id) {
            entry.problem = Some(refusal.reason.clone());
            // What is recorded looks like any finished run.
            entry.record.get_or_insert(Record {
                run_id,
                task_id,
                job_id,
                parent_id: None,
                accepted: None,
                accepted_at: now,
                started_at: now,
                stage: Stage::Begun { attempts: 0 },
            });
        }
    }

    fn wait(&mut self, run_id: RunId, reason: String) {
        let now = self.shared.now();
        if let Some(entry) = self.entries.get_mut(&run_id) {
            let pause = RETRY.0.saturating_mul(1 << entry.failures.min(8)).min(RETRY.1);
            tracing::warn!(run.id = %run_id, "the run has to wait: {reason}; trying again in {} ms", pause.as_millis());
            entry.failures += 1;
            entry.problem = Some(reason);
            entry.live = Live::Waiting { until: now.plus(pause) };
        }
    }

    fn ended(&mut self, run_id: RunId, exit: Exit, began: bool) {
        let Some(entry) = self.entries.get_mut(&run_id) else { return };
        entry.stop.cancel();
        entry.live = Live::Ended(exit.cause);
        if !began {
            tracing::info!(run.id = %run_id, "this node was ended before the run began");
        } else if exit.cause.is_from_outside() {
            tracing::warn!(run.id = %run_id, "something outside ended the run: it {}", exit.cause);
        } else {
            tracing::info!(run.id = %run_id, "the run {}", exit.cause);
        }
        // Its twins' connections and its place in the mesh end with it; the next attempt takes the same.
        entry.exit = Some(exit);
        if let Some(meshes) = &self.shared.meshes {
            meshes.leave(run_id);
        }
    }

    /// Serves a run's gateway and waits for its end.
    fn watch(&mut self, run_id: RunId) {
        let Some(entry) = self.entries.get(&run_id) else { return };
        let (Some(handle), Some(record)) = (entry.handle.clone(), entry.record.clone()) else { return };
        if let (Some(accepted), Stage::Begun { attempts }) = (record.accepted.clone(), record.stage) {
            let served = Served { run_id, task_id: record.task_id, attempt: attempts, accepted };
            self.jobs.spawn_repeatable(gateway::serve(
                self.shared.services(),
                served,
                handle.clone(),
                entry.stop.clone(),
            ));
        }
        let sender = self.sender.clone();
        self.jobs.spawn_repeatable(async move {
            let exit = handle.wait().await;
            send(&sender, News::Ended { run_id, exit }).await;
        });
    }

    fn take_list(&mut self, runs: Vec<Run>, as_of: Time) {
        if self.desired.as_of.is_some_and(|last| last > as_of) {
            return;
        }
        self.heard.retain(|_, heard| *heard > as_of);
        let mut open: BTreeSet<RunId> = self.heard.keys().copied().collect();
        let mut bodies: BTreeMap<RunId, Box<Run>> =
            runs.into_iter().filter(|run| !run.status.is_finished()).map(|run| (run.id, Box::new(run))).collect();
        // What is to be killed is not wanted any more. But what is not recorded yet stays on the list: its start refuses it.
        let goes_on = |run_id: &RunId| {
            let record = self.entries.get(run_id).and_then(|entry| entry.record.as_ref());
            record.is_some_and(|record| record.accepted_at < as_of && matches!(record.stage, Stage::Begun { .. }))
        };
        bodies.retain(|run_id, run| !(run.kill_requested && goes_on(run_id)));
        open.extend(bodies.keys());
        for run_id in &open {
            if let Some(body) = self.bodies.remove(run_id) {
                bodies.entry(*run_id).or_insert(body);
            }
        }
        self.bodies = bodies;
        self.desired = Desired { open, as_of: Some(as_of) };
    }

    /// Fetches the whole truth.
    fn list(&mut self) {
        if self.listing {
            self.list_again = true;
            return;
        }
        self.listing = true;
        self.last_list = tokio::time::Instant::now();
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        self.jobs.spawn_repeatable(async move {
            let as_of = shared.now();
            let news = match shared.api.run_list_open(shared.node_id).await {
                Ok(runs) => News::Listed { runs, as_of },
                Err(error) => News::ListFailed { error },
            };
            send(&sender, news).await;
        });
    }

    fn follow(&mut self, update: Update) {
        match update {
            Update::Connected { sequence } => {
                tracing::info!(event.sequence = %sequence, "connected to the coordinator");
                self.link = LinkStatus {
                    connected: true,
                    since: Some(self.shared.now()),
                    error: None,
                    sequence: Some(sequence),
                };
                self.presence.renew();
                if let Some(meshes) = &self.shared.meshes {
                    meshes.forget_peers();
                }
                self.list();
            }
            Update::Event(event) => self.follow_event(&event),
            Update::Disconnected { error } => {
                if self.link.connected || self.link.error.is_none() {
                    tracing::warn!(%error, "the coordinator cannot be reached; runs go on");
                }
                self.link.connected = false;
                self.link.since = Some(self.shared.now());
                self.link.error = Some(error.to_string());
            }
        }
    }

    fn follow_event(&mut self, event: &Event) {
        self.link.sequence = Some(event.sequence);
        let ours = event.node_id.is_none_or(|node| node == self.shared.node_id)
            && event.organization_id.is_none_or(|id| id == self.shared.home.organization_id);
        match event.kind {
            EventKind::RunAssigned if ours => match event.run_id {
                Some(run_id) => self.fetch(run_id),
                None => self.list(),
            },
            EventKind::KillRequested => self.list(),
            EventKind::RunStatus => {
                // Somebody else finished a run that goes on here.
                if let (Some(run_id), Some(status)) = (event.run_id, event.status)
                    && status.is_finished()
                {
                    self.twins.finished(run_id);
                    let goes_on = self.entries.get(&run_id).is_some_and(|entry| {
                        matches!(entry.live, Live::Running | Live::Waiting { .. } | Live::Busy)
                            && entry.record.as_ref().is_none_or(|record| matches!(record.stage, Stage::Begun { .. }))
                    });
                    if goes_on || (self.desired.open.contains(&run_id) && !self.entries.contains_key(&run_id)) {
                        self.list();
                    }
                }
            }
            EventKind::PortRegistered => {
                if let (Some(run_id), Some(job_id)) = (event.run_id, event.job_id) {
                    self.twins.registered(run_id, job_id);
                }
            }
            EventKind::NodeOnline => {
                if let Some(meshes) = &self.shared.meshes {
                    meshes.forget_peers();
                }
            }
            EventKind::KeyChanged => {
                tracing::info!(organization.id = ?event.organization_id, "an organization changed its public key; this node keeps the pinned one");
            }
            EventKind::RunAssigned | EventKind::TaskCreated | EventKind::NodeOffline => {}
        }
    }

    fn fetch(&mut self, run_id: RunId) {
        if self.entries.contains_key(&run_id) || self.bodies.contains_key(&run_id) {
            return;
        }
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        self.jobs.spawn_repeatable(async move {
            let as_of = shared.now();
            match begin::fetch(&shared, run_id).await {
                Ok(Some(run)) => send(&sender, News::Fetched { run: Box::new(run), as_of }).await,
                Ok(None) => tracing::debug!(run.id = %run_id, "a run of which an event told is gone"),
                Err(error) => tracing::warn!(run.id = %run_id, %error, "cannot fetch a run; the next list has it"),
            }
        });
    }

    fn publish(&self) {
        let runs: Vec<RunLine> = self
            .entries
            .iter()
            .filter_map(|(run_id, entry)| {
                let state = match (&entry.record, entry.live) {
                    (Some(Record { stage: Stage::Delivered { .. }, .. }), _) => return None,
                    (Some(Record { stage: Stage::Finished, .. }), _) => "waits for delivery",
                    (_, Live::Waiting { .. }) => "waits for another attempt",
                    (None, _) => "is being started",
                    (Some(_), Live::Running) => "runs",
                    (Some(_), Live::Ending) => "is being killed",
                    (Some(_), Live::Idle | Live::Busy | Live::Ended(_)) => "changes",
                };
                Some(RunLine {
                    run_id: *run_id,
                    task_id: entry.record.as_ref().map(|record| record.task_id),
                    state: state.into(),
                    problem: entry.problem.clone(),
                })
            })
            .collect();
        let snapshot = Snapshot { link: self.link.clone(), runs };
        self.status.send_if_modified(|current| {
            let changed = *current != snapshot;
            if changed {
                *current = snapshot;
            }
            changed
        });
    }

    async fn stop_runs(mut self, on_stop: OnStop) {
        for entry in self.entries.values() {
            entry.stop.cancel();
        }
        if on_stop == OnStop::LeaveRuns {
            return self.jobs.finish().await;
        }
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        // A start that is under way ends in a run that has to be killed, too.
        while self.entries.values().any(|entry| entry.live == Live::Busy && entry.handle.is_none()) {
            match tokio::time::timeout_at(deadline, self.receiver.recv()).await {
                Ok(Some(News::Begun { run_id, begun: Begun::Started { handle, .. } })) => {
                    if let Some(entry) = self.entries.get_mut(&run_id) {
                        entry.handle = Some(handle);
                        entry.live = Live::Running;
                    }
                }
                Ok(Some(
                    News::Begun { run_id, .. }
                    | News::Concluded { run_id, .. }
                    | News::Delivered { run_id, .. }
                    | News::Forgotten { run_id }
                    | News::AttachFailed { run_id, .. },
                )) => {
                    self.entries.remove(&run_id);
                }
                Ok(Some(News::Attached { run_id, handle, .. })) => {
                    if let Some(entry) = self.entries.get_mut(&run_id) {
                        entry.handle = handle;
                        entry.live = Live::Running;
                    }
                }
                Ok(Some(News::Listed { .. } | News::ListFailed { .. } | News::Fetched { .. } | News::Ended { .. })) => {
                }
                Ok(None) | Err(_) => break,
            }
        }
        for entry in self.entries.values() {
            if let Some(handle) = &entry.handle
                && tokio::time::timeout_at(deadline, async {
                    handle.kill().await;
                    handle.wait().await;
                })
                .await
                .is_err()
            {
                tracing::warn!("a run did not end in time");
            }
        }
        self.jobs.finish().await;
    }
}

/// The next update; the stream goes on for ever.
async fn next(events: &mut EventStream) -> Update {
    match events.next().await {
        Some(update) => update,
        None => std::future::pending().await,
    }
}

async fn send(sender: &mpsc::Sender<News>, news: News) {
    // The supervisor is gone when the node stops; a restarted node finds out by itself.
    let _ = sender.send(news).await;
}

async fn attach(shared: Arc<Shared>, sender: mpsc::Sender<News>, run_id: RunId, attempt: u32, record: Option<Record>) {
    let directory = shared.attempt_directory(run_id, attempt);
    let handle = match shared.runtime.attach(&directory).await {
        Ok(handle) => handle,
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::new(error));
            return send(&sender, News::AttachFailed { run_id, reason }).await;
        }
    };
    let began = handle.is_some() || shared.runtime.has_begun(&directory);
    if !began {
        // The next start of this attempt takes the same place.
        begin::remove_directory(&directory);
    }
    if let (Some(handle), Some(record)) = (&handle, &record)
        && let Err(error) = rejoin(&shared, record, handle.clone()).await
    {
        tracing::warn!(run.id = %run_id, error = format!("{error:#}"), "the run's twins cannot be reached");
    }
    send(&sender, News::Attached { run_id, handle, began }).await;
}

/// Puts a run that was found again back into its mesh, with the twins' addresses it had.
async fn rejoin(shared: &Shared, record: &Record, handle: Arc<dyn RunHandle>) -> anyhow::Result<()> {
    let Some(membership) = begin::open_mesh(shared, record).await? else { return Ok(()) };
    let Some(meshes) = &shared.meshes else { return Ok(()) };
    meshes.join(membership, handle);
    let addresses = shared.journal.listener_list(record.run_id).await?;
    match meshes.listen(record.run_id, &addresses).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
        other => Ok(other?),
    }
}

async fn conclude(
    shared: Arc<Shared>,
    sender: mpsc::Sender<News>,
    record: Record,
    cause: Conclusion,
    exit: Exit,
    handle: Option<Arc<dyn RunHandle>>,
) {
    let run_id = record.run_id;
    let patch = finish::report(&shared, &record, cause, &exit, handle.as_ref()).await;
    let end = End { run_id, task_id: record.task_id, job_id: record.job_id, patch };
    let unrecorded = finish::record_end(&shared, end, shared.now()).await;
    drop(handle);
    send(&sender, News::Concluded { run_id, unrecorded }).await;
    begin::remove_directory(&shared.run_directory(run_id));
}
