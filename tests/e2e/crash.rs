//! Any one process killed (SIGKILL) at many points of a task: the coordinator, one of several, a node, or a run's own
//! process.
//!
//! Points are counted in the coordinator's event log from the task's record on, so they are places in the flow, not
//! moments in time. After each, the task must end with the right result and no run may have been carried out twice.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use serde_json::{Value, json};
use sqlx::Row as _;
use twinmesh_client::api::TaskFilter;
use twinmesh_client::events::{After, Update};
use twinmesh_client::pins::PinStore;
use twinmesh_client::researcher::Client;
use twinmesh_netsim::data::gbsg2_reference;
use twinmesh_netsim::enrolment::Plan;
use twinmesh_protocol::id::JobId;
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::EventKind;

use crate::lab::{Lab, PATIENCE, Whose, parent, processes, until};

/// Whose end it is. Hospitals are counted from 0; the central function runs at hospital 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Coordinator,
    /// Of several coordinators the one that somebody is connected to. It is away until the story ends.
    InstanceOf(Whose),
    Node(usize),
    /// The algorithm's own process at a hospital.
    Run(usize),
}

/// When: at the n-th event of this kind (and status) of the job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    kind: EventKind,
    status: Option<RunStatus>,
    nth: usize,
}

pub(crate) const fn event(kind: EventKind, nth: usize) -> When {
    When { kind, status: None, nth }
}

pub(crate) const fn became(status: RunStatus, nth: usize) -> When {
    When { kind: EventKind::RunStatus, status: Some(status), nth }
}

#[tokio::test]
async fn a_central_function_and_its_subtasks_survive_any_death() {
    use EventKind::{RunAssigned, TaskCreated};
    use RunStatus::{Active, Completed};
    use Victim::{Coordinator, Node, Run};
    let points = [
        (Coordinator, event(TaskCreated, 1)),
        (Coordinator, became(Active, 1)),
        (Coordinator, event(TaskCreated, 2)),
        (Coordinator, became(Completed, 1)),
        (Coordinator, became(Completed, 5)),
        (Coordinator, event(RunAssigned, 9)),
        (Node(0), event(RunAssigned, 1)),
        (Node(0), became(Active, 1)),
        (Node(0), event(TaskCreated, 2)),
        (Node(0), became(Completed, 3)),
        (Node(1), event(TaskCreated, 1)),
        (Node(1), event(RunAssigned, 3)),
        (Node(1), became(Active, 3)),
        (Node(1), became(Completed, 4)),
        (Node(2), event(TaskCreated, 3)),
        (Node(2), became(Completed, 7)),
        (Run(0), became(Active, 1)),
        (Run(0), event(TaskCreated, 2)),
        (Run(0), became(Completed, 3)),
    ];
    let mut lab = talkative().await;
    let expected = story(&mut lab, Kind::Central, None).await.shape;
    assert!(expected.runs > 9, "the story has rounds: {expected:?}");
    survives(&mut lab, Kind::Central, &points, &expected).await;
    lab.end().await;
}

#[tokio::test]
async fn twins_survive_any_death() {
    use EventKind::{PortRegistered, RunAssigned};
    use RunStatus::{Active, Completed};
    use Victim::{Coordinator, Node, Run};
    let points = [
        (Coordinator, event(RunAssigned, 3)),
        (Coordinator, event(PortRegistered, 1)),
        (Coordinator, became(Active, 2)),
        (Coordinator, became(Completed, 1)),
        (Node(0), event(RunAssigned, 1)),
        (Node(0), event(PortRegistered, 2)),
        (Node(1), became(Active, 2)),
        (Node(2), became(Active, 3)),
        (Node(1), became(Completed, 1)),
        (Run(0), became(Active, 1)),
        (Run(1), became(Active, 3)),
        (Run(2), became(Active, 2)),
    ];
    let mut lab = talkative().await;
    let expected = story(&mut lab, Kind::Twins, None).await.shape;
    assert_eq!(expected, Shape { tasks: 1, runs: 3 });
    survives(&mut lab, Kind::Twins, &points, &expected).await;
    lab.end().await;
}

/// Tells the story once for every point, and sees to it that some of the runs to be killed were at work.
async fn survives(lab: &mut Lab, kind: Kind, points: &[(Victim, When)], expected: &Shape) {
    let mut runs_killed = 0;
    for point in points {
        let told = story(lab, kind, Some(*point)).await;
        assert_eq!(told.shape, *expected, "as many tasks and runs as without a death, after {point:?}");
        runs_killed += usize::from(told.run_killed);
    }
    assert!(runs_killed > 0, "no run was at work at any of the points at which one was to be killed");
}

/// What came of a story.
pub(crate) struct Told {
    pub(crate) shape: Shape,
    run_killed: bool,
}

async fn talkative() -> Lab {
    Lab::with(share_logs).await
}

/// Lets the runs' words reach the message of a test that fails.
pub(crate) fn share_logs(plan: &mut Plan) {
    for hospital in 0..plan.nodes {
        plan.extra_configuration.entry(hospital).or_default().insert_str(0, "share_algorithm_logs = true\n");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Central,
    Twins,
}

/// How many tasks and runs a job consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) tasks: usize,
    pub(crate) runs: usize,
}

const FORMULA: &str = "cens ~ age + tsize + pnodes + horTh";

