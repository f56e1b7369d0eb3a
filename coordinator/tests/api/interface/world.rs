//! Callers of every role, and things that stand in every relation to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use twinmesh_coordinator::config::Span;
use twinmesh_protocol::certificate::{CERTIFICATE_VERSION, NodeCertificate};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::signed::Signed;

use super::operation::{Ask, Operation};
use crate::ledger::algorithm_store::{AlgorithmStore, Manner};
use crate::ledger::federation::{Federation, Member, id, plain};

/// A role that may have nothing to do with any rule.
pub(crate) const RULELESS: Role = Role { name: "no role", id: 0 };
/// The built-in roles, in the order of their ids.
pub(crate) const ROLES: [Role; 7] = [
    Role { name: "Root", id: 1 },
    Role { name: "container", id: 2 },
    Role { name: "node", id: 3 },
    Role { name: "Viewer", id: 4 },
    Role { name: "Researcher", id: 5 },
    Role { name: "Org. Admin", id: 6 },
    Role { name: "Col. Admin", id: 7 },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Role {
    pub(crate) name: &'static str,
    pub(crate) id: i64,
}

impl Role {
    /// The kind of token that callers of this role have.
    pub(crate) fn token_kind(self) -> &'static str {
        match self.name {
            "container" => "container",
            "node" => "node",
            _ => "user",
        }
    }

    fn is_user(self) -> bool {
        self.token_kind() == "user"
    }
}

/// How a thing stands to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    /// The caller, or what the caller made or works on.
    Own,
    /// Their organization's, in a collaboration in which it takes part.
    Ours,
    /// Another organization's, in a shared collaboration.
    Shared,
    /// Of an organization and a collaboration with which they have nothing to do.
    Foreign,
    /// Built in, nobody's.
    BuiltIn,
    /// There is no thing: what is asked is about nothing in particular.
    Nothing,
}

impl Relation {
    pub(crate) const ALL: [Self; 6] =
        [Self::Own, Self::Ours, Self::Shared, Self::Foreign, Self::BuiltIn, Self::Nothing];

    pub(crate) fn letter(self) -> char {
        match self {
            Self::Own => 'o',
            Self::Ours => 'g',
            Self::Shared => 'c',
            Self::Foreign => 'f',
            Self::BuiltIn => 'b',
            Self::Nothing => 'y',
        }
    }
}

/// What kind of thing an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Organization,
    Collaboration,
    /// A collaboration and one of its organizations that has no node there.
    Place,
    Study,
    Node,
    /// A link to one, for one collaboration.
    AlgorithmStore,
    User,
    /// The caller's account.
    Account,
    Role,
    Task,
    Run,
    /// An upload that has begun, by who began it.
    Upload,
    /// A payload that belongs to a run.
    Payload,
    Nothing,
}

/// A thing.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    pub(crate) id: i64,
    pub(crate) organization: i64,
    pub(crate) collaboration: i64,
    /// A task's run or a run's task, a collaboration's node.
    pub(crate) other: i64,
    /// Whose it is, if the caller must be somebody in particular.
    token: Option<String>,
    /// What stands in its path, if not its id.
    name: Option<String>,
    pub(crate) certificate: Option<Value>,
}

