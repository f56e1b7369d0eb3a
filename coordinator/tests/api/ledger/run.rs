use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::federation::{Federation, IMAGE, id, plain, sealed};

#[tokio::test]
async fn a_run_has_the_contracts_shape() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0, 1]).await;
    let run = federation.run(id(&task), 1).await;
    let researcher = &federation.members[0].researcher;
    let one = federation.get(researcher, &format!("/run/{}", id(&run))).await.expect(200);
    assert_eq!(one, run);
    assert_eq!(one["status"], "pending");
    for field in ["log", "started_at", "finished_at", "cleanup_at"] {
        assert_eq!(one[field], Value::Null, "{field}");
    }
    assert_eq!(one["blob_storage_used"], false);
    assert_eq!(one["task"]["id"], task["id"]);
    assert_eq!(one["results"]["link"], format!("/api/result/{}", id(&run)));
    assert_eq!(one["ports"], json!([]));
    let with_task = federation.get(researcher, &format!("/run/{}?include=task", id(&run))).await.expect(200);
    assert_eq!(with_task["task"]["image"], IMAGE);
    let nested = with_task["task"].as_object().unwrap();
    assert!(!nested.contains_key("runs"), "{nested:?}");
    assert_eq!(nested["results"], format!("/api/result?task_id={}", id(&task)));
    let mut alone = federation.get(researcher, &format!("/task/{}", id(&task))).await.expect(200);
    alone.as_object_mut().unwrap().remove("runs");
    assert_eq!(with_task["task"], alone, "it is the task in all else");
    let result = federation.get(researcher, &format!("/result/{}", id(&run))).await.expect(200);
    assert_eq!(result["result"], Value::Null);
    assert_eq!(result["run"]["id"], run["id"]);
}

#[tokio::test]
async fn a_node_reports_what_becomes_of_its_run() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0]).await;
    let run = federation.run(id(&task), 0).await;
    federation.pass(Duration::from_secs(3600));
    let started = "2027-01-15T08:21:12.429374";
    let steps = [
        (json!({"started_at": started}), "pending"),
        (json!({"status": "initializing", "log": "first"}), "initializing"),
        (json!({"status": "active"}), "active"),
        (json!({"status": "active"}), "active"),
        (json!({"status": "completed", "result": plain(), "finished_at": "2027-01-15T09:21:13+01:00"}), "completed"),
    ];
    for (body, status) in steps {
        let answer = federation.report(0, &run, body).await.expect(200);
        assert_eq!(answer["status"], status);
        assert_eq!(answer["started_at"], started);
    }
    let run = federation.run(id(&task), 0).await;
    assert_eq!(run["log"], "first", "what is not given stays");
    assert_eq!(run["finished_at"], "2027-01-15T08:21:13.000000");
    let result = federation.get(&federation.root, &format!("/result/{}", id(&run))).await.expect(200);
    assert_eq!(result["result"], plain());

    for body in [json!({"status": "crashed"}), json!({}), json!({"log": "late"})] {
        let answer = federation.report(0, &run, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.msg(), "Cannot update an already finished algorithm run!");
    }
}

#[tokio::test]
async fn a_node_cannot_date_a_run_before_it_was_assigned_or_after_today() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0, 1]).await;
    let assigned = federation.run(id(&task), 0).await["assigned_at"].clone();
    federation.pass(Duration::from_secs(3600));
    for (member, started, finished) in
        [(0, "1970-01-01T00:00:00", "1971-01-01T00:00:00"), (1, "2999-01-01T00:00:00", "2998-01-01T00:00:00")]
    {
        let run = federation.run(id(&task), member).await;
        let body = json!({
            "status": "completed", "result": plain(), "started_at": started, "finished_at": finished,
        });
        let run = federation.report(member, &run, body).await.expect(200);
        let is_early = member == 0;
        let (started, finished) = (run["started_at"].as_str().unwrap(), run["finished_at"].as_str().unwrap());
        assert!(assigned.as_str().unwrap() <= started && started <= finished, "{run}");
        assert_eq!(started.starts_with("2027-01-15T08:00:00"), is_early, "{run}");
        assert_eq!(finished.starts_with("2027-01-15T09:00:00"), !is_early, "{run}");
    }
}

