//! Who asks, and where the coordinator is at the moment.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::books::Ledger;
use super::in_time;
use crate::daemon::{Connection, request};
use crate::ledger::federation::{DEADLINE, Federation, IMAGE, id};

/// How long somebody waits before they ask again, unless they hear of another address.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs that may wait for their nodes before researchers hold back: all kinds of requests shall be under way.
const BACKLOG: usize = 30;

/// Where the coordinator listens; clones share it.
#[derive(Clone)]
pub(super) struct Address(Arc<watch::Sender<String>>);

impl Address {
    pub(super) fn new(host: &str) -> Self {
        Self(Arc::new(watch::channel(host.to_owned()).0))
    }

    pub(super) fn set(&self, host: &str) {
        self.0.send_replace(host.to_owned());
    }
}

/// What everybody shares; clones are the same.
#[derive(Clone)]
pub(super) struct World {
    address: Address,
    root: String,
    collaboration: i64,
    organizations: Vec<i64>,
    answers: Arc<watch::Sender<u64>>,
    stop: CancellationToken,
    ledger: Arc<Mutex<Ledger>>,
}

impl World {
    pub(super) fn new(federation: &Federation, address: Address) -> Self {
        Self {
            address,
            root: federation.root.clone(),
            collaboration: federation.collaboration,
            organizations: federation.members.iter().map(|member| member.organization).collect(),
            answers: Arc::new(watch::channel(0).0),
            stop: CancellationToken::new(),
            ledger: Arc::default(),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(super) fn caller(&self, token: &str) -> Caller {
        Caller { world: self.clone(), token: token.to_owned(), address: self.address.0.subscribe(), connection: None }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn organizations(&self) -> &[i64] {
        &self.organizations
    }

    /// The body of a task at these organizations, each with an input of its own.
    pub(super) fn task(&self, name: &str, inputs: &[(i64, String)]) -> Value {
        let organizations: Vec<_> = inputs.iter().map(|(id, input)| json!({"id": id, "input": input})).collect();
        json!({
            "name": name, "image": IMAGE, "description": "", "collaboration_id": self.collaboration,
            "organizations": organizations, "databases": [{"label": "default"}],
        })
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for so many further answers.
    pub(super) async fn answered(&self, more: u64) {
        let mut answers = self.answers.subscribe();
        let goal = *answers.borrow_and_update() + more;
        in_time("answers", answers.wait_for(|answers| *answers >= goal)).await.unwrap();
    }

    /// A task at all members, made once every other task has ended; returns when it has ended too.
    pub(super) async fn last_task(&self, federation: &Federation) -> i64 {
        let mut root = self.caller(&self.root);
        self.all_ended(&mut root).await;
        let inputs: Vec<_> = self.organizations.iter().map(|id| (*id, super::actor::text("last"))).collect();
        let body = self.task("last", &inputs);
        let mut researcher = self.caller(&federation.members[0].researcher);
        self.ledger().asked("last", 0, &body);
        let (status, answer) = researcher.ask(Method::POST, "/task", &[], Some(&body)).await;
        assert_eq!(status, 201, "{answer}");
        self.ledger().made("last", &answer);
        self.all_ended(&mut root).await;
        id(&answer)
    }

    /// Waits until no run is open, as long as nodes deliver.
    async fn all_ended(&self, root: &mut Caller) {
        loop {
            let waiting = self.ledger().backlog();
            let fewer = async {
                loop {
                    let (status, open) = root.ask(Method::GET, "/run?state=open&per_page=5", &[], None).await;
                    assert_eq!(status, 200, "{open}");
                    let open = open["data"].as_array().unwrap().clone();
                    if open.is_empty() || self.ledger().backlog() < waiting {
                        return open;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            };
            match tokio::time::timeout(DEADLINE, fewer).await {
                Ok(open) if open.is_empty() => return,
                Ok(_) => {}
                Err(_) => panic!("runs stay open, of which {} wait at their nodes", self.ledger().backlog()),
            }
        }
    }

    /// Waits while nodes have more than enough to do.
    pub(super) async fn hold_back(&self) {
        while self.ledger().backlog() > BACKLOG && !self.is_stopped() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The ledger, once every node has the answer to its last report, and every follower has heard the end of a task.
    pub(super) async fn books_at(&self, task: i64) -> Ledger {
        let is_over = || {
            let ledger = self.ledger();
            ledger.backlog() == 0 && ledger.all_heard_the_end_of(task, self.organizations.len())
        };
        let over = async {
            while !is_over() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        in_time("every follower to hear of the last task's end", over).await;
        std::mem::take(&mut *self.ledger())
    }
}

/// Somebody with a token and a connection.
pub(super) struct Caller {
    world: World,
    token: String,
    address: watch::Receiver<String>,
    connection: Option<Connection>,
}

impl Caller {
    /// Asks until there is an answer. `true` besides if an attempt before may have been carried out too.
    pub(super) async fn ask_again(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> (u16, Value, bool) {
        let mut repeated = false;
        let asking = async {
            loop {
                if let Some((status, answer)) = self.ask_once(method.clone(), path, headers, body).await {
                    return (status, answer, repeated);
                }
                repeated = true;
                self.pause().await;
            }
        };
        in_time(path, asking).await
    }

    /// The same, for whom it does not matter.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> (u16, Value) {
        let (status, answer, _) = self.ask_again(method, path, headers, body).await;
        (status, answer)
    }

    /// The answer, if it came whole.
    pub(super) async fn ask_once(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request(method, &self.token, path, headers, body);
        let answer = self.connection().ask(request).await;
        match &answer {
            Some((status, answer)) => {
                // Whoever dies says nothing; whoever lives has no excuse.
                assert!(*status < 500, "{path}: {status} {answer}");
                self.world.answers.send_modify(|answers| *answers += 1);
            }
            None => self.connection = None,
        }
        answer
    }

    /// A stream of events after a place.
    pub(super) async fn stream(&mut self, after: i64) -> Option<hyper::body::Incoming> {
        self.connection = None;
        let after = after.to_string();
        let request = request(Method::GET, &self.token, "/event", &[("last-event-id", &after)], Body::empty());
        let response = self.connection().send(request).await?;
        assert_eq!(response.status(), 200);
        Some(response.into_body())
    }

    /// Until the coordinator is elsewhere, or for a moment.
    pub(super) async fn pause(&mut self) {
        tokio::select! {
            changed = self.address.changed() => changed.unwrap(),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.get_or_insert_with(|| Connection::to(&self.address.borrow_and_update()))
    }
}
