//! How each operation of the interface is asked for. An operation of the document that is missing here fails a test.

use axum::http::Method;
use serde_json::{Value, json};

use super::world::{Kind, Thing, task_body};
use crate::ledger::federation::{IMAGE, PASSWORD};

/// Operations that ask for no token of a user, node or container.
pub(crate) const PUBLIC: [(Method, &str); 13] = [
    (Method::GET, "/api/docs"),
    (Method::GET, "/api/health"),
    (Method::GET, "/api/health/ready"),
    (Method::GET, "/api/openapi.json"),
    (Method::GET, "/api/version"),
    (Method::GET, "/robots.txt"),
    (Method::POST, "/api/recover/2fa/lost"),
    (Method::POST, "/api/recover/2fa/reset"),
    (Method::POST, "/api/recover/lost"),
    (Method::POST, "/api/recover/reset"),
    (Method::POST, "/api/token/node"),
    (Method::POST, "/api/token/refresh"),
    (Method::POST, "/api/token/user"),
];

/// What is sent besides method and path.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    pub(crate) query: String,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) body: Vec<u8>,
}

/// What is sent about a thing; the text is a name that nothing has.
pub(crate) type Asks = Box<dyn Fn(&Thing, &str) -> Ask + Send + Sync>;

pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// What sets this way of asking apart from others of the same operation.
    pub(crate) note: &'static str,
    pub(crate) kind: Kind,
    /// Whether the answer tells by what it holds.
    pub(crate) is_list: bool,
    /// What else it answers who may.
    pub(crate) answers: Option<u16>,
    /// Whether it tells who may not that there is no such thing.
    pub(crate) hides: bool,
    pub(crate) ask: Asks,
}

impl Operation {
    fn new(method: Method, path: &str, kind: Kind) -> Self {
        let ask = Box::new(|_: &Thing, _: &str| Ask::default());
        Self { method, path: format!("/api{path}"), note: "", kind, is_list: false, answers: None, hides: false, ask }
    }

    fn body(self, body: impl Fn(&Thing, &str) -> Value + Send + Sync + 'static) -> Self {
        let ask = move |thing: &Thing, name: &str| Ask { body: body(thing, name).to_string().into(), ..Ask::default() };
        Self { ask: Box::new(ask), ..self }
    }

    fn query(self, query: impl Fn(&Thing) -> String + Send + Sync + 'static) -> Self {
        Self { ask: Box::new(move |thing, _| Ask { query: query(thing), ..Ask::default() }), ..self }
    }

    /// Bytes that are no JSON.
    fn bytes(self, headers: &'static [(&'static str, &'static str)], body: &'static [u8]) -> Self {
        Self { ask: Box::new(move |_, _| Ask { headers, body: body.into(), ..Ask::default() }), ..self }
    }

    fn hides(self) -> Self {
        Self { hides: true, ..self }
    }

