//! What was acknowledged, and what is there in the end.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _, Row as _};

use crate::daemon::{Daemon, request};
use crate::database::{database, is_postgres};
use crate::ledger::federation::{Events, Federation, Message, id};

/// What everybody knows by themselves.
#[derive(Default)]
pub(super) struct Ledger {
    asked: BTreeMap<String, Asked>,
    reported: BTreeMap<i64, Reported>,
    heard: BTreeMap<String, Vec<Message>>,
    /// Runs that their nodes have heard of and not brought to their end.
    waiting: BTreeSet<i64>,
}

/// A task that somebody asked for.
struct Asked {
    organization: i64,
    body: Value,
    /// What was acknowledged.
    made: Option<Value>,
}

/// A run that a node reported on.
#[derive(Default)]
struct Reported {
    /// The last body and its answer.
    acknowledged: Option<(Value, Value)>,
    /// An end that was reported and perhaps taken, for the run has ended and nobody was answered.
    perhaps: Option<Value>,
}

impl Ledger {
    pub(super) fn asked(&mut self, key: &str, organization: i64, body: &Value) {
        self.asked.insert(key.to_owned(), Asked { organization, body: body.clone(), made: None });
    }

    pub(super) fn made(&mut self, key: &str, answer: &Value) {
        self.asked.get_mut(key).unwrap().made = Some(answer.clone());
    }

    pub(super) fn reported(&mut self, run: i64, body: &Value, answer: &Value) {
        self.reported.entry(run).or_default().acknowledged = Some((body.clone(), answer.clone()));
    }

    pub(super) fn ended_before(&mut self, run: i64, perhaps: Option<&Value>) {
        self.reported.entry(run).or_default().perhaps = perhaps.cloned();
    }

    pub(super) fn assigned(&mut self, run: i64) {
        assert!(self.waiting.insert(run), "the run {run} is assigned twice");
    }

    pub(super) fn done(&mut self, run: i64) {
        self.waiting.remove(&run);
    }

