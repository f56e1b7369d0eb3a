use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::federation::{DEADLINE, Federation, Message, id, plain};

#[tokio::test]
async fn a_node_learns_of_its_run_by_an_event() {
    let federation = Federation::new(2, false).await;
    let mut events = federation.follow(&federation.members[1].node_token, "latest").await;
    let task = federation.task(&[0, 1]).await;
    let heard = events.until(|event| event.kind == "run_assigned").await;
    let assigned = &heard[heard.len() - 1].data;
    assert_eq!(assigned["task_id"], task["id"]);
    assert_eq!(assigned["organization_id"], federation.members[1].organization);
    assert_eq!(assigned["run_id"], federation.run(id(&task), 1).await["id"]);
    assert_eq!(assigned["status"], "pending");
    assert_eq!(assigned["job_id"], task["job_id"]);
}

/// Does something of every kind.
async fn live(federation: &Federation) {
    let task = federation.task(&[0, 1]).await;
    let container = federation.container(0, id(&task)).await;
    let subtask = federation.post(&container, "/task", federation.task_body(&[1])).await.expect(201);
    let run = federation.run(id(&subtask), 1).await;
    let body = json!({"port": 50_000, "run_id": run["id"]});
    federation.post(&federation.members[1].node_token, "/port", body).await.expect(201);
    federation.report(1, &run, json!({"status": "active"})).await.expect(200);
    federation.report(1, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    federation.post(&federation.root, "/kill/task", json!({"id": task["id"]})).await.expect(200);
}

fn sequences(events: &[Message]) -> Vec<i64> {
    events.iter().map(|event| event.sequence).collect()
}

#[tokio::test]
async fn a_stream_begun_anywhere_tells_exactly_what_came_after() {
    let federation = Federation::new(3, false).await;
    for _ in 0..3 {
        live(&federation).await;
    }
    let end = {
        let hello = federation.follow(&federation.root, "latest").await;
        drop(hello);
        // A last event to wait for.
        let task = federation.task(&[2]).await;
        id(&task)
    };
    let last = |event: &Message| event.kind == "run_assigned" && event.data["task_id"] == end;
    for token in [&federation.root, &federation.members[1].node_token, &federation.members[2].researcher] {
        let mut stream = federation.follow(token, "0").await;
        let all = if *token == federation.members[1].node_token {
            let mut all = vec![];
            while all.last().is_none_or(|event: &Message| event.kind != "kill_requested") {
                all.push(stream.next().await);
            }
            tokio::task::yield_now().await;
            all.extend(stream.arrived());
            all
        } else {
            stream.until(last).await
        };
        assert!(sequences(&all).is_sorted_by(|a, b| a < b));
        for cut in (0..all.len()).step_by(3) {
            let after = all[cut].sequence;
            let mut stream = federation.follow(token, &after.to_string()).await;
            let mut rest = Vec::new();
            while rest.len() < all.len() - cut - 1 {
                rest.push(stream.next().await);
            }
            assert_eq!(rest, all[cut + 1..], "after {after}");
        }
    }
}

#[tokio::test]
async fn events_come_once_and_in_order_while_many_write() {
    let federation = std::sync::Arc::new(Federation::new(3, false).await);
    let mut stream = federation.follow(&federation.root, "latest").await;
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let federation = std::sync::Arc::clone(&federation);
            tokio::spawn(async move {
                let mut tasks = Vec::new();
                for _ in 0..5 {
                    tasks.push(id(&federation.task(&[0, 1, 2]).await));
                }
                tasks
            })
        })
        .collect();
    let mut assigned = Vec::new();
    let mut last = 0;
    while assigned.len() < 8 * 5 * 3 {
        let event = stream.next().await;
        assert!(event.sequence > last, "{} after {last}", event.sequence);
        last = event.sequence;
        if event.kind == "run_assigned" {
            assigned.push(event.data["run_id"].as_i64().unwrap());
            // What an event tells of can be read: nothing is told before it is durable.
            let run = event.data["run_id"].as_i64().unwrap();
            federation.get(&federation.root, &format!("/run/{run}")).await.expect(200);
        }
    }
    let distinct: BTreeSet<_> = assigned.iter().collect();
    assert_eq!(distinct.len(), assigned.len());
    for writer in writers {
        assert_eq!(writer.await.unwrap().len(), 5);
    }
}