impl Thing {
    fn new(id: i64, organization: i64, collaboration: i64) -> Self {
        Self { id, organization, collaboration, other: 0, token: None, name: None, certificate: None }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allowed,
    Refused,
    /// Something else, which says nothing about permissions.
    Unclear(String),
}

pub(crate) struct World {
    pub(crate) federation: Federation,
    /// A collaboration of strangers.
    elsewhere: Member,
    elsewhere_id: i64,
    pub(crate) container: String,
    container_task: i64,
    container_run: i64,
    tokens: BTreeMap<i64, String>,
    things: BTreeMap<(Kind, Relation, i64), Thing>,
    next: AtomicI64,
    /// Takes every coordinator for its own.
    store: AlgorithmStore,
}

impl World {
    pub(crate) async fn new() -> Self {
        let settings = |config: &mut twinmesh_coordinator::config::Config| {
            config.limits.status_hold = Span(Duration::from_millis(1));
            config.algorithm_stores.allow_local = true;
        };
        let federation = Federation::with(2, false, settings).await;
        let strangers = federation.add_organizations("stranger", 1).await;
        let (elsewhere_id, elsewhere) = federation.add_collaboration("elsewhere", &strangers, false).await;
        let task = federation.task(&[0, 1]).await;
        let container = federation.container(0, id(&task)).await;
        let run = id(&federation.run(id(&task), 0).await);
        let mut tokens = BTreeMap::new();
        for role in ROLES.into_iter().chain([RULELESS]).filter(|role| role.is_user()) {
            let name = format!("caller-{}", role.id);
            let roles: Vec<i64> = Some(role.id).filter(|id| *id > 0).into_iter().collect();
            federation.add_user(&name, federation.members[0].organization, &roles).await;
            tokens.insert(role.id, federation.log_in(&name).await);
        }
        Self {
            elsewhere: elsewhere[0].clone(),
            elsewhere_id,
            container,
            container_task: id(&task),
            container_run: run,
            tokens,
            things: BTreeMap::new(),
            next: AtomicI64::new(1),
            store: AlgorithmStore::start(Manner::Well).await,
            federation,
        }
    }

    /// The token of a caller with this role.
    pub(crate) fn token(&self, role: Role) -> &str {
        match role.token_kind() {
            "container" => &self.container,
            "node" => &self.federation.members[0].node_token,
            _ => &self.tokens[&role.id],
        }
    }

    /// Asks for an operation on a thing in this relation; nothing when there is no such thing.
    pub(crate) async fn ask(&mut self, operation: &Operation, role: Role, relation: Relation) -> Option<Outcome> {
        // What belongs to one caller is made for each; the rest is shared by those of a kind.
        let owner = if relation == Relation::Own { role.id } else { i64::from(role.is_user()) };
        let key = (operation.kind, relation, owner);
        let thing = match self.things.get(&key) {
            Some(thing) => thing.clone(),
            None => {
                let thing = self.make(operation.kind, role, relation).await?;
                self.things.insert(key, thing.clone());
                thing
            }
        };
        let token = thing.token.clone().unwrap_or_else(|| self.token(role).to_owned());
        let ask = (operation.ask)(&thing, &self.fresh("name"));
        let (status, body) = self.send(operation, Some(&token), &thing, &ask).await;
        let outcome = match status {
            401 | 403 => Outcome::Refused,
            // A list tells by what it holds.
            200 if operation.is_list => {
                let data = body["data"].as_array().cloned().unwrap_or_default();
                let shows = |item: &Value| item["id"] == thing.id || item["node_id"] == thing.id;
                if data.iter().any(shows) { Outcome::Allowed } else { Outcome::Refused }
            }
            200..=299 => Outcome::Allowed,
            status if operation.answers == Some(status) => Outcome::Allowed,
            // Whoever may change roles is told that this one stays as it is.
            400 if body["code"] == "built_in_role" => Outcome::Refused,
            404 if operation.hides => Outcome::Refused,
            status => Outcome::Unclear(format!("{status} {body}")),
        };
        // Changed things are not used again.
        if outcome != Outcome::Refused && operation.method != Method::GET && operation.kind != Kind::Nothing {
            self.things.remove(&key);
        }
        Some(outcome)
    }

