//! Several coordinators on one PostgreSQL behave as one, also when one dies: nodes and clients move to another, every run
//! ends, every result is delivered once, and no event is missed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_client::events::{After, Update};
use twinmesh_netsim::federation::RESEARCHER;
use twinmesh_protocol::id::{EventSequence, RunId, TaskId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::{Event, EventKind, TokenPair};

use crate::crash::{Kind, Shape, Victim, became, event, share_logs, story};
use crate::lab::{Lab, Whose, patiently, until};

#[tokio::test]
async fn a_central_function_survives_the_death_of_any_instance_and_no_event_is_missed() {
    use EventKind::{RunAssigned, TaskCreated};
    use RunStatus::{Active, Completed};
    use Whose::{Node, Researcher};
    let points = [
        (Node(0), event(TaskCreated, 1)),
        (Researcher, became(Active, 1)),
        (Node(1), event(TaskCreated, 2)),
        (Node(0), became(Completed, 1)),
        (Researcher, became(Completed, 5)),
        (Node(2), event(RunAssigned, 9)),
    ];
    let Some(mut lab) = Lab::shared(3, share_logs).await else { return };
    let log = Log::listen(&lab.federation.root).await;
    let expected = story(&mut lab, Kind::Central, None).await.shape;
    for (whose, when) in points {
        let told = story(&mut lab, Kind::Central, Some((Victim::InstanceOf(whose), when))).await;
        assert_eq!(told.shape, expected, "as many tasks and runs as without a death, after {whose:?} {when:?}");
    }
    nothing_is_missed(&lab, log).await;
    lab.end().await;
}

#[tokio::test]
async fn twins_survive_the_death_of_any_instance() {
    use EventKind::{PortRegistered, RunAssigned};
    use RunStatus::{Active, Completed};
    use Whose::{Node, Researcher};
    let points = [
        (Node(0), event(RunAssigned, 3)),
        (Node(1), event(PortRegistered, 1)),
        (Researcher, became(Active, 2)),
        (Node(2), became(Completed, 1)),
    ];
    let Some(mut lab) = Lab::shared(2, share_logs).await else { return };
    let log = Log::listen(&lab.federation.root).await;
    for (whose, when) in points {
        let told = story(&mut lab, Kind::Twins, Some((Victim::InstanceOf(whose), when))).await;
        assert_eq!(told.shape, Shape { tasks: 1, runs: 3 }, "after {whose:?} {when:?}");
    }
    nothing_is_missed(&lab, log).await;
    lab.end().await;
}

#[tokio::test]
async fn tasks_and_sessions_of_one_instance_go_on_at_the_others() {
    const ROUNDS: usize = 20;
    let Some(mut lab) = Lab::shared(2, |_| ()).await else { return };
    let here = lab.instance_of(Whose::Researcher);
    assert_ne!(lab.instance_of(Whose::Node(0)), here, "the node is at the other instance");
    let mut until_started = Vec::new();
    for _ in 0..ROUNDS {
        let task = lab.post_small().await;
        assert!(lab.finish(task.id).await.contents().is_ok());
        let run = lab.federation.researcher.api().run_list(task.id).await.unwrap().remove(0);
        until_started.push(run.started_at.unwrap().since(run.assigned_at.unwrap()));
    }
    until_started.sort();
    eprintln!(
        "from a task at one instance to its run at a node of another: p50 {:?}, most {:?}",
        until_started[ROUNDS / 2],
        until_started[ROUNDS - 1]
    );

    // As a client has it that knows one address: the tokens are good at every instance.
    let [first, second] = [here, 1 - here].map(|at| lab.federation.instances[at].url.clone());
    let at_first = Api::new(&first, ApiOptions::default()).unwrap();
    at_first.log_in_user(RESEARCHER, &lab.federation.password, None).await.unwrap();
    let tokens = at_first.tokens().await.unwrap();
    let at_second = Api::new(&second, ApiOptions::default()).unwrap();
    at_second.set_tokens(tokens.clone()).await;
    at_second.organization_list(None).await.unwrap();
    lab.kill_instance_of(Whose::Researcher).await;
    assert!(at_first.organization_list(None).await.unwrap_err().is_transient());
    at_second.organization_list(None).await.unwrap();
    // An access token that is of no use is renewed there by the refresh token of the instance that is no more.
    let access_token = format!("{}x", tokens.access_token);
    at_second.set_tokens(TokenPair { access_token, ..tokens.clone() }).await;
    at_second.organization_list(None).await.unwrap();
    assert_ne!(at_second.tokens().await.unwrap().refresh_token, tokens.refresh_token);

    let task = lab.post_small().await;
    assert!(lab.finish(task.id).await.contents().is_ok());
    assert_eq!(lab.instance_of(Whose::Researcher), 1 - here, "the client has moved");
    lab.end().await;
}

#[tokio::test]
async fn statuses_are_right_when_an_instance_has_died() {
    let lease = |plan: &mut twinmesh_netsim::enrolment::Plan| {
        for (name, value) in [("INSTANCE_LEASE", "2s"), ("NODE_GRACE", "1s")] {
            plan.coordinator_environment.insert(format!("COORDINATOR__LIMITS__{name}"), value.into());
        }
    };
    let Some(mut lab) = Lab::shared(2, lease).await else { return };
    let status = async |lab: &Lab, hospital: usize| {
        let node = lab.federation.hospitals[hospital].node;
        patiently(|| lab.federation.root.node_get(node)).await.status.unwrap()
    };
    // The node dies with its instance: nobody is left who would say that it went.
    let dead = lab.kill_instance_of(Whose::Node(0)).await;
    lab.kill_node(0).await;
    until("the node is offline", async || (status(&lab, 0).await == "offline").then_some(())).await;
    // It comes back elsewhere while its instance is away, and so do those who were there with it.
    lab.start_node(0);
    lab.moved_from(dead).await;
    // The instance comes back and finds nobody.
    lab.federation.instances[dead].restart().await.unwrap();
    assert!(lab.are_online().await);
    // Where they have moved to their going is noticed as ever.
    lab.kill_node(1).await;
    until("the node is offline", async || (status(&lab, 1).await == "offline").then_some(())).await;
    assert_eq!((status(&lab, 0).await, status(&lab, 2).await), ("online".into(), "online".into()));
    lab.start_node(1);
    lab.federation.wait_online().await.unwrap();
    lab.end().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "measures, and says what")]
