//! The daemon against a scripted coordinator, with runs as threads.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails is a fault of the test")]

mod coordinator;
mod fuzz;
mod gateway;
mod rsa;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use twinmesh_algorithms::sdk::{Host, HostParts, control::Control};
use twinmesh_node::{
    Node, OnStop, Parts, Running, StartError,
    config::Config,
    runtime::{
        Layout, RunHandle, RunSpec, Runtime, RuntimeError, Strength,
        thread::{ThreadRun, ThreadRuntime},
    },
};
use twinmesh_overlay::{Multiaddr, Overlay, OverlayConfig, PeerId};
use twinmesh_protocol::{
    certificate::{CERTIFICATE_VERSION, NodeCertificate},
    id::OrganizationId,
    key::OrganizationKey,
    manifest::{Delegation, SignedManifest},
    signed::Signed,
};

use coordinator::{Coordinator, HOME, wait_for};

/// A node with its folder, and what its algorithm does.
struct Hospital {
    folder: tempfile::TempDir,
    coordinator: Coordinator,
    /// How often the algorithm was started.
    starts: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

/// Holds runs of `wait` until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let _ = self.changed.wait_timeout_while(open, Duration::from_secs(30), |open| !*open).unwrap();
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Hospital {
    async fn new(encrypted: bool) -> Self {
        let coordinator = Coordinator::start(encrypted).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), coordinator.state.home_key.to_pem().as_bytes()).unwrap();
        std::fs::write(folder.path().join("data.csv"), "a,b\n1,2\n3,4\n").unwrap();
        Self { folder, coordinator, starts: Arc::default(), gate: Arc::default() }
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().join(name)).unwrap()
    }

    fn config(&self, extra: &str) -> Config {
        let encrypted = self.coordinator.world_is_encrypted();
        let text = format!(
            "coordinator_url = \"{}\"\napi_key = \"the-key\"\nstate_directory = \"{}\"\nprivate_key = \"{}\"\n\
             [encryption]\nenabled = {encrypted}\n[[databases]]\nlabel = \"default\"\ntype = \"csv\"\npath = \"{}\"\n\
             [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n{extra}",
            self.coordinator.url,
            self.path("state"),
            self.path("key.pem"),
            self.path("data.csv"),
        );
        toml::from_str(&text).unwrap()
    }

    async fn start(&self) -> Running {
        self.start_with("").await
    }

    async fn start_with(&self, extra: &str) -> Running {
        let (starts, gate) = (self.starts.clone(), self.gate.clone());
        let runtime = ThreadRuntime::new(move |run| {
            starts.fetch_add(1, Ordering::SeqCst);
            algorithm(run, &gate)
        });
        Node::start(self.config(extra), Parts::new(Arc::new(runtime))).await.unwrap()
    }

    /// Pins the researcher's key from the command line.
    async fn pin(&self, fingerprint: &str) -> std::process::ExitCode {
        let path = self.path("node.toml");
        std::fs::write(&path, toml::to_string(&self.config("")).unwrap()).unwrap();
        let words = ["twinmesh-node", "pin", "add", "2", "--fingerprint", fingerprint, "--config", path.as_str()];
        twinmesh_node::cli::run(words.map(Into::into)).await
    }

    fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }
}

/// Functions that tests call.
fn algorithm(run: ThreadRun, gate: &Gate) -> Result<Vec<u8>, String> {
    let environment: BTreeMap<String, String> = run.environment;
    let control = Control::new(run.control.try_clone().map_err(|error| error.to_string())?);
    let host = Host::new(HostParts { environment, control: Some(run.control) }).map_err(|error| error.to_string())?;
    let result = match host.input().method.as_str() {
        "echo" => json!(host.input().kwargs),
        "rows" => json!(host.table(None).map_err(|error| error.to_string())?.rows()),
        "wait" => {
            gate.pass();
            json!("waited")
        }
        "large" => json!("x".repeat(600 << 10)),
        "central" => {
            let task = host
                .gateway()
                .create_subtask(host.input().kwargs["call"].as_str().unwrap(), &json!({"n": 1}), &[HOME])
                .map_err(|error| error.to_string())?;
            let results = host.gateway().results::<Value>(task).map_err(|error| error.to_string())?;
            json!(results.into_iter().map(|result| result.value).collect::<Vec<_>>())
        }
        "central_twice" => gateway::ask_twice(&host),
        "steal" => gateway::steal(&host),
        "again" => gateway::ask_again(&host, &control)?,
        "raw" => gateway::ask_raw(&host, &control)?,
        other => return Err(format!("no function {other}")),
    };
    Ok(result.to_string().into_bytes())
}