    fn note(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    /// Method and path, and the note.
    pub(crate) fn name(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!("{:<6} {}{note}", self.method.as_str(), self.path.trim_start_matches("/api"))
    }
}

fn get(path: &str, kind: Kind) -> Operation {
    Operation::new(Method::GET, path, kind)
}

fn list(path: &str, kind: Kind) -> Operation {
    Operation { is_list: true, ..get(path, kind).query(|_| "?per_page=1000".into()) }
}

fn post(path: &str, kind: Kind) -> Operation {
    Operation::new(Method::POST, path, kind)
}

fn patch(path: &str, kind: Kind) -> Operation {
    Operation::new(Method::PATCH, path, kind).body(|_, name| json!({"name": name}))
}

fn delete(path: &str, kind: Kind) -> Operation {
    Operation::new(Method::DELETE, path, kind)
}

/// Every way to ask, by path.
pub(crate) fn table() -> Vec<Operation> {
    use Kind::{
        Account, AlgorithmStore, Collaboration, Node, Nothing, Organization, Payload, Place, Role, Run, Study, Task,
        Upload, User,
    };
    let dependents = |_: &Thing| "?delete_dependents=true".to_owned();
    let by_id = |thing: &Thing, _: &str| json!({"id": thing.id});
    let organization = |thing: &Thing, _: &str| json!({"id": thing.organization});
    let node = |thing: &Thing, _: &str| json!({"id": thing.other});
    vec![
        list("/algorithmstore", AlgorithmStore),
        // No store is there, which who may link one is told.
        Operation {
            answers: Some(400),
            ..post("/algorithmstore", Place).body(|place, name| {
                json!({
                    "name": name, "algorithm_store_url": "http://127.0.0.1:1/api", "collaboration_id": place.id,
                    "server_url": "https://coordinator.example.org", "force": true,
                })
            })
        },
        get("/algorithmstore/{id}", AlgorithmStore),
        patch("/algorithmstore/{id}", AlgorithmStore),
        delete("/algorithmstore/{id}", AlgorithmStore),
        post("/blobstream", Nothing).bytes(&[("upload-complete", "?0")], b"part"),
        get("/blobstream/{id}", Payload).hides(),
        get("/blobstream/upload/{id}", Upload).hides(),
        patch("/blobstream/upload/{id}", Upload)
            .bytes(&[("upload-offset", "4"), ("upload-complete", "?0")], b"more")
            .hides(),
        delete("/blobstream/upload/{id}", Upload).hides(),
        post("/column", Study).body(|study, name| {
            json!({
                "db_label": name, "collaboration_id": study.collaboration,
                "organizations": task_body(study.collaboration, study.organization)["organizations"],
            })
        }),
        list("/collaboration", Collaboration),
        post("/collaboration", Nothing)
            .body(|thing, name| json!({"name": name, "organization_ids": [thing.organization], "encrypted": false})),
        get("/collaboration/{id}", Collaboration),
        patch("/collaboration/{id}", Collaboration),
        patch("/collaboration/{id}", Collaboration)
            .body(|thing, _| json!({"organization_ids": [thing.organization]}))
            .note("organizations"),
        delete("/collaboration/{id}", Collaboration).query(dependents),
        post("/collaboration/{id}/node", Collaboration).body(node),
        delete("/collaboration/{id}/node", Collaboration).body(node),
        post("/collaboration/{id}/organization", Collaboration).body(organization),
        delete("/collaboration/{id}/organization", Collaboration).body(organization),
        get("/event", Nothing),
        post("/kill/node/tasks", Node).body(by_id),
        post("/kill/task", Task).body(by_id),
        list("/node", Node),
        post("/node", Place).body(
            |place, name| json!({"name": name, "collaboration_id": place.id, "organization_id": place.organization}),
        ),
        get("/node/{id}", Node),
        patch("/node/{id}", Node),
        delete("/node/{id}", Node),
        Operation::new(Method::PUT, "/node/{id}/details", Node).body(|_, name| json!({"allowed_algorithms": [name]})),
        Operation::new(Method::PUT, "/node/{id}/peer", Node)
            .body(|node, _| node.certificate.clone().unwrap_or_default()),
        list("/organization", Organization),
        post("/organization", Nothing).body(|_, name| json!({"name": name})),
        get("/organization/{id}", Organization),
        patch("/organization/{id}", Organization).body(|_, name| json!({"domain": name})),
        patch("/organization/{id}", Organization)
            .body(|_, _| {
                let key = twinmesh_protocol::key::OrganizationKey::from_seed(&[9; 32]);
                json!({"public_key": key.public().to_api()})
            })
            .note("public key"),
        delete("/organization/{id}", Organization).query(dependents),
        get("/organization/{id}/key", Organization),
        get("/overlay", Nothing),
        Operation::new(Method::PATCH, "/password/change", Account)
            .body(|_, _| json!({"current_password": PASSWORD, "new_password": "Another-Horse-2"})),
        get("/peer", Collaboration).query(|thing| format!("?collaboration_id={}", thing.id)),
        post("/port", Run).body(|run, _| json!({"run_id": run.id, "port": 49152, "label": "x"})),
        delete("/port", Run).query(|run| format!("?run_id={}", run.id)),
        post("/recover/node", Node).body(by_id),
        list("/result", Run),
        get("/result/{id}", Run),
        list("/role", Role),
        post("/role", User).body(|user, name| json!({"name": name, "rules": [], "organization_id": user.organization})),
        get("/role/{id}", Role),
        patch("/role/{id}", Role),
        delete("/role/{id}", Role).query(dependents),
        get("/role/{id}/rule", Role),
        post("/role/{id}/rule/{rule_id}", Role),
        delete("/role/{id}/rule/{rule_id}", Role),
        get("/rule", Nothing),
        get("/rule/{id}", Nothing),
        list("/run", Run),
        get("/run/{id}", Run),
        get("/run/{id}", Run).query(|_| "?include=task".into()).note("with its task"),
        patch("/run/{id}", Run).body(|_, _| json!({"status": "initializing"})),
        list("/study", Study),
        post("/study", Study).body(|study, name| {
            json!({
                "name": name, "collaboration_id": study.collaboration, "organization_ids": [study.organization],
            })
        }),
        get("/study/{id}", Study),
        patch("/study/{id}", Study),
        delete("/study/{id}", Study),
        post("/study/{id}/organization", Study).body(organization),
        delete("/study/{id}/organization", Study).body(organization),
        list("/task", Task),
        list("/task", Task).query(|_| "?per_page=1000&include=runs,results".into()).note("with runs and results"),
        post("/task", Study).body(|study, _| task_body(study.collaboration, study.organization)),
        get("/task/{id}", Task),
        get("/task/{id}", Task).query(|_| "?include=runs,results".into()).note("with runs and results"),
        delete("/task/{id}", Task),
        get("/task/{id}/status", Task),
        post("/token/container", Task).body(|task, _| json!({"task_id": task.id, "image": IMAGE})),
        post("/token/node/validate", Nothing),
        post("/token/user/validate", Nothing),
        list("/user", User),
        post("/user", User).body(|user, name| {
            json!({
                "username": name, "password": PASSWORD, "email": format!("{name}@example.org"),
                "organization_id": user.organization, "roles": [],
            })
        }),
        get("/user/{id}", User),
        get("/user/{id}", User).query(|_| "?include_permissions=1".into()).note("with permissions"),
        patch("/user/{id}", User).body(|_, name| json!({"firstname": name})),
        delete("/user/{id}", User).query(dependents),
        get("/blobstream/status", Nothing),
        Operation { answers: Some(501), ..get("/vpn", Nothing) },
        get("/vpn/algorithm/addresses", Nothing),
    ]
}