    pub(super) fn backlog(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn heard(&mut self, who: &str, event: Message) {
        self.heard.entry(who.to_owned()).or_default().push(event);
    }

    /// Whether every follower, of whom there are one more than members, was told that each run of a task ended.
    pub(super) fn all_heard_the_end_of(&self, task: i64, members: usize) -> bool {
        let ends = |events: &Vec<Message>| {
            let of_task = events.iter().rev().take(200).filter(|event| event.data["task_id"] == task);
            let ended = |event: &&Message| event.kind == "run_status" && event.data["status"] != "active";
            of_task.filter(ended).count() == members
        };
        self.heard.len() == members + 1 && self.heard.values().all(ends)
    }

    /// Compares what is known with what is there; how many tasks and events there are.
    pub(super) fn balance(&self, there: &Books, federation: &Federation) -> (usize, usize) {
        self.tasks(there);
        self.runs(there);
        there.agree();
        self.events(there, federation);
        (there.tasks.len(), there.events.len())
    }

    /// Every acknowledged task is there as it was told, once; every other is whole or absent.
    fn tasks(&self, there: &Books) {
        let mut keys = BTreeSet::new();
        for (id, task) in &there.tasks {
            let key = task["name"].as_str().unwrap();
            assert!(keys.insert(key), "there is more than one task `{key}`");
            let asked = self.asked.get(key).unwrap_or_else(|| panic!("nobody asked for the task {id}: {task}"));
            let runs: Vec<(i64, &Value)> =
                there.runs_of(*id).map(|(_, run)| (organization(run), &run["input"])).collect();
            let expected: Vec<(i64, &Value)> = asked.body["organizations"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| (entry["id"].as_i64().unwrap(), &entry["input"]))
                .collect();
            assert_eq!(runs, expected, "the runs of the task {id} (`{key}` of {})", asked.organization);
            assert_eq!(task["databases"], json!([{"label": "default", "parameters": "{}"}]), "{task}");
        }
        for (key, asked) in &self.asked {
            let Some(made) = &asked.made else { continue };
            let task = there.tasks.get(&id(made)).unwrap_or_else(|| panic!("the task `{key}` is lost: {made}"));
            // What changes while it is carried out is compared with its runs.
            let lasting = |task: &Value| {
                let mut task = task.clone();
                task.as_object_mut().unwrap().retain(|name, _| name != "status" && name != "finished_at");
                task
            };
            assert_eq!(lasting(task), lasting(made), "the task `{key}`");
        }
    }

    /// Every acknowledged report is there byte for byte.
    fn runs(&self, there: &Books) {
        for (id, run) in &there.runs {
            let known = self.reported.get(id).unwrap_or_else(|| panic!("its node never heard of the run {id}: {run}"));
            let result = &there.results[id];
            let told = known.acknowledged.as_ref().filter(|(body, _)| body.get("result").is_some());
            match (told, &known.perhaps) {
                (Some((body, answer)), _) => {
                    for field in ["status", "log", "started_at", "finished_at", "input", "assigned_at", "organization"]
                    {
                        assert_eq!(run[field], answer[field], "`{field}` of the run {id}");
                    }
                    assert_eq!((&run["log"], &result["result"]), (&body["log"], &body["result"]), "the run {id}");
                }
                (None, Some(body)) if !result["result"].is_null() => {
                    for (here, field) in [(run, "status"), (run, "log"), (result, "result")] {
                        assert_eq!(here[field], body[field], "`{field}` of the run {id}");
                    }
                }
                // Somebody else ended it, and said why.
                (None, _) => {
                    assert!(result["result"].is_null(), "nobody delivered this result of the run {id}: {result}");
                    assert!(["failed", "killed by user"].iter().any(|status| run["status"] == *status), "{run}");
                }
            }
            if let Some((_, answer)) = &known.acknowledged {
                assert_eq!(run["started_at"], answer["started_at"], "the run {id}");
            }
        }
        let runs: Vec<_> = there.runs.keys().collect();
        assert_eq!(self.reported.keys().collect::<Vec<_>>(), runs, "runs that a node heard of, and those there are");
    }

    /// Everybody was told exactly what the log has for them, in its order.
    fn events(&self, there: &Books, federation: &Federation) {
        let all = &self.heard[&federation.root];
        assert_eq!(numbers(all), there.events, "what root was told, and the log");
        for member in &federation.members {
            let heard = &self.heard[&member.node_token];
            let mine = json!(member.organization);
            // The log's own rule of who hears what, told once more: what happens at nodes, and to tasks one has a run of.
            let tasks: BTreeSet<i64> = all
                .iter()
                .filter(|event| event.kind == "run_assigned" && event.data["organization_id"] == mine)
                .map(|event| event.data["task_id"].as_i64().unwrap())
                .collect();
            let concerns = |event: &&Message| match event.kind.as_str() {
                "node_online" | "node_offline" | "key_changed" => true,
                "run_assigned" | "kill_requested" => event.data["organization_id"] == mine,
                _ => {
                    event.data["organization_id"] == mine
                        || event.data["task_id"].as_i64().is_some_and(|task| tasks.contains(&task))
                }
            };
            let expected: Vec<&Message> = all.iter().filter(concerns).collect();
            assert_eq!(heard.iter().collect::<Vec<_>>(), expected, "what the node of {mine} was told");
            assert_eq!(*heard, there.told[&member.node_token], "what it is told when it asks again from the beginning");
        }
    }
}

fn numbers(events: &[Message]) -> Vec<Row> {
    let number = |event: &Message, name: &str| event.data[name].as_i64();
    let row = |event: &Message| Row {
        sequence: event.sequence,
        kind: event.kind.clone(),
        organization: number(event, "organization_id"),
        task: number(event, "task_id"),
        run: number(event, "run_id"),
        status: event.data["status"].as_str().map(str::to_owned),
    };
    events.iter().map(row).collect()
}

fn organization(run: &Value) -> i64 {
    id(&run["organization"])
}

/// A row of the log.
#[derive(Debug, PartialEq)]
struct Row {
    sequence: i64,
    kind: String,
    organization: Option<i64>,
    task: Option<i64>,
    run: Option<i64>,
    status: Option<String>,
}

/// What is there: by the interface, and the log also by its table.
pub(super) struct Books {
    tasks: BTreeMap<i64, Value>,
    runs: BTreeMap<i64, Value>,
    results: BTreeMap<i64, Value>,
    events: Vec<Row>,
    /// What each node is told from the beginning on.
    told: BTreeMap<String, Vec<Message>>,
}

impl Books {
    pub(super) async fn read(daemon: &Daemon, federation: &Federation) -> Self {
        let events = table(federation).await;
        let last = events.last().unwrap().sequence;
        let mut told = BTreeMap::new();
        for member in &federation.members {
            let stream = daemon.follow(&member.node_token, 0).await;
            told.insert(member.node_token.clone(), until(stream, last).await);
        }
        Self {
            tasks: list(daemon, &federation.root, "task").await,
            runs: list(daemon, &federation.root, "run").await,
            results: list(daemon, &federation.root, "result").await,
            events,
            told,
        }
    }