fn may_call(functions: &[&str]) -> Option<Delegation> {
    Some(Delegation {
        functions: functions.iter().map(|name| (*name).to_owned()).collect(),
        organizations: [HOME, OrganizationId::new(2)].into(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_task_is_run_once_and_its_sealed_result_delivered() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let run = hospital.coordinator.post(&hospital.coordinator.draft("echo"));
    let report = hospital.coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(hospital.coordinator.open(run, report["result"].as_str().unwrap()), json!({}));
    assert_eq!(hospital.starts(), 1);
    assert_eq!(hospital.coordinator.world().ports.len(), 1, "the port is registered");
    node.shutdown(OnStop::KillRuns).await;
    assert!(hospital.coordinator.world().keys.contains_key(&HOME.get()), "the key was uploaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_an_open_collaboration_needs_no_signature() {
    let hospital = Hospital::new(false).await;
    let node = hospital.start().await;
    let mut draft = hospital.coordinator.draft("echo");
    draft.sign_with = None;
    let run = hospital.coordinator.post(&draft);
    let report = hospital.coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(report["result"], twinmesh_protocol::payload::to_text(b"{}"));
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_not_signed_like_this_is_refused_by_name() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let good = coordinator.draft("echo");
    let stranger = OrganizationKey::from_seed(&[9; 32]);
    let refusals = [
        ("not signed", coordinator.post(&coordinator::Draft { sign_with: None, ..good.clone() })),
        (
            "signed with the key",
            coordinator.post(&coordinator::Draft { sign_with: Some(stranger.clone()), ..good.clone() }),
        ),
        ("cannot be opened", coordinator.post(&coordinator::Draft { seal_to: stranger.public(), ..good.clone() })),
        ("expired", coordinator.post(&coordinator::Draft { not_after: coordinator::now() - 10, ..good.clone() })),
        (
            "no database `other`",
            coordinator.post(&coordinator::Draft { databases: vec!["other".into()], ..good.clone() }),
        ),
        ("allowed_algorithms", coordinator.post(&coordinator::Draft { image: "evil".into(), ..good.clone() })),
        ("not the one that was signed", {
            let (task, _, manifest) = coordinator.build(&good);
            let (_, other_input, _) = coordinator.build(&good);
            coordinator.record(task, &other_input, manifest.as_ref())
        }),
        ("its databases", {
            let (mut task, input, manifest) = coordinator.build(&good);
            task["databases"] = json!([]);
            coordinator.record(task, &input, manifest.as_ref())
        }),
        ("said to ask", {
            let (mut task, input, manifest) = coordinator.build(&good);
            task["init_org"] = coordinator::link(HOME.get());
            coordinator.record(task, &input, manifest.as_ref());
            // The key of the organization that is said to ask does not fit either, which is found first.
            let (mut task, input, manifest) = coordinator.build(&good);
            task["parent"] = coordinator::link(1);
            let run = coordinator.record(task, &input, manifest.as_ref());
            let report = coordinator.finished(run).await;
            assert!(report["log"].as_str().unwrap().contains("parent that was not signed"), "{report}");
            run
        }),
    ];
    for (reason, run) in refusals {
        let report = coordinator.finished(run).await;
        assert_eq!(report["status"], "not allowed", "{reason}: {report}");
        if reason != "said to ask" {
            assert!(report["log"].as_str().unwrap().contains(reason), "{reason}: {report}");
        }
    }
    assert_eq!(hospital.starts(), 0, "nothing that is refused starts");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_manifest_is_refused() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let (task, input, manifest) = coordinator.build(&coordinator.draft("echo"));
    let first = coordinator.record(task.clone(), &input, manifest.as_ref());
    assert_eq!(coordinator.finished(first).await["status"], "completed");
    let again = coordinator.record(task, &input, manifest.as_ref());
    let report = coordinator.finished(again).await;
    assert_eq!(report["status"], "not allowed");
    assert!(report["log"].as_str().unwrap().contains("replay"), "{report}");
    assert_eq!(hospital.starts(), 1);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_function_gets_the_results_of_the_subtasks_it_was_granted() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let mut draft = coordinator.draft("central");
    draft.kwargs = json!({"call": "rows"});
    draft.delegation = may_call(&["rows"]);
    let run = coordinator.post(&draft);
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(coordinator.open(run, report["result"].as_str().unwrap()), json!([2]));
    // The subtask was signed by this organization, below its parent.
    let subtask: SignedManifest = serde_json::from_value(coordinator.world().tasks[&2]["manifest"].clone()).unwrap();
    let manifest = subtask.verify(&coordinator.state.home_key.public()).unwrap();
    assert_eq!(manifest.initiator, HOME);
    assert!(manifest.parent.is_some());

    draft.kwargs = json!({"call": "echo"});
    let run = coordinator.post(&draft);
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "crashed", "a function that was not granted cannot be called: {report}");
    assert_eq!(coordinator.world().tasks.len(), 3, "no subtask was made");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_does_not_disturb_a_run() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("wait"));
    wait_for("the run to start", || (hospital.starts() == 1).then_some(())).await;
    coordinator.set_down(true);
    wait_for("the node to notice", || (!node.status().ok()?.coordinator.link.connected).then_some(())).await;
    hospital.gate.open();
    wait_for("the run to end", || {
        node.status().ok()?.runs.iter().any(|run| run.state.contains("delivery")).then_some(())
    })
    .await;
    coordinator.set_down(false);
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(hospital.starts(), 1);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_delivered_by_the_next_start() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("wait"));
    wait_for("the run to start", || (hospital.starts() == 1).then_some(())).await;
    coordinator.set_down(true);
    hospital.gate.open();
    wait_for("the run to end", || {
        node.status().ok()?.runs.iter().any(|run| run.state.contains("delivery")).then_some(())
    })
    .await;
    node.shutdown(OnStop::LeaveRuns).await;
    coordinator.set_down(false);
    let node = hospital.start().await;
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(hospital.starts(), 1, "what ended is not run again");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_stays_killed() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("wait"));
    wait_for("the run to start", || (hospital.starts() == 1).then_some(())).await;
    coordinator.kill(run);
    wait_for("the run to be gone", || node.status().ok()?.runs.is_empty().then_some(())).await;
    assert_eq!(coordinator.world().runs[&run]["status"], "killed by user");
    assert_eq!(hospital.starts(), 1);
    hospital.gate.open();
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_to_be_killed_ends_and_its_node_says_so() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("wait"));
    wait_for("the run to start", || (hospital.starts() == 1).then_some(())).await;
    coordinator.ask_to_kill(run);
    assert_eq!(coordinator.finished(run).await["status"], "killed by user");
    wait_for("the run to be gone", || node.status().ok()?.runs.is_empty().then_some(())).await;
    assert_eq!(hospital.starts(), 1);
    hospital.gate.open();
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_to_be_killed_is_not_begun() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("echo"));
    coordinator.ask_to_kill(run);
    let node = hospital.start().await;
    assert_eq!(coordinator.finished(run).await["status"], "killed by user");
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_to_be_killed_while_it_is_judged_does_not_go_on() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start().await;
    coordinator.hold_tokens(true);
    let run = coordinator.post(&coordinator.draft("wait"));
    wait_for("the question for a token", || coordinator.asked_for_tokens().then_some(())).await;
    let lists = coordinator.lists();
    coordinator.ask_to_kill(run);
    coordinator.ask_to_kill(run);
    // The second list is asked for when the first has been read.
    wait_for("two lists", || (coordinator.lists() >= lists + 2).then_some(())).await;
    coordinator.hold_tokens(false);
    assert_eq!(coordinator.finished(run).await["status"], "killed by user");
    hospital.gate.open();
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_the_node_goes_on() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start_with("[runtime.limits]\njournal = \"256KiB\"\n").await;
    let coordinator = &hospital.coordinator;
    let run = coordinator.post(&coordinator.draft("large"));
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "failed", "{report}");
    assert!(report["log"].as_str().unwrap().contains("disk is full"), "{report}");
    let run = coordinator.post(&coordinator.draft("echo"));
    assert_eq!(coordinator.finished(run).await["status"], "completed");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_stops_the_start_with_its_name() {
    let hospital = Hospital::new(true).await;
    let runtime = || Parts::new(Arc::new(ThreadRuntime::new(|_| Ok(Vec::new()))));
    let mut config = hospital.config("");
    config.encryption.enabled = false;
    let error = Node::start(config, runtime()).await.unwrap_err().to_string();
    assert!(error.contains("encryption.enabled"), "{error}");
    let mut config = hospital.config("");
    config.api_key = Some("another".into());
    let error = Node::start(config, runtime()).await.unwrap_err().to_string();
    assert!(error.contains("API key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_coordinator_does_not_take_stops_the_start_until_it_does() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let shown = OrganizationKey::from_seed(&[9; 32]).public().to_api();
    coordinator.world().keys.insert(HOME.get(), shown);
    coordinator.world().keys_stay = true;
    let runtime = Parts::new(Arc::new(ThreadRuntime::new(|_| Ok(Vec::new()))));
    let error = Node::start(hospital.config(""), runtime).await.unwrap_err();
    assert!(matches!(error, StartError::KeyRefused(_)) && error.to_string().contains("another public key"), "{error}");

    coordinator.world().keys_stay = false;
    let node = hospital.start().await;
    let run = coordinator.post(&coordinator.draft("echo"));
    assert_eq!(coordinator.finished(run).await["status"], "completed");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_joins_later_is_a_stranger_until_a_person_pins_its_key() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    coordinator.world().is_small = true;
    let node = hospital.start().await;
    coordinator.world().is_small = false;
    let run = coordinator.post(&coordinator.draft("echo"));
    let report = coordinator.finished(run).await;
    let fingerprint = coordinator.state.researcher_key.public().fingerprint();
    assert_eq!(report["status"], "not allowed", "{report}");
    let log = report["log"].as_str().unwrap();
    let command = format!("twinmesh-node pin add 2 --fingerprint {}", fingerprint.replace(' ', ""));
    assert!(log.contains(&command) && log.contains(&fingerprint), "{log}");

    // Neither a restart nor another fingerprint changes that.
    node.shutdown(OnStop::KillRuns).await;
    let node = hospital.start().await;
    let run = coordinator.post(&coordinator.draft("echo"));
    assert_eq!(coordinator.finished(run).await["status"], "not allowed");
    assert_eq!(hospital.pin(&"0".repeat(32)).await, std::process::ExitCode::FAILURE);
    let run = coordinator.post(&coordinator.draft("echo"));
    assert_eq!(coordinator.finished(run).await["status"], "not allowed");

    // The running node sees what was pinned beside it.
    assert_eq!(hospital.pin(&fingerprint).await, std::process::ExitCode::SUCCESS);
    let run = coordinator.post(&coordinator.draft("echo"));
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(hospital.starts(), 1);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_key_at_the_first_start_may_bring_one_later() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let key = coordinator.world().keys.remove(&coordinator::RESEARCHER.get()).unwrap();
    let node = hospital.start().await;
    node.shutdown(OnStop::KillRuns).await;
    let node = hospital.start().await;
    coordinator.world().keys.insert(coordinator::RESEARCHER.get(), key);
    let run = coordinator.post(&coordinator.draft("echo"));
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    node.shutdown(OnStop::KillRuns).await;
}

/// Runs threads; its first start hangs when all is prepared, as if the node were killed there.
#[derive(Debug)]
struct Interrupted {
    threads: ThreadRuntime,
    began: AtomicUsize,
}

#[async_trait]
impl Runtime for Interrupted {
    fn strength(&self) -> &Strength {
        self.threads.strength()
    }

    fn layout(&self, spec: &RunSpec) -> Layout {
        self.threads.layout(spec)
    }

    async fn start(&self, spec: RunSpec) -> Result<Arc<dyn RunHandle>, RuntimeError> {
        std::fs::create_dir_all(&spec.directory).unwrap();
        std::fs::write(spec.directory.join("run.json"), r#"{"run_id": 100, "output_bytes": 9, "log_bytes": 9}"#)
            .unwrap();
        self.began.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn attach(&self, directory: &Utf8Path) -> Result<Option<Arc<dyn RunHandle>>, RuntimeError> {
        self.threads.attach(directory).await
    }

    fn has_begun(&self, directory: &Utf8Path) -> bool {
        self.threads.has_begun(directory)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_never_began_does_not_count() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let mut run = None;
    // More often than a run is started at most.
    for _ in 0..3 {
        let runtime =
            Arc::new(Interrupted { threads: ThreadRuntime::new(|_| Ok(Vec::new())), began: AtomicUsize::new(0) });
        let node = Node::start(hospital.config(""), Parts::new(runtime.clone())).await.unwrap();
        run.get_or_insert_with(|| coordinator.post(&coordinator.draft("echo")));
        wait_for("the start", || (runtime.began.load(Ordering::SeqCst) == 1).then_some(())).await;
        node.shutdown(OnStop::LeaveRuns).await;
    }
    let node = hospital.start().await;
    let report = coordinator.finished(run.unwrap()).await;
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(hospital.starts(), 1);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_withdrawn_while_it_is_judged_and_then_refused_is_forgotten() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start().await;
    coordinator.hold_tokens(true);
    let run = coordinator.post(&coordinator::Draft { image: "evil".into(), ..coordinator.draft("echo") });
    wait_for("the question for a token", || coordinator.asked_for_tokens().then_some(())).await;
    let lists = coordinator.lists();
    coordinator.kill(run);
    coordinator.kill(run);
    // The second list is asked for when the first has been read.
    wait_for("two lists", || (coordinator.lists() >= lists + 2).then_some(())).await;
    coordinator.hold_tokens(false);
    wait_for("the run to be gone", || node.status().ok()?.runs.is_empty().then_some(())).await;
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_that_a_known_organization_certified_may_connect() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start().await;
    let (peer, addresses) = wait_for("the node's addresses", || {
        let overlay = node.status().ok()?.overlay?;
        let addresses: Vec<Multiaddr> = overlay.addresses.iter().map(|text| text.parse().unwrap()).collect();
        (!addresses.is_empty()).then(|| (overlay.peer_id.parse::<PeerId>().unwrap(), addresses))
    })
    .await;
    let node_key = OrganizationKey::from_seed(&[8; 32]);
    let (other, _incoming) = Overlay::start(OverlayConfig::loopback([8; 32])).await.unwrap();
    other.open(peer, &addresses).await.unwrap_err();

    let certify = |key: &OrganizationKey| {
        let certificate = NodeCertificate {
            version: CERTIFICATE_VERSION,
            organization_id: coordinator::RESEARCHER,
            collaboration_id: coordinator::COLLABORATION,
            node_key: node_key.public(),
            issued_at: coordinator::now(),
            not_after: coordinator::now() + 3600,
        };
        json!({"node_id": 2, "organization_id": coordinator::RESEARCHER, "addresses": [], "status": "online",
            "certificate": Signed::sign(&certificate, key).unwrap()})
    };
    // The coordinator's word is not enough.
    coordinator.world().peers = vec![certify(&OrganizationKey::from_seed(&[9; 32]))];
    other.open(peer, &addresses).await.unwrap_err();
    coordinator.world().peers = vec![certify(&coordinator.state.researcher_key)];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = other.open(peer, &addresses).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
    other.shutdown().await;
    node.shutdown(OnStop::KillRuns).await;
}