async fn twins_meet_at_the_relay_of_an_instance_that_lives() {
    let Some(mut lab) = Lab::shared(2, |plan| {
        for hospital in 0..plan.nodes {
            plan.extra_configuration.insert(hospital, "[overlay]\nrelayed_only = true\n".into());
        }
        share_logs(plan);
    })
    .await
    else {
        return;
    };
    // Each of them once; and the one that was away is as good as before.
    for dead in [0, 1, 0] {
        have_places(&lab, 2).await;
        lab.federation.instances[dead].daemon.kill().await.unwrap();
        // The twins start after its death.
        let killed = std::time::Instant::now();
        let task = lab.post("secure_sum_twin", None, json!({"column": "pnodes"})).await;
        for (_, total) in lab.finish(task.id).await.contents().unwrap() {
            assert_eq!(total.json::<Value>().unwrap()["total"], 3437);
        }
        eprintln!("from the death of an instance to the result of twins that started after it: {:?}", killed.elapsed());
        have_places(&lab, 1).await;
        lab.moved_from(dead).await;
        lab.federation.instances[dead].restart().await.unwrap();
    }
    // In the middle: some of the circuits run over the relay that dies.
    for when in [event(EventKind::PortRegistered, 3), became(RunStatus::Active, 2), became(RunStatus::Active, 3)] {
        have_places(&lab, 2).await;
        let told = story(&mut lab, Kind::Twins, Some((Victim::InstanceOf(Whose::Researcher), when))).await;
        assert_eq!(told.shape, Shape { tasks: 1, runs: 3 }, "after {when:?}");
    }
    for hospital in &lab.federation.hospitals {
        let traffic = hospital.status().unwrap().traffic;
        assert!(traffic.direct_sent == 0 && traffic.relayed_sent > 0, "{traffic:?}");
    }
    lab.end().await;
}

/// Waits until every node can be reached through so many relays.
async fn have_places(lab: &Lab, count: usize) {
    until("the nodes have their places at the relays", async || {
        let places = lab.federation.hospitals.iter().map(|hospital| {
            let relays = hospital.status().and_then(|status| status.overlay).map(|overlay| overlay.relays);
            relays.unwrap_or_default().iter().filter(|relay| relay.reserved).count()
        });
        (places.min() == Some(count)).then_some(())
    })
    .await;
}

/// The event log as somebody hears it who goes on listening whatever dies.
struct Log {
    from: EventSequence,
    heard: Arc<Mutex<Vec<Event>>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Log {
    async fn listen(api: &Api) -> Self {
        let mut events = api.events(After::Latest);
        let from = loop {
            match events.next().await.expect("the events go on") {
                Update::Connected { sequence } => break sequence,
                Update::Event(_) | Update::Disconnected { .. } => {}
            }
        };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Some(update) = events.next().await {
                    if let Update::Event(event) = update {
                        heard.lock().unwrap().push(event);
                    }
                }
            }
        });
        Self { from, heard, listener }
    }

    /// What was heard up to a task's end.
    async fn until_end_of(self, task: TaskId) -> Vec<Event> {
        let is_end = |event: &Event| {
            event.task_id == Some(task)
                && event.kind == EventKind::RunStatus
                && event.status.is_some_and(RunStatus::is_finished)
        };
        let heard = until("the last task's end is heard", async || {
            let heard = self.heard.lock().unwrap();
            let end = heard.iter().position(is_end)?;
            Some(heard[..=end].to_vec())
        })
        .await;
        self.listener.abort();
        heard
    }
}

/// What was heard is the log, event for event; each run ended once; and no node was ever taken for gone.
async fn nothing_is_missed(lab: &Lab, log: Log) {
    let last = lab.post_small().await;
    assert!(lab.finish(last.id).await.contents().is_ok());
    let from = log.from;
    let heard = log.until_end_of(last.id).await;
    let mut whole = Vec::new();
    let mut events = lab.federation.root.events(After::Event(from));
    while whole.len() < heard.len() {
        match events.next().await.expect("the events go on") {
            Update::Event(event) => whole.push(event),
            Update::Connected { .. } | Update::Disconnected { .. } => {}
        }
    }
    assert_eq!(heard, whole);
    let mut ends: BTreeMap<RunId, usize> = BTreeMap::new();
    for event in &heard {
        assert_ne!(event.kind, EventKind::NodeOffline, "{event:?}");
        if let (EventKind::RunStatus, Some(run), Some(status)) = (event.kind, event.run_id, event.status)
            && status.is_finished()
        {
            *ends.entry(run).or_default() += 1;
        }
    }
    assert!(!ends.is_empty() && ends.values().all(|count| *count == 1), "{ends:?}");
}
