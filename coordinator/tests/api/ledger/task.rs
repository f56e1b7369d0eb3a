use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::manifest::{Delegation, MANIFEST_VERSION, Nonce, Receiver, TaskManifest};
use twinmesh_protocol::payload::to_text;
use twinmesh_protocol::signed::Signed;
use twinmesh_protocol::wire::TaskDatabase;

use super::federation::{DEADLINE, Federation, IMAGE, id, plain, sealed};

#[tokio::test]
async fn a_task_has_the_contracts_shape() {
    let federation = Federation::new(2, false).await;
    let mut body = federation.task_body(&[0, 1]);
    body["databases"] = json!([{"label": "default", "query": "select 1"}, {"label": "two"}]);
    let researcher = &federation.members[0].researcher;
    let task = federation.post(researcher, "/task", body).await.expect(201);
    let task_id = id(&task);
    assert_eq!(task["status"], "pending");
    assert_eq!(task["finished_at"], Value::Null);
    assert_eq!(task["image"], IMAGE);
    assert_eq!(task["parent"], Value::Null);
    assert_eq!(task["collaboration"]["link"], format!("/api/collaboration/{}", federation.collaboration));
    assert_eq!(task["init_org"]["id"], federation.members[0].organization);
    assert!(task["init_user"]["id"].is_i64() && task["job_id"].is_i64());
    assert_eq!(task["runs"], format!("/api/run?task_id={task_id}"));
    assert_eq!(task["results"], format!("/api/result?task_id={task_id}"));
    assert_eq!(task["children"], format!("/api/task?parent_id={task_id}"));
    assert_eq!(task["databases"][0], json!({"label": "default", "parameters": "{\"query\":\"select 1\"}"}));
    assert_eq!(task["databases"][1], json!({"label": "two", "parameters": "{}"}));

    let path = format!("/task/{task_id}?include=runs,results");
    let whole = federation.get(researcher, &path).await.expect(200);
    let runs = whole["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert!(runs[0].get("result").is_none());
    assert_eq!(runs[0]["input"], plain());
    assert_eq!(runs[0]["organization"]["id"], federation.members[1].organization, "newest first");
    assert_eq!(runs[0]["node"]["id"], federation.members[1].node);
    assert_eq!(whole["results"][0]["result"], Value::Null);
}

#[tokio::test]
async fn a_bad_task_is_refused_with_the_reason() {
    let federation = Federation::new(2, false).await;
    let researcher = &federation.members[0].researcher;
    let strangers = federation.add_organizations("stranger", 1).await;
    let base = federation.task_body(&[0]);
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    let organization = federation.members[0].organization;
    let entry = json!({"id": organization, "input": plain()});
    for (body, status, text) in [
        (with("foo", json!(1)), 400, "Unknown field"),
        (with("image", json!("")), 400, "image"),
        (with("name", json!("12")), 400, "name"),
        (with("organizations", json!([])), 400, "organizations"),
        (with("organizations", json!([entry, entry])), 400, "more than once"),
        (with("organizations", json!([{"id": organization}])), 400, "missing"),
        (with("organizations", json!([{"id": organization, "input": "*"}])), 400, "neither base64"),
        (with("organizations", json!([{"id": strangers[0], "input": plain()}])), 400, "not within collaboration"),
        (with("databases", json!([{"label": "x", "uri": "y"}])), 400, "Unknown field"),
        (with("collaboration_id", json!(99)), 404, "Collaboration id=99 not found!"),
        (with("study_id", json!(99)), 404, "Study id=99 not found"),
        (with("store_id", json!(99)), 400, "Algorithm store id=99"),
        (with("collaboration_id", Value::Null), 400, "_schema"),
    ] {
        let answer = federation.post(researcher, "/task", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body} {}", answer.body);
        assert!(answer.body.to_string().contains(text), "{body} {}", answer.body);
        assert!(!answer.msg().is_empty());
    }
    assert_eq!(federation.get(researcher, "/task").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn only_those_who_may_create_tasks_do() {
    let federation = Federation::new(2, false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    federation.add_user("viewer", federation.members[0].organization, &[4]).await;
    federation.add_user("stranger", strangers[0], &[5]).await;
    let (viewer, stranger) = (federation.log_in("viewer").await, federation.log_in("stranger").await);
    let node = federation.members[0].node_token.clone();
    for token in [&viewer, &stranger, &node, &federation.root] {
        let answer = federation.post(token, "/task", federation.task_body(&[0])).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.body);
    }
    let none = federation.ask(Method::POST, "/task", None, Some(federation.task_body(&[0])), &[]).await;
    assert_eq!((none.status.as_u16(), none.msg()), (401, "Missing Authorization Header"));
}

#[tokio::test]
async fn who_is_not_in_the_collaboration_sees_no_task_of_it() {
    let federation = Federation::new(2, false).await;
    let others = federation.add_organizations("other", 1).await;
    let (_, others) = federation.add_collaboration("others", &others, false).await;
    let task = federation.task(&[0, 1]).await;
    let run = federation.run(id(&task), 0).await;
    for token in [&others[0].researcher, &others[0].node_token] {
        for path in [
            format!("/task/{}", id(&task)),
            format!("/task/{}/status", id(&task)),
            format!("/task/{}?include=results", id(&task)),
            format!("/run/{}", id(&run)),
            format!("/result/{}", id(&run)),
            format!("/task?collaboration_id={}", federation.collaboration),
            format!("/run?collaboration_id={}", federation.collaboration),
            format!("/result?organization_id={}", federation.members[0].organization),
        ] {
            assert_eq!(federation.get(token, &path).await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        for path in ["/task", "/run", "/result", &format!("/run?task_id={}", id(&task))] {
            assert_eq!(federation.get(token, path).await.expect(200)["data"], json!([]), "{path}");
        }
        let answer = federation.patch(token, &format!("/run/{}", id(&run)), json!({"status": "active"})).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let answer = federation.delete(token, &format!("/task/{}", id(&task))).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn inputs_are_encrypted_where_the_collaboration_is_and_nowhere_else() {
    for (encrypted, good, bad) in [(true, sealed(), plain()), (false, plain(), sealed())] {
        let federation = Federation::new(1, encrypted).await;
        let researcher = &federation.members[0].researcher;
        let mut body = federation.task_body(&[0]);
        body["organizations"][0]["input"] = bad.into();
        let refused = federation.post(researcher, "/task", body.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(refused.msg().contains("encrypted"), "{}", refused.msg());
        body["organizations"][0]["input"] = good.into();
        federation.post(researcher, "/task", body).await.expect(201);
    }
}

#[tokio::test]
async fn a_request_repeated_under_its_key_makes_one_task() {
    let federation = Federation::new(2, false).await;
    let body = federation.task_body(&[0, 1]);
    let ask = async |token: &str, key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        federation.ask(Method::POST, "/task", Some(token), Some(body.clone()), &headers).await
    };
    let [first, second] = [&federation.members[0].researcher, &federation.members[1].researcher];
    let task = ask(first, "k", &body).await.expect(201);
    assert_eq!(id(&ask(first, "k", &body).await.expect(200)), id(&task));
    assert_ne!(id(&ask(first, "other", &body).await.expect(201)), id(&task));
    assert_ne!(id(&ask(second, "k", &body).await.expect(201)), id(&task), "a key is its caller's own");
    let with = |change: fn(&mut Value)| {
        let mut other = body.clone();
        change(&mut other);
        other
    };
    for other in [
        with(|body| body["name"] = "another".into()),
        with(|body| body["organizations"][1]["input"] = to_text(br#"{"method": "n"}"#).into()),
        with(|body| body["organizations"][1]["input"] = to_text(br#"{"method": "another"}"#).into()),
        with(|body| drop(body["organizations"].as_array_mut().unwrap().pop())),
        with(|body| body["organizations"].as_array_mut().unwrap().reverse()),
    ] {
        assert_eq!(ask(first, "k", &other).await.status, StatusCode::CONFLICT, "{other}");
    }
    assert_eq!(ask(first, "", &body).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn requests_under_one_key_at_the_same_time_make_one_task() {
    let federation = Arc::new(Federation::new(2, false).await);
    let requests = (0..8).map(|_| {
        let federation = Arc::clone(&federation);
        tokio::spawn(async move {
            let body = federation.task_body(&[0, 1]);
            let token = federation.members[0].researcher.clone();
            let headers = [("idempotency-key", "k")];
            let answer = federation.ask(Method::POST, "/task", Some(&token), Some(body), &headers).await;
            (answer.status.as_u16(), id(&answer.body))
        })
    });
    let answers: Vec<_> = futures::future::join_all(requests).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|(_, task)| *task == answers[0].1), "{answers:?}");
}

pub(super) fn manifest(federation: &Federation, inputs: &[(i64, String)]) -> TaskManifest {
    TaskManifest {
        version: MANIFEST_VERSION,
        collaboration_id: CollaborationId::new(federation.collaboration),
        image: IMAGE.into(),
        function: "central".into(),
        databases: vec![TaskDatabase { label: "default".into(), parameters: "{}".into() }],
        receivers: inputs
            .iter()
            .map(|(organization, input)| Receiver {
                organization_id: OrganizationId::new(*organization),
                input_sha256: Digest::of(input.as_bytes()),
            })
            .collect(),
        initiator: OrganizationId::new(federation.members[0].organization),
        user_id: None,
        parent: None,
        delegation: Some(Delegation {
            functions: ["partial".to_owned()].into(),
            organizations: federation.members.iter().map(|member| OrganizationId::new(member.organization)).collect(),
        }),
        nonce: Nonce::new([7; 16]),
        issued_at: 1_800_000_000,
        not_after: 1_800_003_600,
    }
}

pub(super) fn sign(manifest: &TaskManifest, key: &OrganizationKey) -> Value {
    serde_json::to_value(Signed::sign(manifest, key).unwrap()).unwrap()
}

pub(super) fn encrypted_body(federation: &Federation, inputs: &[(i64, String)], manifest: Value) -> Value {
    let mut body = federation.task_body(&[]);
    body["organizations"] = inputs.iter().map(|(id, input)| json!({"id": id, "input": input})).collect();
    body["manifest"] = manifest;
    body
}

#[tokio::test]
async fn a_manifest_must_say_what_the_task_says() {
    let federation = Federation::new(3, true).await;
    let [asking, first, second] = [0, 1, 2].map(|at| &federation.members[at]);
    let inputs = vec![(first.organization, sealed())];
    let good = manifest(&federation, &inputs);
    let with = |change: fn(&mut TaskManifest)| {
        let mut changed = good.clone();
        change(&mut changed);
        sign(&changed, &asking.key)
    };
    let mut more = good.clone();
    more.receivers
        .push(Receiver { organization_id: OrganizationId::new(second.organization), input_sha256: Digest::of(b"x") });
    let mut forged = sign(&good, &asking.key);
    forged["signature"] = sign(&more, &asking.key)["signature"].clone();
    for (manifest, text) in [
        (with(|manifest| manifest.image = "other".into()), "image"),
        (with(|manifest| manifest.collaboration_id = CollaborationId::new(9)), "collaboration"),
        (with(|manifest| manifest.receivers.clear()), "receiver"),
        (with(|manifest| manifest.receivers[0].input_sha256 = Digest::of(b"other")), "input"),
        (with(|manifest| manifest.initiator = OrganizationId::new(9)), "signed as organization 9"),
        (with(|manifest| manifest.databases.clear()), "databases"),
        (with(|manifest| manifest.parent = Some(Digest::of(b"x"))), "parent"),
        (with(|manifest| manifest.not_after = 1_700_000_000), "expired"),
        (with(|manifest| manifest.issued_at = 1_900_000_000), "future"),
        (with(|manifest| manifest.version = 9), "version"),
        (sign(&more, &asking.key), "receiver"),
        (sign(&good, &first.key), "expected"),
        (forged, "signature"),
    ] {
        let body = encrypted_body(&federation, &inputs, manifest);
        let answer = federation.post(&asking.researcher, "/task", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{text}: {}", answer.body);
        assert!(answer.msg().contains(text), "{text}: {}", answer.msg());
    }

    let body = encrypted_body(&federation, &inputs, sign(&good, &asking.key));
    let task = federation.post(&asking.researcher, "/task", body.clone()).await.expect(201);
    assert_eq!(task["manifest"], body["manifest"]);
    let again = federation.post(&asking.researcher, "/task", body.clone()).await.expect(200);
    assert_eq!(id(&again), id(&task), "a manifest makes one task");
    let mut renamed = body;
    renamed["name"] = "another".into();
    assert_eq!(federation.post(&asking.researcher, "/task", renamed.clone()).await.status, StatusCode::CONFLICT);
    assert_eq!(federation.post(&first.researcher, "/task", renamed).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_subtask_stays_within_its_parents_manifest() {
    let federation = Federation::new(3, true).await;
    let [asking, central, partial] = [0, 1, 2].map(|at| &federation.members[at]);
    let inputs = vec![(central.organization, sealed())];
    let parent = Signed::sign(&manifest(&federation, &inputs), &asking.key).unwrap();
    let body = encrypted_body(&federation, &inputs, serde_json::to_value(&parent).unwrap());
    let task = federation.post(&asking.researcher, "/task", body).await.expect(201);
    let container = federation.container(1, id(&task)).await;

    let inputs = vec![(partial.organization, sealed())];
    let good = TaskManifest {
        function: "partial".into(),
        initiator: OrganizationId::new(central.organization),
        parent: Some(parent.digest()),
        delegation: None,
        nonce: Nonce::new([8; 16]),
        ..manifest(&federation, &inputs)
    };
    let beyond = TaskManifest { function: "other".into(), ..good.clone() };
    let orphan = TaskManifest { parent: None, ..good.clone() };
    for (manifest, text) in [(beyond, "function `other`"), (orphan, "parent")] {
        let body = encrypted_body(&federation, &inputs, sign(&manifest, &central.key));
        let answer = federation.post(&container, "/task", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.msg().contains(text), "{}", answer.msg());
    }
    let body = encrypted_body(&federation, &inputs, sign(&good, &central.key));
    let subtask = federation.post(&container, "/task", body).await.expect(201);
    assert_eq!(subtask["parent"]["id"], task["id"]);
}

#[tokio::test]
async fn an_algorithm_makes_subtasks_in_the_name_of_its_organization() {
    let federation = Federation::new(3, false).await;
    let task = federation.task(&[1]).await;
    let container = federation.container(1, id(&task)).await;
    let subtask = federation.post(&container, "/task", federation.task_body(&[0, 2])).await.expect(201);
    assert_eq!(subtask["parent"]["id"], task["id"]);
    assert_eq!(subtask["job_id"], task["job_id"]);
    assert_eq!(subtask["init_org"]["id"], federation.members[1].organization);
    assert_eq!(subtask["init_user"], task["init_user"]);

    let mut other = federation.task_body(&[0]);
    other["image"] = "registry.example.org/other:1".into();
    let answer = federation.post(&container, "/task", other).await;
    assert_eq!((answer.status.as_u16(), answer.msg()), (401, "Container-token is not valid"));

    let children = federation.get(&federation.root, &format!("/task?parent_id={}", id(&task))).await.expect(200);
    assert_eq!(children["data"][0]["id"], subtask["id"]);
    for (query, expected) in [("is_user_created=0", &subtask), ("is_user_created=1", &task)] {
        let list = federation.get(&federation.root, &format!("/task?{query}")).await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
        assert_eq!(list["data"][0]["id"], expected["id"], "{query}");
    }
}

#[tokio::test]
async fn results_of_fifteen_organizations_come_at_once_newest_first() {
    let federation = Federation::new(15, false).await;
    let all: Vec<usize> = (0..15).collect();
    let task = federation.task(&all).await;
    for member in all {
        let run = federation.run(id(&task), member).await;
        let result = twinmesh_protocol::payload::to_text(format!("{member}").as_bytes());
        let body = json!({"status": "completed", "result": result});
        federation.report(member, &run, body).await.expect(200);
    }
    for noun in ["result", "run"] {
        let list = federation.get(&federation.members[0].researcher, &format!("/{noun}?task_id={}", id(&task))).await;
        assert_eq!(list.headers["total-count"], "15");
        let list = list.expect(200);
        let ids: Vec<i64> = list["data"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(ids.len(), 15);
        assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
        assert!(list["links"].get("next").is_none());
    }
    let page = federation.get(&federation.root, &format!("/result?task_id={0}&task_id={0}&page=1", id(&task))).await;
    let page = page.expect(200);
    assert_eq!(page["data"].as_array().unwrap().len(), 10);
    assert!(page["links"]["next"].is_string());
    let done = federation.get(&federation.root, &format!("/task/{}", id(&task))).await.expect(200);
    assert_eq!(done["status"], "completed");
    assert!(done["finished_at"].is_string());
}

#[tokio::test]
async fn lists_of_tasks_are_filtered() {
    let federation = Federation::new(2, false).await;
    let mut ids = Vec::new();
    for (status, members) in
        [("pending", vec![0, 1]), ("active", vec![0, 1]), ("crashed", vec![0, 1]), ("completed", vec![0])]
    {
        let task = federation.task(&members).await;
        if status != "pending" {
            let run = federation.run(id(&task), 0).await;
            federation
                .report(0, &run, json!({"status": status, "started_at": "2026-11-23T02:21:12"}))
                .await
                .expect(200);
        }
        assert_eq!(federation.status(id(&task)).await, if status == "crashed" { "failed" } else { status });
        ids.push(id(&task));
    }
    // The sibling that nobody started failed too, so the two failures differ.
    let statuses = ["pending", "active", "failed", "completed"];
    for (status, task) in statuses.into_iter().zip(&ids) {
        let list = federation.get(&federation.root, &format!("/task?status={status}")).await.expect(200);
        let found: Vec<i64> = list["data"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(found, [*task], "{status}");
    }
    let run = federation.run(ids[0], 1).await;
    let organization = federation.members[0].organization;
    for (query, count) in [
        ("name=a%25".to_owned(), 4),
        ("name=b%25".to_owned(), 0),
        (format!("image={IMAGE}"), 4),
        ("database=default".to_owned(), 4),
        ("database=none".to_owned(), 0),
        (format!("run_id={}", id(&run)), 1),
        (format!("init_org_id={organization}"), 4),
        (format!("init_org_id={}", federation.members[1].organization), 0),
        (format!("collaboration_id={}", federation.collaboration), 4),
        ("sort=id&per_page=3".to_owned(), 3),
    ] {
        let list = federation.get(&federation.root, &format!("/task?{query}")).await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), count, "{query}");
    }
    for query in [
        "study_id=9",
        "parent_id=9",
        "job_id=99",
        "run_id=99",
        "store_id=9",
        "init_user_id=99",
        "status=x",
        "sort=x",
        "page=0",
    ] {
        let answer = federation.get(&federation.root, &format!("/task?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_held_status_answers_the_moment_the_last_run_ends() {
    let federation = Arc::new(Federation::new(2, false).await);
    let task = federation.task(&[0, 1]).await;
    let held = {
        let (federation, path) = (Arc::clone(&federation), format!("/task/{}/status", id(&task)));
        tokio::spawn(async move {
            let asked = tokio::time::Instant::now();
            let answer = federation.get(&federation.members[0].researcher, &path).await.expect(200);
            (answer, asked.elapsed())
        })
    };
    let completed = json!({"status": "completed", "result": plain()});
    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, completed.clone()).await.expect(200);
    let run = federation.run(id(&task), 1).await;
    assert!(!held.is_finished());
    federation.report(1, &run, completed).await.expect(200);
    let (answer, waited) = tokio::time::timeout(DEADLINE, held).await.unwrap().unwrap();
    assert_eq!(answer, json!({"status": "completed"}));
    assert!(waited < Duration::from_secs(14), "{waited:?}");
    let at_once = federation.get(&federation.root, &format!("/task/{}/status", id(&task))).await.expect(200);
    assert_eq!(at_once, json!({"status": "completed"}));
}

#[tokio::test]
async fn a_hold_that_is_over_tells_the_status_as_it_is() {
    let hold = twinmesh_coordinator::config::Span(Duration::from_millis(50));
    let federation = Federation::with(1, false, |config| config.limits.status_hold = hold).await;
    let task = federation.task(&[0]).await;
    let path = format!("/task/{}/status", id(&task));
    let answer = federation.get(&federation.members[0].researcher, &path).await.expect(200);
    assert_eq!(answer, json!({"status": "pending"}));
    assert_eq!(federation.get(&federation.root, "/task/99/status").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_deleted_task_takes_its_subtasks_along_and_its_nodes_are_told() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0]).await;
    let container = federation.container(0, id(&task)).await;
    let subtask = federation.post(&container, "/task", federation.task_body(&[1])).await.expect(201);
    let run = federation.run(id(&subtask), 1).await;
    let mut events = federation.follow(&federation.members[1].node_token, "latest").await;
    let path = format!("/task/{}", id(&task));
    let other = federation.delete(&federation.members[1].researcher, &path).await;
    assert_eq!(other.status, StatusCode::UNAUTHORIZED, "a researcher deletes tasks of the own organization");
    federation.delete(&federation.members[0].researcher, &path).await.expect(200);
    for path in [path, format!("/task/{}", id(&subtask)), format!("/run/{}", id(&run))] {
        assert_eq!(federation.get(&federation.root, &path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let killed = events.until(|event| event.kind == "kill_requested").await;
    assert_eq!(killed[killed.len() - 1].data["run_id"], run["id"]);
}

#[tokio::test]
async fn what_the_task_of_a_study_makes_stays_in_the_study() {
    let federation = Federation::new(3, false).await;
    let [first, second, third] = [0, 1, 2].map(|at| federation.members[at].organization);
    let study = async |name: &str, members: &[i64]| {
        let body = json!({"name": name, "collaboration_id": 1, "organization_ids": members});
        id(&federation.post(&federation.root, "/study", body).await.expect(201))
    };
    let (ours, other) = (study("ours", &[first, second]).await, study("other", &[first, second, third]).await);
    let mut body = federation.task_body(&[0]);
    body["study_id"] = ours.into();
    let task = id(&federation.post(&federation.members[0].researcher, "/task", body).await.expect(201));
    let container = federation.container(0, task).await;

    // A request that names the collaboration only.
    let key = [("idempotency-key", "once")];
    let body = federation.task_body(&[1]);
    let subtask = federation.ask(Method::POST, "/task", Some(&container), Some(body.clone()), &key).await.expect(201);
    assert_eq!(subtask["study"]["id"], ours);
    let again = federation.ask(Method::POST, "/task", Some(&container), Some(body), &key).await.expect(200);
    assert_eq!(id(&again), id(&subtask));
    // As stock algorithms say it.
    let mut body = federation.task_body(&[0, 1]);
    body["study_id"] = ours.into();
    federation.post(&container, "/task", body.clone()).await.expect(201);

    let outside = federation.post(&container, "/task", federation.task_body(&[1, 2])).await.expect(400);
    assert_eq!(outside["code"], "outside_study");
    body["study_id"] = other.into();
    assert_eq!(federation.post(&container, "/task", body).await.expect(401)["code"], "container_token");
}
