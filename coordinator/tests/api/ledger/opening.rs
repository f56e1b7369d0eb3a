//! Tasks that are asked for while somebody else writes: they are opened together, and nobody can tell.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;
use twinmesh_protocol::payload::to_text;

use super::federation::{Answer, Federation, id, ids, sealed};
use super::task::{encrypted_body, manifest, sign};
use crate::database::{execute, hold_writes, is_postgres};

/// Somebody who asks for a task.
struct Ask<'a> {
    token: &'a str,
    key: Option<&'static str>,
    body: Value,
}

/// What becomes of what is asked while nobody can write.
async fn together(federation: &Federation, asked: impl IntoIterator<Item = Ask<'_>>) -> Vec<Answer> {
    let holder = hold_writes(federation.directory.path()).await;
    let mut asked: Vec<_> = asked
        .into_iter()
        .map(|Ask { token, key, body }| {
            Box::pin(async move {
                let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
                federation.ask(Method::POST, "/task", Some(token), Some(body), &headers).await
            })
        })
        .collect();
    for asking in &mut asked {
        assert!(futures::poll!(asking).is_pending(), "nobody is answered before it is their turn");
    }
    holder.close().await.unwrap();
    futures::future::join_all(asked).await
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status.as_u16()).collect()
}

/// A task that differs from others in everything that is recorded of it.
fn body(federation: &Federation, number: usize) -> Value {
    let mut body = federation.task_body(if number.is_multiple_of(2) { &[1, 0] } else { &[0] });
    body["name"] = format!("task {number}").into();
    body["databases"] = json!([{"label": format!("database {number}")}]);
    for entry in body["organizations"].as_array_mut().unwrap() {
        entry["input"] = to_text(format!("{number} for {}", entry["id"]).as_bytes()).into();
    }
    body
}

/// Checks that an answer is about the task of a number, and so are its rows.
async fn check(federation: &Federation, answer: &Value, number: usize, member: usize) {
    assert_eq!(answer["name"], format!("task {number}"));
    let path = format!("/task/{}?include=runs", id(answer));
    let task = federation.get(&federation.members[member].researcher, &path).await.expect(200);
    assert_eq!(task["databases"], json!([{"label": format!("database {number}"), "parameters": "{}"}]));
    assert_eq!(task["init_org"]["id"], federation.members[member].organization);
    let runs = task["runs"].as_array().unwrap();
    assert_eq!(runs.len(), if number.is_multiple_of(2) { 2 } else { 1 });
    for run in runs {
        let input = format!("{number} for {}", run["organization"]["id"]);
        assert_eq!(run["input"], to_text(input.as_bytes()));
    }
}

async fn tasks(federation: &Federation) -> Vec<i64> {
    let mut tasks = ids(&federation.get(&federation.members[0].researcher, "/task?per_page=100").await.expect(200));
    tasks.reverse();
    tasks
}

#[tokio::test]
async fn each_is_answered_as_if_alone() {
    let federation = Federation::new(2, false).await;
    let leaver = federation.add_user("leaver", federation.members[0].organization, &[5]).await;
    let gone = federation.log_in("leaver").await;
    federation.delete(&federation.root, &format!("/user/{leaver}")).await.expect(200);
    let [first, second] = [0, 1].map(|member| federation.members[member].researcher.as_str());
    let mut impossible = body(&federation, 4);
    impossible["organizations"][0]["id"] = 99.into();
    let ask = |token, key, number| Ask { token, key, body: body(&federation, number) };
    let answers = together(
        &federation,
        [
            ask(first, None, 0),
            ask(second, None, 1),
            ask(first, Some("k"), 2),
            // Repeats the one before.
            ask(first, Some("k"), 2),
            Ask { token: first, key: None, body: impossible },
            // The keys of two callers are two keys.
            ask(second, Some("k"), 5),
            // The same key with something else.
            ask(first, Some("k"), 6),
            ask(&gone, None, 7),
            ask(first, None, 8),
        ],
    )
    .await;
    assert_eq!(statuses(&answers), [201, 201, 201, 200, 400, 201, 409, 401, 201]);
    assert_eq!(id(&answers[2].body), id(&answers[3].body));
    let opened = [(0, 0), (1, 1), (2, 0), (5, 1), (8, 0)];
    for (number, member) in opened {
        check(&federation, &answers[number].body, number, member).await;
    }
    let opened = opened.map(|(number, _)| &answers[number].body);
    assert_eq!(tasks(&federation).await, opened.map(id), "in the order in which they were asked for, and no others");
    let jobs: BTreeSet<_> = opened.iter().map(|answer| answer["job_id"].as_i64()).collect();
    assert_eq!(jobs.len(), 5, "each is a job of its own");

    let mut events = federation.follow(&federation.root, "0").await;
    let last = id(opened[4]);
    let heard = events.until(|event| event.kind == "run_assigned" && event.data["task_id"] == last).await;
    let told: Vec<i64> = heard
        .iter()
        .filter(|event| event.kind == "task_created")
        .map(|event| event.data["task_id"].as_i64().unwrap())
        .collect();
    assert_eq!(told, opened.map(id));
}