    fn runs_of(&self, task: i64) -> impl Iterator<Item = (&i64, &Value)> {
        self.runs.iter().filter(move |(_, run)| id(&run["task"]) == task)
    }

    /// Tasks, runs and the log say the same.
    fn agree(&self) {
        let mut created = BTreeSet::new();
        let mut assigned = BTreeSet::new();
        let mut status: BTreeMap<i64, &str> = BTreeMap::new();
        for event in &self.events {
            match event.kind.as_str() {
                "task_created" => assert!(created.insert(event.task.unwrap()), "{event:?} is told twice"),
                "run_assigned" => {
                    assert!(created.contains(&event.task.unwrap()), "{event:?} comes before its task");
                    assert!(assigned.insert(event.run.unwrap()), "{event:?} is told twice");
                }
                "run_status" => {
                    let run = event.run.unwrap();
                    assert!(assigned.contains(&run), "{event:?} comes before its run");
                    let before = status.insert(run, event.status.as_deref().unwrap());
                    assert_ne!(before, event.status.as_deref(), "{event:?} tells nothing new");
                }
                _ => {}
            }
        }
        assert_eq!(created.iter().collect::<Vec<_>>(), self.tasks.keys().collect::<Vec<_>>());
        assert_eq!(assigned.iter().collect::<Vec<_>>(), self.runs.keys().collect::<Vec<_>>());
        let now: BTreeMap<i64, &str> =
            self.runs.iter().map(|(id, run)| (*id, run["status"].as_str().unwrap())).collect();
        assert_eq!(status, now, "the last status in the log, and that of the run");
        for (id, task) in &self.tasks {
            let runs: BTreeSet<&str> = self.runs_of(*id).map(|(_, run)| run["status"].as_str().unwrap()).collect();
            let failures: Vec<&str> = runs.iter().copied().filter(|status| *status != "completed").collect();
            let expected = match failures[..] {
                [] => "completed",
                [one] => one,
                _ => "failed",
            };
            assert_eq!(task["status"], expected, "the task {id} with runs that are {runs:?}");
        }
    }
}

/// All of a list, by id.
async fn list(daemon: &Daemon, token: &str, noun: &str) -> BTreeMap<i64, Value> {
    let mut connection = daemon.connect_later();
    let mut all = BTreeMap::new();
    for page in 1.. {
        let path = format!("/{noun}?per_page=500&page={page}");
        let (status, answer) = connection.ask(request(Method::GET, token, &path, &[], Body::empty())).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        all.extend(answer["data"].as_array().unwrap().iter().map(|item| (id(item), item.clone())));
        if answer["links"]["next"].is_null() {
            break;
        }
    }
    all
}

/// Every event up to a place that is told.
async fn until(mut stream: Events, last: i64) -> Vec<Message> {
    stream.until(|event| event.sequence == last).await
}

/// The log as it stands in the database, which must be sound.
async fn table(federation: &Federation) -> Vec<Row> {
    let url = match database(federation.directory.path()).await.url {
        Some(url) => url.reveal().to_owned(),
        None => format!("sqlite://{}", federation.directory.path().join("coordinator.sqlite").display()),
    };
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    if !is_postgres() {
        let sound = sqlx::query("PRAGMA integrity_check").fetch_all(&mut connection).await.unwrap();
        assert_eq!(sound.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>(), ["ok"]);
        let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await.unwrap();
        assert!(dangling.is_empty(), "{} rows refer to what is not there", dangling.len());
    }
    let sql = "SELECT sequence, kind, organization_id, task_id, run_id, status FROM event ORDER BY sequence";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let row = |row: &sqlx::any::AnyRow| Row {
        sequence: row.get(0),
        kind: row.get(1),
        organization: row.get(2),
        task: row.get(3),
        run: row.get(4),
        status: row.get(5),
    };
    rows.iter().map(row).collect()
}