#[tokio::test]
async fn only_the_node_of_a_run_reports_on_it() {
    let federation = Federation::new(2, false).await;
    // A second node of the same organization, in another collaboration.
    let organization = federation.members[0].organization;
    let (_, elsewhere) = federation.add_collaboration("elsewhere", &[organization], false).await;
    let task = federation.task(&[0]).await;
    let run = federation.run(id(&task), 0).await;
    let path = format!("/run/{}", id(&run));
    let container = federation.container(0, id(&task)).await;
    for token in [
        &federation.members[1].node_token,
        &elsewhere[0].node_token,
        &federation.root,
        &federation.members[0].researcher,
        &container,
    ] {
        let answer = federation.patch(token, &path, json!({"status": "active"})).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.body);
    }
    assert_eq!(federation.patch(&federation.members[0].node_token, "/run/99", json!({})).await.status, 404);
    for body in [json!({"status": "done"}), json!({"input": "x"}), json!({"started_at": "soon"})] {
        assert_eq!(federation.report(0, &run, body.clone()).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    let back = federation.report(0, &run, json!({"status": "initializing"})).await;
    assert_eq!(back.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_result_is_encrypted_where_the_collaboration_is_and_nowhere_else() {
    for (encrypted, input, bad) in [(true, sealed(), plain()), (false, plain(), sealed())] {
        let federation = Federation::new(1, encrypted).await;
        let mut body = federation.task_body(&[0]);
        body["organizations"][0]["input"] = input.clone().into();
        let task = federation.post(&federation.members[0].researcher, "/task", body).await.expect(201);
        let run = federation.run(id(&task), 0).await;
        let refused = federation.report(0, &run, json!({"status": "completed", "result": bad})).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        let refused = federation.report(0, &run, json!({"status": "completed", "result": "no base64"})).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        federation.report(0, &run, json!({"status": "completed", "result": input})).await.expect(200);
    }
}

#[tokio::test]
async fn a_failure_ends_the_siblings_that_nobody_started() {
    let federation = Federation::new(4, false).await;
    let task = federation.task(&[0, 1, 2, 3]).await;
    let run = federation.run(id(&task), 1).await;
    federation.report(1, &run, json!({"started_at": "2026-11-23T02:21:12", "status": "active"})).await.expect(200);
    let run = federation.run(id(&task), 2).await;
    federation.report(2, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, json!({"status": "crashed", "log": "trace"})).await.expect(200);
    let mut statuses = Vec::new();
    for member in 0..4 {
        statuses.push(federation.run(id(&task), member).await["status"].clone());
    }
    assert_eq!(statuses, ["crashed", "active", "completed", "failed"]);
    let log = federation.run(id(&task), 3).await["log"].clone();
    assert!(log.as_str().unwrap().contains("crashed"), "{log}");
}

#[tokio::test]
async fn a_node_finds_its_open_runs_with_their_tasks() {
    let federation = Federation::new(2, false).await;
    let tasks = [federation.task(&[0, 1]).await, federation.task(&[1]).await];
    let member = &federation.members[1];
    let path = format!("/run?state=open&node_id={}&include=task", member.node);
    let runs = federation.get(&member.node_token, &path).await.expect(200);
    let runs = runs["data"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["task"]["id"], tasks[1]["id"]);
    assert_eq!(runs[0]["task"]["image"], IMAGE);
    assert_eq!(runs[0]["input"], plain());
    federation.report(1, &runs[0], json!({"status": "not allowed"})).await.expect(200);
    let runs = federation.get(&member.node_token, &path).await.expect(200);
    assert_eq!(runs["data"].as_array().unwrap().len(), 1);
    for (query, count) in [
        ("state=open".to_owned(), 2),
        (format!("organization_id={}", member.organization), 2),
        (format!("collaboration_id={}", federation.collaboration), 3),
        ("assigned_from=2000-01-01T00:00:00".to_owned(), 3),
        ("assigned_till=2000-01-01T00:00:00".to_owned(), 0),
        ("started_from=2000-01-01T00:00:00".to_owned(), 0),
        ("finished_till=2100-01-01T00:00:00".to_owned(), 1),
        ("port=49152".to_owned(), 0),
        ("unknown=1".to_owned(), 3),
    ] {
        let list = federation.get(&federation.root, &format!("/run?{query}")).await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), count, "{query}");
    }
    for query in ["state=closed", "task_id=x", "port=99999", "assigned_from=soon"] {
        let answer = federation.get(&federation.root, &format!("/run?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn an_algorithms_token_lives_as_long_as_its_run() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0, 1]).await;
    let node = &federation.members[0].node_token;
    for (token, body, status) in [
        (node, json!({"task_id": 99, "image": IMAGE}), 400),
        (node, json!({"task_id": id(&task), "image": "other"}), 401),
        (&federation.root, json!({"task_id": id(&task), "image": IMAGE}), 401),
        (node, json!({"task_id": id(&task)}), 400),
    ] {
        let answer = federation.post(token, "/token/container", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body} {}", answer.body);
    }
    let container = federation.container(0, id(&task)).await;
    for path in [
        format!("/task/{}", id(&task)),
        format!("/run?task_id={}", id(&task)),
        format!("/result?task_id={}", id(&task)),
        format!("/organization?collaboration_id={}", federation.collaboration),
        format!("/collaboration/{}", federation.collaboration),
        "/vpn/algorithm/addresses".to_owned(),
    ] {
        federation.get(&container, &path).await.expect(200);
    }
    for path in ["/event?after=0", "/user", "/role", &format!("/node/{}", federation.members[1].node)] {
        let answer = federation.get(&container, path).await;
        assert!(answer.status.is_client_error(), "{path} {}", answer.status);
    }

    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    let dead = federation.get(&container, &format!("/task/{}", id(&task))).await;
    assert_eq!(dead.status, StatusCode::UNAUTHORIZED);
    let dead = federation.post(&container, "/task", federation.task_body(&[1])).await;
    assert_eq!(dead.status, StatusCode::UNAUTHORIZED);
    let late = federation.post(node, "/token/container", json!({"task_id": id(&task), "image": IMAGE})).await;
    assert_eq!(late.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_tokens_subject_holds_what_algorithm_tools_read() {
    let federation = Federation::new(1, false).await;
    let mut body = federation.task_body(&[0]);
    body["databases"] = json!([{"label": "default", "query": "select 1"}]);
    let task = federation.post(&federation.members[0].researcher, "/task", body).await.expect(201);
    let token = federation.container(0, id(&task)).await;
    let claims = token.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        claims["sub"],
        json!({
            "client_type": "container", "image": IMAGE, "databases": [{"label": "default", "query": "select 1"}],
            "node_id": federation.members[0].node, "collaboration_id": federation.collaboration,
            "organization_id": federation.members[0].organization, "study_id": null, "store_id": null,
            "task_id": task["id"],
        })
    );
}