#[tokio::test]
async fn a_refused_request_leaves_no_event() {
    let federation = Federation::new(1, false).await;
    let mut stream = federation.follow(&federation.root, "latest").await;
    let mut body = federation.task_body(&[0]);
    body["organizations"][0]["input"] = "*".into();
    federation.post(&federation.members[0].researcher, "/task", body).await.expect(400);
    let task = federation.task(&[0]).await;
    let first = stream.next().await;
    assert_eq!((first.kind.as_str(), &first.data["task_id"]), ("task_created", &task["id"]));
}

#[tokio::test]
async fn a_node_hears_of_its_own_collaboration_and_jobs_only() {
    let federation = Federation::new(3, false).await;
    let others = federation.add_organizations("other", 1).await;
    let organizations = [others[0], federation.members[0].organization];
    let (elsewhere_id, others) = federation.add_collaboration("others", &organizations, false).await;
    let foreign = federation.follow(&others[0].node_token, "latest").await;
    // A node of an organization that takes part, but in another collaboration.
    let elsewhere = federation.follow(&others[1].node_token, "latest").await;
    let outside = federation.follow(&federation.members[2].node_token, "latest").await;
    let mut inside = federation.follow(&federation.members[1].node_token, "latest").await;
    live(&federation).await;

    let heard = inside.until(|event| event.kind == "kill_requested").await;
    let kinds: BTreeSet<_> = heard.iter().map(|event| event.kind.as_str()).collect();
    for kind in ["task_created", "run_assigned", "port_registered", "run_status", "kill_requested"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
    let own = federation.members[1].organization;
    for event in &heard {
        assert_eq!(event.data["collaboration_id"], federation.collaboration);
        if event.kind == "run_assigned" || event.kind == "kill_requested" {
            assert_eq!(event.data["organization_id"], own);
        }
    }
    // A task for each after all that: what they hear before it is all that they hear.
    let mut body = federation.task_body(&[]);
    body["collaboration_id"] = elsewhere_id.into();
    body["organizations"] = others.iter().map(|other| json!({"id": other.organization, "input": plain()})).collect();
    let elsewhere_task = federation.post(&others[0].researcher, "/task", body).await.expect(201);
    let task = federation.task(&[2]).await;
    for (mut stream, own) in [(foreign, &elsewhere_task), (elsewhere, &elsewhere_task), (outside, &task)] {
        for event in stream.until(|event| event.kind == "run_assigned").await {
            assert!(event.kind.starts_with("node_") || event.data["task_id"] == own["id"], "{event:?}");
        }
    }
}

#[tokio::test]
async fn a_user_hears_as_far_as_the_rules_go() {
    let federation = Federation::new(2, false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    federation.add_user("stranger", strangers[0], &[5]).await;
    // No rule about events at all, but a member.
    federation.add_user("bare", federation.members[0].organization, &[]).await;
    federation.add_user("bystander", federation.members[1].organization, &[]).await;
    let mut streams = Vec::new();
    for name in ["stranger", "bare", "bystander"] {
        let token = federation.log_in(name).await;
        streams.push(federation.follow(&token, "latest").await);
    }
    let mut root = federation.follow(&federation.root, "latest").await;
    let task = federation.task(&[0]).await;
    root.until(|event| event.kind == "run_assigned").await;
    let heard = streams[1].until(|event| event.kind == "run_assigned").await;
    assert!(heard.iter().all(|event| event.data["task_id"] == task["id"]), "what the own organization asked for");
    let own = federation.post(&federation.members[1].researcher, "/task", federation.task_body(&[0])).await.expect(201);
    let heard = streams[2].until(|event| event.kind == "run_assigned").await;
    assert!(heard.iter().all(|event| event.data["task_id"] == own["id"]), "and nothing of what others asked for");
    assert_eq!(streams[0].arrived(), []);
}

#[tokio::test]
async fn a_node_is_online_while_it_follows_the_log() {
    let federation = Federation::new(2, false).await;
    let mut watcher = federation.follow(&federation.root, "latest").await;
    let member = &federation.members[0];
    let path = format!("/node/{}", member.node);
    let status = async || federation.get(&federation.root, &path).await.expect(200)["status"].clone();
    let first = federation.follow(&member.node_token, "latest").await;
    assert_eq!(status().await, "online");
    let second = federation.follow(&member.node_token, "latest").await;
    drop(first);
    drop(second);
    let third = federation.follow(&member.node_token, "latest").await;
    assert_eq!(status().await, "online", "coming back in time is not leaving");
    drop(third);
    let heard = watcher.until(|event| event.kind == "node_offline").await;
    let of_node: Vec<_> = heard.iter().filter(|event| event.kind.starts_with("node_")).collect();
    assert_eq!(of_node.len(), 2, "{of_node:?}");
    assert_eq!(of_node[0].data["node_id"], member.node);
    assert_eq!(of_node[0].data["organization_id"], member.organization);
    assert_eq!(status().await, "offline");
}

#[tokio::test]
async fn after_a_restart_everybody_is_away_until_they_come_back() {
    let mut federation = Federation::new(1, false).await;
    let stream = federation.follow(&federation.members[0].node_token, "latest").await;
    let task = federation.task(&[0]).await;
    drop(stream);
    federation.restart().await;
    let node = federation.get(&federation.root, &format!("/node/{}", federation.members[0].node)).await.expect(200);
    assert_eq!(node["status"], "offline");
    // What was recorded before is told after.
    let mut stream = federation.follow(&federation.members[0].node_token, "0").await;
    let heard = stream.until(|event| event.kind == "run_assigned").await;
    assert_eq!(heard[heard.len() - 1].data["task_id"], task["id"]);
}

#[tokio::test]
async fn a_place_in_the_log_that_is_none_is_refused() {
    let federation = Federation::new(1, false).await;
    for after in ["-1", "x", "1.5"] {
        let answer = federation.get(&federation.root, &format!("/event?after={after}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{after}");
    }
    assert_eq!(federation.ask(Method::GET, "/event", None, None, &[]).await.status, StatusCode::UNAUTHORIZED);
    // Beyond the end begins at the end, as after a restored backup.
    let mut stream = federation.follow(&federation.root, "9000000").await;
    federation.task(&[0]).await;
    let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap();
    assert!(event.sequence < 9_000_000);
}

#[tokio::test]
async fn a_caller_has_so_many_streams_and_held_questions_and_no_more() {
    let federation = Federation::with(2, false, |config| config.limits.held_per_caller = 2).await;
    let [first, second] = [0, 1].map(|at| federation.members[at].researcher.as_str());
    let task = id(&federation.task(&[0]).await);
    let one = federation.follow(first, "latest").await;
    let another = federation.follow(first, "latest").await;
    let refused = federation.get(first, "/event").await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.expect(429)["code"], "too_many_streams");
    // Stock clients take an error for the end of the task: they are told how it stands instead, at once.
    let path = format!("/task/{task}/status");
    let status = federation.get(first, &path);
    let status = tokio::time::timeout(DEADLINE / 2, status).await.expect("the question is not held").expect(200);
    assert_eq!(status["status"], "pending");
    drop(federation.follow(second, "latest").await);
    drop(one);
    drop(federation.follow(first, "latest").await);
    drop(another);
}
