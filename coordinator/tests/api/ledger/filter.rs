//! Tasks, runs and results can be narrowed and sorted as contract A.7 says.

use std::time::Duration;

use serde_json::{Value, json};

use super::federation::{Federation, IMAGE, check, check_refused, id, ids, plain};

/// Task 1 of organization 2's researcher (user 2) at organizations 2 and 3 (runs 1 and 2), completed at 3; its subtask 2
/// at 3 (run 3); task 3 of organization 3's researcher (user 4), in study 1, at 3 (run 4), refused. Organization 4 and
/// collaboration 2 stand apart.
async fn federation() -> Federation {
    let federation = Federation::new(2, false).await;
    let root = federation.root.as_str();
    let apart = federation.add_organizations("apart", 1).await;
    federation.add_collaboration("other", &apart, false).await;
    let body = json!({"name": "study", "collaboration_id": 1, "organization_ids": [3]});
    federation.post(root, "/study", body).await.expect(201);

    let first = id(&federation.task(&[0, 1]).await);
    let container = federation.container(0, first).await;
    let body = json!({
        "name": "below", "image": IMAGE, "collaboration_id": 1, "organizations": [{"id": 3, "input": plain()}],
    });
    federation.post(&container, "/task", body).await.expect(201);
    let body = json!({
        "name": "in a study", "description": "third", "image": "registry.example.org/other:2", "study_id": 1,
        "organizations": [{"id": 3, "input": plain()}], "databases": [{"label": "census"}],
    });
    federation.post(&federation.members[1].researcher, "/task", body).await.expect(201);

    // The clock begins at 08:00.
    federation.pass(Duration::from_secs(3600));
    let run = federation.run(first, 1).await;
    let body = json!({"started_at": "2027-01-15T08:10:00"});
    federation.report(1, &run, body).await.expect(200);
    let node = federation.members[1].node_token.as_str();
    federation.post(node, "/port", json!({"port": 49152, "run_id": id(&run), "label": "x"})).await.expect(201);
    let run = federation.run(3, 1).await;
    let body = json!({
        "status": "not allowed", "started_at": "2027-01-15T08:20:00+00:00", "finished_at": "2027-01-15T08:30:00",
    });
    federation.report(1, &run, body).await.expect(200);
    federation
}

#[tokio::test]
async fn tasks_are_narrowed() {
    let federation = federation().await;
    let lists: &[(&str, &[i64])] = &[
        ("/task", &[3, 2, 1]),
        ("/task?init_org_id=2", &[2, 1]),
        ("/task?init_user_id=4", &[3]),
        ("/task?init_user_id=2", &[2, 1]),
        ("/task?collaboration_id=1", &[3, 2, 1]),
        ("/task?collaboration_id=2", &[]),
        ("/task?study_id=1", &[3]),
        ("/task?parent_id=1", &[2]),
        ("/task?job_id=1", &[2, 1]),
        ("/task?run_id=3", &[2]),
        ("/task?name=in%25", &[3]),
        ("/task?name=below", &[2]),
        ("/task?image=%25other%25", &[3]),
        ("/task?description=thi_d", &[3]),
        ("/task?database=census", &[3]),
        ("/task?database=cen%25", &[]),
        ("/task?status=pending", &[2, 1]),
        ("/task?status=not+allowed", &[3]),
        ("/task?is_user_created=1", &[3, 1]),
        ("/task?is_user_created=0", &[2]),
        ("/task?sort=id", &[1, 2, 3]),
        ("/task?sort=-job_id,id", &[3, 1, 2]),
        ("/task?sort=image,-id&per_page=2&page=2", &[3]),
        ("/task?include=results,runs&init_org_id=2", &[2, 1]),
        ("/task?include=results&include=runs&parent_id=1", &[2]),
    ];
    check(&federation, &federation.root, lists).await;
    let columns = "name description image collaboration_id study_id parent_id init_org_id init_user_id created_at \
                   algorithm_store_id";
    for column in columns.split(' ') {
        let answer = federation.get(&federation.root, &format!("/task?sort=-{column}")).await.expect(200);
        assert_eq!(ids(&answer).len(), 3, "{column}");
    }
    let nested = federation.get(&federation.root, "/task?include=results,runs&parent_id=1").await.expect(200);
    assert_eq!((id(&nested["data"][0]["runs"][0]), id(&nested["data"][0]["results"][0])), (3, 3));
    let refused = [
        ("/task?study_id=9", 400),
        ("/task?parent_id=9", 400),
        ("/task?job_id=9", 400),
        ("/task?run_id=9", 400),
        ("/task?store_id=9", 400),
        ("/task?init_user_id=9", 400),
        ("/task?status=nonsense", 400),
        ("/task?sort=status", 400),
    ];
    check_refused(&federation, &federation.root, &refused).await;
    let researcher = &federation.members[0].researcher;
    let foreign = [("/task?collaboration_id=2", 401), ("/task?init_org_id=4", 401)];
    check_refused(&federation, researcher, &foreign).await;
}

