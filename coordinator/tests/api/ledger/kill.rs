use axum::http::StatusCode;
use serde_json::{Value, json};

use super::federation::{Federation, id, plain};

/// A task at member 0 whose algorithm made a subtask at 1, whose algorithm made one at 2.
async fn tree(federation: &Federation) -> [Value; 3] {
    let root = federation.task(&[0]).await;
    let container = federation.container(0, id(&root)).await;
    let child = federation.post(&container, "/task", federation.task_body(&[1])).await.expect(201);
    let container = federation.container(1, id(&child)).await;
    let grandchild = federation.post(&container, "/task", federation.task_body(&[2])).await.expect(201);
    [root, child, grandchild]
}

#[tokio::test]
async fn killing_a_task_kills_everything_below_it_once_the_nodes_confirm() {
    let federation = Federation::new(3, false).await;
    let tasks = tree(&federation).await;
    // Member 1 is connected and has its run; member 2 has its run but is away; member 0 has not taken its run up.
    let mut events = federation.follow(&federation.members[1].node_token, "latest").await;
    for member in [1, 2] {
        let run = federation.run(id(&tasks[member]), member).await;
        federation.report(member, &run, json!({"status": "active"})).await.expect(200);
    }
    let answer = federation.post(&federation.root, "/kill/task", json!({"id": tasks[0]["id"]})).await;
    assert!(!answer.msg().is_empty());
    answer.expect(200);
    let mut statuses = Vec::new();
    for task in &tasks {
        statuses.push(federation.status(id(task)).await);
    }
    assert_eq!(statuses, ["killed by user", "active", "killed by user"]);

    let killed = events.until(|event| event.kind == "kill_requested").await;
    let run = federation.run(id(&tasks[1]), 1).await;
    assert_eq!(killed[killed.len() - 1].data["run_id"], run["id"]);
    // Events are hints: whoever missed it finds it in the run.
    assert_eq!(run["kill_requested"], true);
    federation.report(1, &run, json!({"status": "killed by user"})).await.expect(200);
    assert_eq!(federation.status(id(&tasks[1])).await, "killed by user");
    assert_eq!(federation.run(id(&tasks[1]), 1).await["kill_requested"], Value::Null);

    let again = federation.post(&federation.root, "/kill/task", json!({"id": tasks[0]["id"]})).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_run_that_ends_well_before_its_node_hears_of_the_kill_ended_well() {
    let federation = Federation::new(1, false).await;
    let _events = federation.follow(&federation.members[0].node_token, "latest").await;
    let task = federation.task(&[0]).await;
    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    federation.post(&federation.root, "/kill/task", json!({"id": task["id"]})).await.expect(200);
    federation.report(0, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    assert_eq!(federation.status(id(&task)).await, "completed");
}

#[tokio::test]
async fn only_those_who_may_send_events_kill() {
    let federation = Federation::new(2, false).await;
    let organization = federation.members[0].organization;
    federation.add_user("admin", organization, &[6]).await;
    federation.add_user("collaboration-admin", organization, &[7]).await;
    let (admin, collaboration_admin) =
        (federation.log_in("admin").await, federation.log_in("collaboration-admin").await);
    let task = federation.task(&[0, 1]).await;
    for token in [&federation.members[0].researcher, &federation.members[0].node_token, &admin] {
        let answer = federation.post(token, "/kill/task", json!({"id": task["id"]})).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.body);
    }
    assert_eq!(federation.post(&federation.root, "/kill/task", json!({"id": 99})).await.status, 404);
    assert_eq!(federation.post(&federation.root, "/kill/task", json!({})).await.status, 400);
    federation.post(&collaboration_admin, "/kill/task", json!({"id": task["id"]})).await.expect(200);
}

#[tokio::test]
async fn all_runs_at_a_node_are_killed_and_no_others() {
    let federation = Federation::new(2, false).await;
    let tasks = [federation.task(&[0]).await, federation.task(&[1]).await, federation.task(&[0]).await];
    let node = federation.members[0].node;
    let researcher = &federation.members[0].researcher;
    assert_eq!(federation.post(researcher, "/kill/node/tasks", json!({"id": node})).await.status, 401);
    assert_eq!(federation.post(&federation.root, "/kill/node/tasks", json!({"id": 99})).await.status, 404);
    federation.post(&federation.root, "/kill/node/tasks", json!({"id": node})).await.expect(200);
    let mut statuses = Vec::new();
    for task in &tasks {
        statuses.push(federation.status(id(task)).await);
    }
    assert_eq!(statuses, ["killed by user", "pending", "killed by user"]);
}
