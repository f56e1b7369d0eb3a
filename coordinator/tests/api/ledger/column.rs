//! `POST /column`: what nodes have shared, or the task that asks them.

use axum::http::Method;
use serde_json::{Value, json};
use twinmesh_protocol::wire::TaskDatabase;

use super::federation::{Federation, id, plain, sealed};
use super::task::{manifest, sign};

const BASICS: &str = "registry.example.org/basics:1";

async fn federation(members: usize, encrypted: bool) -> Federation {
    Federation::with(members, encrypted, |config| config.basics_image = BASICS.into()).await
}

/// What the stock UI asks, of these members.
fn body(federation: &Federation, members: &[usize], input: &str) -> Value {
    let organizations: Vec<_> =
        members.iter().map(|at| json!({"id": federation.members[*at].organization, "input": input})).collect();
    json!({"db_label": "default", "collaboration_id": federation.collaboration, "organizations": organizations})
}

async fn share(federation: &Federation, member: usize, details: Value) {
    let member = &federation.members[member];
    let path = format!("/node/{}/details", member.node);
    federation.ask(Method::PUT, &path, Some(&member.node_token), Some(details), &[]).await.expect(200);
}

async fn tasks(federation: &Federation) -> usize {
    let tasks = federation.get(&federation.root, "/task").await.expect(200);
    tasks["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn columns_that_a_node_shared_are_told_at_once() {
    let federation = federation(3, false).await;
    let researcher = &federation.members[0].researcher;
    let table = |label: &str, columns: &[&str]| json!({"label": label, "type": "csv", "columns": columns});
    share(&federation, 1, json!({"databases": [table("other", &["x"]), table("default", &["time", "age", "event"])]}))
        .await;
    share(&federation, 2, json!({"databases": [table("default", &["age"])]})).await;

    // One node's word counts for all, in that node's order, whoever is to be asked.
    let answer = federation.post(researcher, "/column", body(&federation, &[0], &plain())).await.expect(200);
    assert_eq!(answer, json!({"columns": ["time", "age", "event"]}));
    let mut other = body(&federation, &[0], &plain());
    other["db_label"] = "other".into();
    let answer = federation.post(researcher, "/column", other.clone()).await.expect(200);
    assert_eq!(answer, json!({"columns": ["x"]}));
    assert_eq!(tasks(&federation).await, 0);

    // What a node takes back is known no more; labels are not patterns.
    share(&federation, 1, json!({})).await;
    let answer = federation.post(researcher, "/column", body(&federation, &[0], &plain())).await.expect(200);
    assert_eq!(answer, json!({"columns": ["age"]}));
    for label in ["other", "defaul_", "%"] {
        other["db_label"] = label.into();
        assert_eq!(federation.post(researcher, "/column", other.clone()).await.status.as_u16(), 201, "{label}");
    }
}

#[tokio::test]
async fn columns_that_no_node_shared_are_asked_for_by_a_task() {
    let federation = federation(2, false).await;
    let researcher = &federation.members[0].researcher;
    // Another collaboration's node does not count.
    let others = federation.add_organizations("other", 1).await;
    let (_, others) = federation.add_collaboration("others", &others, false).await;
    let details = json!({"databases": [{"label": "default", "type": "csv", "columns": ["secret"]}]});
    let path = format!("/node/{}/details", others[0].node);
    federation.ask(Method::PUT, &path, Some(&others[0].node_token), Some(details), &[]).await.expect(200);

    let mut request = body(&federation, &[1], &plain());
    request["query"] = "select 1".into();
    request["sheet_name"] = "".into();
    let key = [("idempotency-key", "once")];
    let ask = || federation.ask(Method::POST, "/column", Some(researcher), Some(request.clone()), &key);
    let task = ask().await.expect(201);
    assert_eq!((&task["image"], &task["name"]), (&json!(BASICS), &json!("get_column_names")));
    assert_eq!(task["databases"], json!([{"label": "default", "parameters": "{\"query\":\"select 1\"}"}]));
    assert_eq!(task["init_org"]["id"], federation.members[0].organization);
    let run = federation.run(id(&task), 1).await;
    assert_eq!((&run["input"], &run["status"]), (&json!(plain()), &json!("pending")));
    assert_eq!(id(&ask().await.expect(200)), id(&task), "a request repeated under its key makes one task");
    let details = json!({"databases": [{"label": "default", "type": "csv", "columns": ["age"]}], "allowed_users": [9]});
    share(&federation, 1, details).await;
    assert_eq!(id(&ask().await.expect(200)), id(&task), "also when it would be answered otherwise by now");
    assert_eq!(tasks(&federation).await, 1);
}

#[tokio::test]
async fn who_may_not_open_the_task_is_told_no_columns() {
    let federation = federation(2, false).await;
    share(&federation, 1, json!({"databases": [{"label": "default", "type": "csv", "columns": ["age"]}]})).await;
    let member = &federation.members[0];
    let strangers = federation.add_organizations("stranger", 1).await;
    federation.add_user("viewer", member.organization, &[4]).await;
    federation.add_user("stranger", strangers[0], &[5]).await;
    let (viewer, stranger) = (federation.log_in("viewer").await, federation.log_in("stranger").await);
    let container = federation.container(0, id(&federation.task(&[0]).await)).await;
    for token in [&viewer, &stranger, &member.node_token, &container, &federation.root] {
        federation.post(token, "/column", body(&federation, &[0], &plain())).await.expect(401);
    }
    let with = |field: &str, value: Value| {
        let mut body = body(&federation, &[0], &plain());
        body[field] = value;
        body
    };
    for (body, status, text) in [
        (with("collaboration_id", json!(99)), 404, "Collaboration id=99 not found!"),
        (with("collaboration_id", Value::Null), 400, "collaboration_id"),
        (with("db_label", Value::Null), 400, "db_label"),
        (with("db_label", json!("")), 400, "db_label"),
        (with("organizations", json!([])), 400, "organizations"),
        (with("organizations", json!([{"id": member.organization}])), 400, "missing"),
        (with("organizations", json!([{"id": strangers[0], "input": plain()}])), 400, "not within collaboration"),
        (with("organizations", json!([{"id": member.organization, "input": "*"}])), 400, "neither base64"),
        (with("organizations", json!([{"id": member.organization, "input": sealed()}])), 400, "is encrypted"),
        (with("image", json!("another")), 400, "Unknown field"),
    ] {
        let answer = federation.post(&member.researcher, "/column", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body} {}", answer.body);
        assert!(answer.body.to_string().contains(text), "{body} {}", answer.body);
    }
    // A node that limits who may ask refuses here too.
    share(&federation, 0, json!({"allowed_users": [999]})).await;
    let answer = federation.post(&member.researcher, "/column", body(&federation, &[0], &plain())).await;
    assert_eq!(answer.expect(400)["code"], "not_admitted");
    assert_eq!(tasks(&federation).await, 1);
}

#[tokio::test]
async fn a_task_that_asks_for_columns_is_sealed_and_signed_as_any_other() {
    let federation = federation(2, true).await;
    let asking = &federation.members[0];
    let refused = federation.post(&asking.researcher, "/column", body(&federation, &[1], &plain())).await;
    assert!(refused.msg().contains("not encrypted"), "{}", refused.msg());
    refused.expect(400);

    let inputs = [(federation.members[1].organization, sealed())];
    let mut good = manifest(&federation, &inputs);
    good.image = BASICS.into();
    good.databases = vec![TaskDatabase { label: "default".into(), parameters: "{}".into() }];
    let mut other_image = good.clone();
    other_image.image = "another".into();
    let mut other_database = good.clone();
    other_database.databases[0].label = "another".into();
    let mut request = body(&federation, &[1], &sealed());
    for (manifest, text) in [(&other_image, "image"), (&other_database, "databases")] {
        request["manifest"] = sign(manifest, &asking.key);
        let refused = federation.post(&asking.researcher, "/column", request.clone()).await;
        assert!(refused.msg().contains("manifest is refused") && refused.msg().contains(text), "{}", refused.msg());
        refused.expect(400);
    }
    request["manifest"] = sign(&good, &federation.members[1].key);
    federation.post(&asking.researcher, "/column", request.clone()).await.expect(400);
    request["manifest"] = sign(&good, &asking.key);
    let task = federation.post(&asking.researcher, "/column", request.clone()).await.expect(201);
    assert_eq!(task["manifest"], request["manifest"]);
    assert_eq!(id(&federation.post(&asking.researcher, "/column", request).await.expect(200)), id(&task));
}