#[tokio::test]
async fn runs_and_results_are_narrowed() {
    let federation = federation().await;
    let queries: &[(&str, &[i64])] = &[
        ("", &[4, 3, 2, 1]),
        ("?task_id=1", &[2, 1]),
        ("?organization_id=2", &[1]),
        ("?collaboration_id=1", &[4, 3, 2, 1]),
        ("?collaboration_id=2", &[]),
        ("?node_id=5&sort=id", &[2, 3, 4]),
        ("?state=open", &[3, 2, 1]),
        ("?assigned_from=2100-01-01T00:00:00", &[]),
        ("?assigned_till=2100-01-01T00:00:00", &[4, 3, 2, 1]),
        ("?started_from=2027-01-15T08:15:00", &[4]),
        ("?started_till=2027-01-15T08:15:00", &[2]),
        ("?finished_from=2027-01-15T08:30:00%2B00:00", &[4]),
        ("?finished_till=2027-01-15T08:20:00", &[]),
        ("?port=49152", &[2]),
        ("?port=49153", &[]),
        ("?task_id=1&task_id=3", &[2, 1]),
        ("?sort=status,-id", &[4, 3, 2, 1]),
        ("?sort=-finished_at&per_page=1", &[4]),
        ("?sort=cleanup_at,blob_storage_used,id", &[1, 2, 3, 4]),
    ];
    for noun in ["/run", "/result"] {
        for (query, expected) in queries {
            check(&federation, &federation.root, &[(&format!("{noun}{query}"), expected)]).await;
        }
        for (query, status) in [("state=closed", 400), ("port=70000", 400), ("started_from=x", 400), ("sort=log", 400)]
        {
            check_refused(&federation, &federation.root, &[(&format!("{noun}?{query}"), status)]).await;
        }
        let researcher = &federation.members[0].researcher;
        for query in ["collaboration_id=2", "organization_id=4"] {
            check_refused(&federation, researcher, &[(&format!("{noun}?{query}"), 401)]).await;
        }
    }
    let nested = federation.get(&federation.root, "/run?include=task&task_id=3").await.expect(200);
    assert_eq!(nested["data"][0]["task"]["name"], "in a study");
    assert!(nested["data"][0]["task"].get("runs").is_none(), "{nested}");
}

#[tokio::test]
async fn what_a_deleted_node_left_unfinished_ends_as_failed() {
    let federation = Federation::new(3, false).await;
    let root = federation.root.as_str();
    let task = id(&federation.task(&[0, 1, 2]).await);
    let running = federation.run(task, 1).await;
    federation.report(1, &running, json!({"status": "active"})).await.expect(200);
    let other = federation.run(task, 2).await;
    federation.report(2, &other, json!({"status": "active"})).await.expect(200);
    let done = id(&federation.task(&[1]).await);
    let run = federation.run(done, 1).await;
    federation.report(1, &run, json!({"status": "completed", "result": ""})).await.expect(200);

    let mut events = federation.follow(root, "latest").await;
    federation.delete(root, &format!("/node/{}", federation.members[1].node)).await.expect(200);
    let ended = federation.run(task, 1).await;
    assert_eq!(ended["status"], "failed");
    assert!(ended["finished_at"].is_string());
    let log = ended["log"].as_str().unwrap();
    assert!(log.contains("node of organization 3 was deleted"), "{log}");
    assert_eq!(ended["node"], Value::Null);
    // Nobody had started it, so it ends with its sibling; what runs elsewhere goes on, what was done stays done.
    assert_eq!(federation.run(task, 0).await["status"], "failed");
    assert_eq!(federation.run(task, 2).await["status"], "active");
    assert_eq!(federation.status(done).await, "completed");
    let told = events.until(|event| event.kind == "run_status" && event.data["organization_id"] == 2).await;
    let told: Vec<_> = told.iter().map(|event| (event.kind.as_str(), event.data["organization_id"].as_i64())).collect();
    assert_eq!(told, [("kill_requested", Some(3)), ("run_status", Some(3)), ("run_status", Some(2))]);
}
