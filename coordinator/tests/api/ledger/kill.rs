use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::federation::{Federation, IMAGE, Member, id, plain};

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
async fn an_algorithm_that_is_being_killed_makes_no_subtasks() {
    let federation = Federation::new(2, false).await;
    let _events = federation.follow(&federation.members[0].node_token, "latest").await;
    let task = federation.task(&[0]).await;
    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    let container = federation.container(0, id(&task)).await;
    let child = federation.post(&container, "/task", federation.task_body(&[1])).await.expect(201);
    federation.post(&federation.root, "/kill/task", json!({"id": task["id"]})).await.expect(200);
    assert_eq!(federation.status(id(&task)).await, "active");
    let refused = federation.post(&container, "/task", federation.task_body(&[1])).await.expect(401);
    assert_eq!((&refused["code"], &refused["detail"]), (&json!("container_token"), &json!("the run is being killed")));
    // It may still look on.
    federation.get(&container, &format!("/task/{}", id(&child))).await.expect(200);
}

#[tokio::test]
async fn what_a_run_made_ends_with_it_when_it_is_killed() {
    let federation = Federation::new(3, false).await;
    let _events = federation.follow(&federation.members[0].node_token, "latest").await;
    let [root, child, grandchild] = tree(&federation).await;
    // Of another run of the same task.
    let sibling = {
        let task = federation.task(&[0, 1]).await;
        let run = federation.run(id(&task), 0).await;
        federation.report(0, &run, json!({"status": "active"})).await.expect(200);
        let container = federation.container(1, id(&task)).await;
        federation.post(&container, "/task", federation.task_body(&[2])).await.expect(201)
    };
    let run = federation.run(id(&root), 0).await;
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    let kill = json!({"id": federation.members[0].node});
    federation.post(&federation.root, "/kill/node/tasks", kill).await.expect(200);
    assert_eq!(federation.status(id(&child)).await, "pending", "its node has not said that it ended");
    federation.report(0, &run, json!({"status": "killed by user"})).await.expect(200);
    for task in [&root, &child, &grandchild] {
        assert_eq!(federation.status(id(task)).await, "killed by user");
    }
    assert_eq!(federation.status(id(&sibling)).await, "pending");
}

#[tokio::test]
async fn what_a_run_made_ends_at_once_when_its_node_is_away() {
    let federation = Federation::new(3, false).await;
    let [root, child, grandchild] = tree(&federation).await;
    let run = federation.run(id(&root), 0).await;
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    let kill = json!({"id": federation.members[0].node});
    federation.post(&federation.root, "/kill/node/tasks", kill).await.expect(200);
    for task in [&root, &child, &grandchild] {
        assert_eq!(federation.status(id(task)).await, "killed by user");
    }
}

/// What may happen to a tree of tasks; numbers choose among what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The algorithm of a run asks for a subtask at a member, or at all.
    Ask { run: usize, at: usize },
    /// A node reports on its run.
    Report { run: usize, status: &'static str },
}

fn step() -> impl Strategy<Value = Step> {
    let statuses = ["initializing", "active", "active", "active", "active", "completed", "crashed", "killed by user"];
    prop_oneof![
        2 => (any::<usize>(), any::<usize>()).prop_map(|(run, at)| Step::Ask { run, at }),
        1 => (any::<usize>(), proptest::sample::select(statuses.to_vec()))
            .prop_map(|(run, status)| Step::Report { run, status }),
    ]
}

/// The runs of a job as root sees them.
async fn runs_of_job(federation: &Federation, job: &Value) -> Vec<Value> {
    let tasks = federation.get(&federation.root, &format!("/task?job_id={job}&include=runs&per_page=50")).await;
    let tasks = tasks.expect(200);
    tasks["data"].as_array().unwrap().iter().flat_map(|task| task["runs"].as_array().unwrap().clone()).collect()
}

fn is_open(run: &Value) -> bool {
    matches!(run["status"].as_str().unwrap(), "pending" | "initializing" | "active")
}

async fn play(federation: &Federation, job: &Value, step: Step) {
    let runs = runs_of_job(federation, job).await;
    let member_of = |run: &Value| {
        let at = |member: &Member| run["organization"]["id"] == member.organization;
        federation.members.iter().position(at).unwrap()
    };
    // What is refused has no effect, and need not be told apart here.
    match step {
        Step::Ask { run, at } => {
            let run = &runs[run % runs.len()];
            let members = federation.members.len();
            let at = if at % (members + 1) == members { (0..members).collect() } else { vec![at % (members + 1)] };
            let member = member_of(run);
            let token = json!({"task_id": run["task"]["id"], "image": IMAGE});
            let token = federation.post(&federation.members[member].node_token, "/token/container", token).await;
            if let Some(container) = token.body["container_token"].as_str() {
                federation.post(container, "/task", federation.task_body(&at)).await;
            }
        }
        Step::Report { run, status } => {
            let run = &runs[run % runs.len()];
            federation.report(member_of(run), run, json!({"status": status})).await;
        }
    }
}

#[test]
fn after_a_kill_nothing_of_the_tree_is_left_open_whatever_algorithms_and_nodes_do() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let federation = runtime.block_on(Federation::new(3, false));
    // The last member's node is away.
    let follow = async |member: usize| federation.follow(&federation.members[member].node_token, "latest").await;
    let _events = runtime.block_on(async { (follow(0).await, follow(1).await) });
    let steps = || proptest::collection::vec(step(), 0..12);
    let config = ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(before in steps(), after in steps())| {
        let left: Vec<Value> = runtime.block_on(async {
            let task = federation.task(&[0]).await;
            let job = &task["job_id"];
            let run = federation.run(id(&task), 0).await;
            federation.report(0, &run, json!({"status": "active"})).await;
            for step in before {
                play(&federation, job, step).await;
            }
            federation.post(&federation.root, "/kill/task", json!({"id": task["id"]})).await;
            for step in after {
                play(&federation, job, step).await;
            }
            // Nodes end what they are asked to end, and nothing else.
            for run in runs_of_job(&federation, job).await {
                if run["kill_requested"] == true {
                    let at = |member: &Member| run["organization"]["id"] == member.organization;
                    let member = federation.members.iter().position(at).unwrap();
                    federation.report(member, &run, json!({"status": "killed by user"})).await;
                }
            }
            runs_of_job(&federation, job).await.into_iter().filter(is_open).collect()
        });
        prop_assert!(left.is_empty(), "{left:?}");
    });
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
