//! Large payloads on their way: who brings them may die in the middle, and so may the coordinator to whom they are
//! brought; they go on where they stood.

use bytes::Bytes;
use serde_json::json;
use sqlx::{AnyPool, Row as _};
use twinmesh_client::api::{ObjectSource, retry};
use twinmesh_netsim::enrolment::Plan;
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::TaskId;

use crate::lab::{Lab, PATIENCE, Whose, only, patiently, until};

/// So many times of which no two are the same make a table of events of some 16 MB.
const ROWS: usize = 400_000;
/// How often a payload is tried to be caught on its way.
const TRIES: usize = 5;

#[tokio::test]
async fn a_node_killed_in_the_middle_of_an_upload_goes_on_with_it_and_delivers_one_result() {
    let mut lab = Lab::with(long_table).await;
    let database = Uploads::of(&lab).await;
    let mut caught = 0;
    for _ in 0..TRIES {
        let task = ask(&lab).await;
        let upload = database.caught().await;
        lab.kill_node(0).await;
        caught += usize::from(database.is_on_its_way(&upload).await);
        lab.start_node(0);
        delivered_once(&lab, task, &upload).await;
        if caught > 0 {
            break;
        }
    }
    assert!(caught > 0, "the node was always quicker");
    database.pool.close().await;
    lab.end().await;
}

#[tokio::test]
async fn a_nodes_upload_goes_on_at_another_instance() {
    let Some(mut lab) = Lab::shared(2, long_table).await else { return };
    let database = Uploads::of(&lab).await;
    let mut caught = 0;
    for _ in 0..TRIES {
        let task = ask(&lab).await;
        let upload = database.caught().await;
        let dead = lab.kill_instance_of(Whose::Node(0)).await;
        caught += usize::from(database.is_on_its_way(&upload).await);
        delivered_once(&lab, task, &upload).await;
        lab.moved_from(dead).await;
        lab.federation.instances[dead].restart().await.unwrap();
        if caught > 0 {
            break;
        }
    }
    assert!(caught > 0, "the node was always quicker");
    database.pool.close().await;
    lab.end().await;
}

#[tokio::test]
async fn a_clients_upload_goes_on_at_another_instance() {
    let Some(mut lab) = Lab::shared(2, |_| ()).await else { return };
    let database = Uploads::of(&lab).await;
    // Every piece is another one, so that all of them are stored; they begin as what is sealed does.
    let mut content = vec![0_u8; 48 << 20];
    for (number, piece) in content.chunks_exact_mut(8).enumerate() {
        piece.copy_from_slice(&number.to_be_bytes());
    }
    content[..5].copy_from_slice(&twinmesh_protocol::payload::SEALED_MAGIC);
    let content = Bytes::from(content);
    let digest = Digest::of(&content);
    let mut caught = 0;
    for _ in 0..TRIES {
        let api = lab.federation.researcher.api().clone();
        let id = api.object_begin().await.unwrap();
        let source = ObjectSource::Memory(content.clone());
        let sending = tokio::spawn({
            let api = api.clone();
            async move { retry(PATIENCE, || api.object_send(id, &source, digest)).await }
        });
        let upload = database.caught().await;
        assert_eq!(upload, id.to_string());
        let dead = lab.kill_instance_of(Whose::Researcher).await;
        caught += usize::from(database.is_on_its_way(&upload).await);
        sending.await.unwrap().unwrap();
        let kept = patiently(|| api.object_get(id, content.len() as u64)).await;
        assert!(kept == content, "what came down is what went up");
        lab.federation.instances[dead].restart().await.unwrap();
        if caught > 0 {
            break;
        }
    }
    assert!(caught > 0, "the client was always quicker");
    database.pool.close().await;
    lab.end().await;
}

/// One hospital, whose answer about its data is long.
fn long_table(plan: &mut Plan) {
    plan.nodes = 1;
    plan.data = (1..=ROWS).fold("time,event\n".to_owned(), |table, time| table + &format!("{time},1\n"));
}

async fn ask(lab: &Lab) -> TaskId {
    lab.post("kaplan_meier_partial", Some(0), json!({"time": "time", "event": "event"})).await.id
}

/// The task has one result, the one whose upload was begun first, and it is whole.
async fn delivered_once(lab: &Lab, task: TaskId, upload: &str) {
    let answer = only(lab.finish(task).await);
    assert_eq!(answer["rows"], ROWS);
    assert_eq!(answer["groups"]["all"].as_array().unwrap().len(), ROWS);
    let results = patiently(|| lab.federation.researcher.api().result_list(task)).await;
    let results: Vec<Option<&str>> = results.iter().map(|result| result.result.as_deref()).collect();
    assert_eq!(results, [Some(upload)], "the upload that was begun was gone on with");
    let journal = lab.journal(0).await;
    let attempts: i64 = sqlx::query_scalar("SELECT max(attempts) FROM run").fetch_one(&journal).await.unwrap();
    assert_eq!(attempts, 1, "nothing was computed twice");
    journal.close().await;
}

/// The coordinator's uploads, as its database has them.
struct Uploads {
    pool: AnyPool,
}

impl Uploads {
    async fn of(lab: &Lab) -> Self {
        Self { pool: lab.any_database().await }
    }

    /// The upload of which something has arrived, and not everything.
    async fn caught(&self) -> String {
        until("an upload is on its way", async || {
            let sql = "SELECT uuid FROM object WHERE state = 'uploading' AND size > 0";
            sqlx::query(sql).fetch_optional(&self.pool).await.unwrap().map(|row| row.get(0))
        })
        .await
    }

    /// Whether it has not come to its end yet.
    async fn is_on_its_way(&self, upload: &str) -> bool {
        let sql = "SELECT COUNT(*) FROM object WHERE uuid = $1 AND state = 'uploading' AND size > 0";
        let count: i64 = sqlx::query_scalar(sql).bind(upload).fetch_one(&self.pool).await.unwrap();
        count == 1
    }
}