#[tokio::test]
async fn everybody_is_served_however_many_wait() {
    let federation = Federation::new(2, false).await;
    let researcher = federation.members[0].researcher.as_str();
    let asked = (0..80).map(|number| {
        let mut body = body(&federation, number);
        if number == 40 {
            // Too large to be opened with others.
            body["databases"][0]["query"] = "x".repeat(100_000).into();
        }
        Ask { token: researcher, key: None, body }
    });
    let answers = together(&federation, asked).await;
    assert!(statuses(&answers).iter().all(|status| *status == 201), "{:?}", statuses(&answers));
    let opened: BTreeSet<i64> = answers.iter().map(|answer| id(&answer.body)).collect();
    assert_eq!(tasks(&federation).await, opened.into_iter().collect::<Vec<_>>());
    for number in [0, 1, 31, 32, 33, 63, 64, 79] {
        check(&federation, &answers[number].body, number, 0).await;
    }
    assert_eq!(answers[40].body["name"], "task 40");
}

#[tokio::test]
async fn what_cannot_be_recorded_leaves_the_others_alone() {
    let federation = Federation::new(2, false).await;
    let broken = if is_postgres() {
        "ALTER TABLE task ADD CONSTRAINT broken CHECK (name <> 'task 2')"
    } else {
        "CREATE TRIGGER broken BEFORE INSERT ON task WHEN NEW.name = 'task 2' BEGIN SELECT RAISE(ABORT, 'broken'); END"
    };
    execute(federation.directory.path(), broken.into()).await;
    let researcher = federation.members[0].researcher.as_str();
    let asked = (0..4).map(|number| Ask { token: researcher, key: None, body: body(&federation, number) });
    let answers = together(&federation, asked).await;
    assert_eq!(statuses(&answers), [201, 201, 500, 201]);
    for number in [0, 1, 3] {
        check(&federation, &answers[number].body, number, 0).await;
    }
    assert_eq!(tasks(&federation).await.len(), 3);
}

#[tokio::test]
async fn subtasks_stay_in_their_job() {
    let federation = Federation::new(2, false).await;
    let parent = federation.task(&[1]).await;
    let container = federation.container(1, id(&parent)).await;
    let researcher = federation.members[0].researcher.as_str();
    let asked = [&*container, researcher, &container, researcher];
    let asked =
        asked.into_iter().enumerate().map(|(number, token)| Ask { token, key: None, body: body(&federation, number) });
    let answers = together(&federation, asked).await;
    assert_eq!(statuses(&answers), [201; 4]);
    let member = |number: usize| if number.is_multiple_of(2) { 1 } else { 0 };
    for (number, answer) in answers.iter().enumerate() {
        check(&federation, &answer.body, number, member(number)).await;
        let is_subtask = answer.body["job_id"] == parent["job_id"];
        assert_eq!(is_subtask, number.is_multiple_of(2));
        assert_eq!(answer.body["parent"]["id"] == parent["id"], is_subtask);
    }
    assert_ne!(answers[1].body["job_id"], answers[3].body["job_id"]);
}

#[tokio::test]
async fn one_manifest_makes_one_task() {
    let federation = Federation::new(2, true).await;
    let asking = &federation.members[0];
    let inputs = vec![(federation.members[1].organization, sealed())];
    let body = encrypted_body(&federation, &inputs, sign(&manifest(&federation, &inputs), &asking.key));
    let asked = (0..3).map(|_| Ask { token: &asking.researcher, key: None, body: body.clone() });
    let answers = together(&federation, asked).await;
    assert_eq!(statuses(&answers), [201, 200, 200]);
    assert!(answers.iter().all(|answer| answer.body["manifest"] == body["manifest"]));
    assert_eq!(tasks(&federation).await, [id(&answers[0].body)]);
}

#[tokio::test]
async fn who_leaves_before_it_is_their_turn_has_asked_for_nothing() {
    let federation = Federation::new(1, false).await;
    let holder = hold_writes(federation.directory.path()).await;
    let [mut leaving, mut staying] = [0, 1].map(|_| Box::pin(federation.task(&[0])));
    for asking in [&mut leaving, &mut staying] {
        assert!(futures::poll!(asking).is_pending());
    }
    drop(leaving);
    holder.close().await.unwrap();
    let task = staying.await;
    assert_eq!(tasks(&federation).await, [id(&task)]);
}