    /// Sends a request as it is.
    pub(crate) async fn send(
        &self,
        operation: &Operation,
        token: Option<&str>,
        thing: &Thing,
        ask: &Ask,
    ) -> (u16, Value) {
        let name = thing.name.clone().unwrap_or_else(|| thing.id.to_string());
        let path = operation.path.replace("{id}", &name).replace("{rule_id}", "3");
        let mut request = Request::builder().method(operation.method.clone()).uri(format!("{path}{}", ask.query));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(ask.body.clone())).unwrap();
        let response = self.federation.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        // A stream of events does not end.
        if response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream") {
            return (status, Value::Null);
        }
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// A thing for requests that are to be refused whatever it is.
    pub(crate) async fn any(&mut self, operation: &Operation) -> Thing {
        for relation in Relation::ALL {
            if let Some(thing) = self.make(operation.kind, ROLES[0], relation).await {
                return thing;
            }
        }
        panic!("there is no {:?}", operation.kind);
    }

    fn fresh(&self, word: &str) -> String {
        format!("{word}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    async fn make(&self, kind: Kind, role: Role, relation: Relation) -> Option<Thing> {
        use Relation::{BuiltIn, Foreign, Nothing, Ours, Own, Shared};
        let [us, partner] = [&self.federation.members[0], &self.federation.members[1]];
        let (ours, theirs, stranger) = (us.organization, partner.organization, self.elsewhere.organization);
        let main = self.federation.collaboration;
        let owner = match relation {
            Own | Ours | BuiltIn | Nothing => ours,
            Shared => theirs,
            Foreign => stranger,
        };
        Some(match (kind, relation) {
            (Kind::Nothing, Nothing) => Thing::new(1, ours, main),
            (Kind::Nothing, _) | (_, Nothing) => return None,

            (Kind::Organization, Ours) => Thing::new(ours, ours, main),
            (Kind::Organization, Shared) if role.is_user() => {
                let made = self.federation.add_organizations(&self.fresh("partner"), 1).await[0];
                let path = format!("/collaboration/{main}/organization");
                self.federation.post(&self.federation.root, &path, json!({"id": made})).await.expect(200);
                Thing::new(made, made, main)
            }
            (Kind::Organization, Shared) => Thing::new(theirs, theirs, main),
            (Kind::Organization, Foreign) => {
                let made = self.federation.add_organizations(&self.fresh("foreign"), 1).await[0];
                Thing::new(made, made, self.elsewhere_id)
            }
            (Kind::Organization, _) => return None,

            // Daemons have one collaboration.
            (Kind::Collaboration, Ours) if !role.is_user() => {
                Thing { other: partner.node, ..Thing::new(main, ours, main) }
            }
            (Kind::Collaboration, Ours) => self.collaboration(&[ours, theirs], true).await,
            (Kind::Collaboration, Foreign) => self.collaboration(&[stranger], true).await,
            (Kind::Collaboration, _) => return None,

            (Kind::Place, Ours) => self.collaboration(&[ours, theirs], false).await,
            (Kind::Place, Shared) => Thing { organization: theirs, ..self.collaboration(&[ours, theirs], false).await },
            (Kind::Place, Foreign) => self.collaboration(&[stranger], false).await,
            (Kind::Place, _) => return None,

            (Kind::Study, Ours | Shared | Foreign) => {
                let collaboration = if relation == Foreign { self.elsewhere_id } else { main };
                let body = json!({
                    "name": self.fresh("study"), "collaboration_id": collaboration, "organization_ids": [owner],
                });
                let made = self.federation.post(&self.federation.root, "/study", body).await.expect(201);
                Thing::new(id(&made), owner, collaboration)
            }
            (Kind::Study, _) => return None,

            (Kind::Node, Own) if role.name == "node" => {
                Thing { certificate: Some(certificate(us, main)), ..Thing::new(us.node, ours, main) }
            }
            (Kind::Node, Shared) if !role.is_user() => {
                Thing { certificate: Some(certificate(partner, main)), ..Thing::new(partner.node, theirs, main) }
            }
            (Kind::Node, Ours | Shared | Foreign) => {
                let place = match relation {
                    Foreign => self.collaboration(&[stranger], false).await,
                    _ => self.collaboration(&[ours, theirs], false).await,
                };
                let node = self.node(place.id, owner).await;
                let member = match relation {
                    Ours => us,
                    Shared => partner,
                    _ => &self.elsewhere,
                };
                Thing { certificate: Some(certificate(member, place.id)), ..Thing::new(node, owner, place.id) }
            }
            (Kind::Node, _) => return None,

            (Kind::AlgorithmStore, Ours | Foreign) => {
                let collaboration = if relation == Foreign { self.elsewhere_id } else { main };
                let mut body = self.store.body(json!(collaboration));
                body["algorithm_store_url"] = format!("{}/{}", self.store.url, self.fresh("store")).into();
                let made = self.federation.post(&self.federation.root, "/algorithmstore", body).await.expect(201);
                Thing::new(id(&made), owner, collaboration)
            }
            (Kind::AlgorithmStore, _) => return None,

            (Kind::User | Kind::Account, Own) if role.is_user() => {
                let (user, token) = self.user(role).await;
                Thing { token: Some(token), ..Thing::new(user, ours, main) }
            }
            (Kind::User, Ours | Shared | Foreign) => {
                let user = self.federation.add_user(&self.fresh("user"), owner, &[4]).await;
                Thing::new(user, owner, main)
            }
            (Kind::User | Kind::Account, _) => return None,

            (Kind::Role, BuiltIn) => Thing::new(4, ours, main),
            // A role with the same rules, by which alone the caller holds them.
            (Kind::Role, Own) if role.is_user() => {
                let rules = match role.id {
                    0 => Vec::new(),
                    built_in => self.rules(built_in).await,
                };
                let body = json!({"name": self.fresh("role"), "rules": rules, "organization_id": ours});
                let made = id(&self.federation.post(&self.federation.root, "/role", body).await.expect(201));
                let (_, token) = self.user(Role { id: made, ..role }).await;
                Thing { token: Some(token), ..Thing::new(made, ours, main) }
            }
            (Kind::Role, Ours | Shared | Foreign) => {
                let body = json!({"name": self.fresh("role"), "rules": [3], "organization_id": owner});
                let made = self.federation.post(&self.federation.root, "/role", body).await.expect(201);
                Thing::new(id(&made), owner, main)
            }
            (Kind::Role, _) => return None,

            (Kind::Task, Own) if role.name == "container" => {
                Thing { other: self.container_run, ..Thing::new(self.container_task, ours, main) }
            }
            (Kind::Run, Own) if role.name == "container" => {
                Thing { other: self.container_task, ..Thing::new(self.container_run, ours, main) }
            }
            (Kind::Task | Kind::Run | Kind::Payload | Kind::Upload, Own) if role.is_user() => {
                // Not every role may make tasks: the user has been more than they are.
                let (user, token) = self.user(Role { id: 5, ..role }).await;
                let thing = self.asked(kind, &token, main, ours).await;
                let roles: Vec<i64> = Some(role.id).filter(|id| *id > 0).into_iter().collect();
                let path = format!("/user/{user}");
                self.federation.patch(&self.federation.root, &path, json!({"roles": roles})).await.expect(200);
                Thing { token: Some(token), ..thing }
            }
            (Kind::Payload, Own) if role.name == "container" => return None,
            (Kind::Upload, Own) => self.upload(self.token(role), main, ours).await,
            // For a node, its own is what it works on.
            (Kind::Task | Kind::Run | Kind::Payload, Own) => self.asked(kind, &us.researcher, main, ours).await,
            (Kind::Task | Kind::Run | Kind::Payload | Kind::Upload, Ours) => {
                let at = if role.is_user() { ours } else { theirs };
                self.asked(kind, &us.researcher, main, at).await
            }
            (Kind::Task | Kind::Run | Kind::Payload | Kind::Upload, Shared) => {
                self.asked(kind, &partner.researcher, main, theirs).await
            }
            (Kind::Task | Kind::Run | Kind::Payload | Kind::Upload, Foreign) => {
                self.asked(kind, &self.elsewhere.researcher, self.elsewhere_id, stranger).await
            }
            (Kind::Task | Kind::Run | Kind::Payload | Kind::Upload, BuiltIn) => return None,
        })
    }

    async fn collaboration(&self, members: &[i64], with_node: bool) -> Thing {
        let body = json!({"name": self.fresh("collaboration"), "organization_ids": members, "encrypted": false});
        let made = id(&self.federation.post(&self.federation.root, "/collaboration", body).await.expect(200));
        let other = if with_node { self.node(made, members[members.len() - 1]).await } else { 0 };
        Thing { other, ..Thing::new(made, members[0], made) }
    }

    async fn node(&self, collaboration: i64, organization: i64) -> i64 {
        let body = json!({
            "name": self.fresh("node"), "collaboration_id": collaboration, "organization_id": organization,
        });
        id(&self.federation.post(&self.federation.root, "/node", body).await.expect(201))
    }

    async fn rules(&self, role: i64) -> Vec<i64> {
        let path = format!("/rule?role_id={role}&no_pagination=1");
        let rules = self.federation.get(&self.federation.root, &path).await.expect(200);
        rules["data"].as_array().unwrap().iter().map(id).collect()
    }

    async fn user(&self, role: Role) -> (i64, String) {
        let name = self.fresh("own");
        let roles: Vec<i64> = Some(role.id).filter(|id| *id > 0).into_iter().collect();
        let user = self.federation.add_user(&name, self.federation.members[0].organization, &roles).await;
        (user, self.federation.log_in(&name).await)
    }

    /// What somebody asks of an organization: a task, its run, its input, or an upload that may become one.
    async fn asked(&self, kind: Kind, token: &str, collaboration: i64, organization: i64) -> Thing {
        if kind == Kind::Upload {
            return self.upload(token, collaboration, organization).await;
        }
        let mut body = task_body(collaboration, organization);
        let name = if kind == Kind::Payload {
            let name = self.send_bytes(token, &[], plain().into()).await;
            body["organizations"][0]["input"] = json!(name);
            Some(name)
        } else {
            None
        };
        let task = id(&self.federation.post(token, "/task", body).await.expect(201));
        let runs = self.federation.get(&self.federation.root, &format!("/run?task_id={task}")).await.expect(200);
        let run = id(&runs["data"][0]);
        let (id, other) = if kind == Kind::Run { (run, task) } else { (task, run) };
        Thing { other, name, ..Thing::new(id, organization, collaboration) }
    }

    async fn upload(&self, token: &str, collaboration: i64, organization: i64) -> Thing {
        let name = self.send_bytes(token, &[("upload-complete", "?0")], b"part".into()).await;
        Thing { name: Some(name), ..Thing::new(0, organization, collaboration) }
    }

    async fn send_bytes(&self, token: &str, headers: &[(&str, &str)], bytes: Vec<u8>) -> String {
        let (status, _, body) =
            self.federation.send(Method::POST, "/blobstream", token, headers, Body::from(bytes)).await;
        assert_eq!(status.as_u16(), 201, "{body:?}");
        serde_json::from_slice::<Value>(&body).unwrap()["uuid"].as_str().unwrap().to_owned()
    }
}

/// A task at one organization.
pub(crate) fn task_body(collaboration: i64, organization: i64) -> Value {
    json!({
        "name": "a task", "image": crate::ledger::federation::IMAGE, "description": "",
        "collaboration_id": collaboration, "organizations": [{"id": organization, "input": plain()}],
        "databases": [{"label": "default"}],
    })
}

fn certificate(member: &Member, collaboration: i64) -> Value {
    let certificate = NodeCertificate {
        version: CERTIFICATE_VERSION,
        organization_id: OrganizationId::new(member.organization),
        collaboration_id: CollaborationId::new(collaboration),
        node_key: OrganizationKey::from_seed(&[77; 32]).public(),
        issued_at: 1_700_000_000,
        not_after: 1_900_000_000,
    };
    json!({"certificate": Signed::sign(&certificate, &member.key).unwrap(), "addresses": ["/ip4/127.0.0.1/tcp/4001"]})
}