/// Asks for a regression, kills at the point, restarts, and checks the result and that nothing ran twice.
pub(crate) async fn story(lab: &mut Lab, kind: Kind, point: Option<(Victim, When)>) -> Told {
    let researcher = &lab.federation.researcher;
    let mut events = researcher.api().events(After::Latest);
    loop {
        match events.next().await.expect("the events go on") {
            Update::Connected { .. } => break,
            Update::Event(_) | Update::Disconnected { .. } => {}
        }
    }
    let (function, at) = match kind {
        Kind::Central => ("logistic", Some(0)),
        Kind::Twins => ("logistic_twin", None),
    };
    let task = lab.post(function, at, json!({"formula": FORMULA})).await;
    // Somebody waits all the while.
    let waiting = Client::new(researcher.api().clone(), None, PinStore::in_memory()).await.unwrap();
    let waiting = tokio::spawn(async move { waiting.wait(task.id).await });

    let mut struck = BTreeMap::new();
    let mut dead = None;
    if let Some((victim, when)) = point {
        let mut left = when.nth;
        let wait = async {
            while left > 0 {
                let Some(update) = events.next().await else { panic!("the events ended") };
                if let Update::Event(event) = update
                    && event.job_id == Some(task.job_id)
                    && event.kind == when.kind
                    && (when.status.is_none() || event.status == when.status)
                {
                    left -= 1;
                }
            }
        };
        let met = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(met, "the point {point:?} was never reached");
        match victim {
            Victim::Coordinator => {
                lab.federation.instances[0].daemon.kill().await.unwrap();
                lab.federation.instances[0].restart().await.unwrap();
            }
            Victim::InstanceOf(whose) => dead = Some(lab.kill_instance_of(whose).await),
            Victim::Node(hospital) => {
                lab.kill_node(hospital).await;
                lab.start_node(hospital);
            }
            Victim::Run(hospital) => {
                // By the time of the event the run may have ended: then there is nothing to kill, and nothing happens.
                if kill_run(lab, hospital) {
                    struck.insert(hospital, 1);
                }
            }
        }
    }
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("the task ends in time").unwrap();
    assert_eq!(ended.unwrap(), RunStatus::Completed, "after {point:?}");
    let results = lab.finish(task.id).await;
    for (organization, content) in results.contents().unwrap_or_else(|error| panic!("after {point:?}: {error}")) {
        let fit: Value = content.json().unwrap();
        let deviance = fit["deviance"].as_f64().unwrap();
        let pooled = gbsg2_reference()["logistic cens ~ age+tsize+pnodes+horTh"]["deviance"].as_f64().unwrap();
        assert!((deviance - pooled).abs() < 1e-9 * pooled, "at {organization} after {point:?}");
    }
    nothing_ran_twice(lab, task.job_id, &struck, point).await;
    let told = Told { shape: shape(lab, task.job_id).await, run_killed: !struck.is_empty() };
    if let Some(dead) = dead {
        lab.moved_from(dead).await;
        lab.federation.instances[dead].restart().await.unwrap();
    }
    told
}

/// Kills the process of the algorithm, not its agent. `false` when none is at work.
fn kill_run(lab: &Lab, hospital: usize) -> bool {
    let node = lab.federation.hospitals[hospital].daemon.pid().unwrap();
    let agents: Vec<i32> = processes()
        .into_iter()
        .filter(|(pid, line)| line.contains("twinmesh-sandbox-init") && parent(*pid) == Some(node.cast_signed()))
        .map(|(pid, _)| pid)
        .collect();
    let run = processes().into_iter().find(|(pid, _)| parent(*pid).is_some_and(|parent| agents.contains(&parent)));
    let Some((pid, _)) = run else { return false };
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

/// Every run of the job was started once by its node; one whose process was killed from outside at most once more.
async fn nothing_ran_twice(lab: &Lab, job: JobId, struck: &BTreeMap<usize, i64>, point: Option<(Victim, When)>) {
    for hospital in 0..lab.federation.hospitals.len() {
        let journal = lab.journal(hospital).await;
        let more: Vec<(i64, i64)> = sqlx::query("SELECT run_id, attempts FROM run WHERE job_id = $1 AND attempts > 1")
            .bind(job.get())
            .fetch_all(&journal)
            .await
            .unwrap()
            .into_iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        journal.close().await;
        let allowed = struck.get(&hospital).copied().unwrap_or(0);
        let extra: i64 = more.iter().map(|(_, attempts)| attempts - 1).sum();
        assert!(extra <= allowed, "hospital {hospital} started runs again: {more:?}, after {point:?}");
    }
}

/// What a job has become, once all of its runs have ended, which must have been well.
async fn shape(lab: &Lab, job: JobId) -> Shape {
    let api = lab.federation.researcher.api();
    let filter = TaskFilter { collaboration_id: Some(lab.federation.collaboration), ..TaskFilter::default() };
    let mut tasks = api.task_list(&filter).await.unwrap();
    tasks.retain(|task| task.job_id == job);
    // The last reports of partials may still be on their way when the central function has its answer.
    let runs = until("all runs of the job have ended", async || {
        let mut runs = Vec::new();
        for task in &tasks {
            runs.extend(api.run_list(task.id).await.unwrap());
        }
        runs.iter().all(|run| run.status.is_finished()).then_some(runs)
    })
    .boxed_local()
    .await;
    for run in &runs {
        assert_eq!(run.status, RunStatus::Completed, "{:?}", run.log);
    }
    Shape { tasks: tasks.len(), runs: runs.len() }
}
