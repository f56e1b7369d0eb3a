use std::collections::BTreeSet;

use twinmesh_protocol::{id::OrganizationId, status::RunStatus};

use super::*;

fn directory() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().join("state")).unwrap();
    (folder, path)
}

fn acceptance(run: i64) -> Acceptance {
    Acceptance {
        run_id: RunId::new(run),
        task_id: TaskId::new(1),
        job_id: JobId::new(1),
        parent_id: None,
        details: Details {
            image: "image".into(),
            initiator: OrganizationId::new(1),
            manifest: None,
            mesh: "job-1".into(),
            members: vec![OrganizationId::new(1)],
        },
        manifest: Some((Digest::of(&run.to_be_bytes()), 1_000)),
        ports: vec![AlgorithmPort { port: 8888, label: Some("twin".into()) }],
        token_digest: Digest::of(b"token"),
    }
}

fn end(run: i64, log: &str) -> End {
    let patch = RunPatch { status: Some(RunStatus::Completed), log: Some(log.into()), ..RunPatch::default() };
    End { run_id: RunId::new(run), task_id: TaskId::new(1), job_id: JobId::new(1), patch }
}

fn at(seconds: i64) -> Time {
    Time::from_micros(seconds * 1_000_000)
}

#[tokio::test]
async fn a_run_keeps_seed_and_ports_over_attempts_and_restarts() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    let first = journal.run_begin(&acceptance(7), 1, at(10)).await.unwrap();
    let accepted = first.accepted.clone().unwrap();
    assert_eq!(first.stage, Stage::Begun { attempts: 1 });
    assert!(accepted.ports[0].external >= FIRST_EXTERNAL_PORT);
    journal.close().await;
    drop(journal);

    let journal = Journal::open(&path, None).await.unwrap();
    let again = journal.run_begin(&acceptance(7), 2, at(20)).await.unwrap();
    assert_eq!(again.stage, Stage::Begun { attempts: 2 });
    let again_accepted = again.accepted.unwrap();
    assert_eq!(again_accepted.seed.to_hex(), accepted.seed.to_hex());
    assert_eq!(again_accepted, accepted);
    assert_eq!(again.accepted_at, at(10));
    assert_eq!(again.started_at, at(20));
}

#[tokio::test]
async fn a_manifest_is_accepted_for_one_run_only_even_after_it_is_forgotten() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    journal.run_begin(&acceptance(7), 1, at(10)).await.unwrap();
    journal.run_finish(&end(7, ""), at(11)).await.unwrap();
    journal.run_forget(RunId::new(7), at(12)).await.unwrap();
    let replay = Acceptance { manifest: acceptance(7).manifest, ..acceptance(8) };
    let error = journal.run_begin(&replay, 1, at(13)).await.unwrap_err();
    assert!(matches!(error, JournalError::Replayed { run_id } if run_id == RunId::new(7)), "{error}");
    assert!(journal.run_fetch(RunId::new(8)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_run_that_was_delivered_and_forgotten_is_not_begun_again_under_its_own_id() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    journal.run_begin(&acceptance(7), 1, at(10)).await.unwrap();
    journal.run_begin(&acceptance(7), 2, at(10)).await.unwrap();
    journal.run_finish(&end(7, ""), at(11)).await.unwrap();
    journal.run_delivered(RunId::new(7), at(12)).await.unwrap();
    journal.run_forget(RunId::new(7), at(13)).await.unwrap();
    let error = journal.run_begin(&acceptance(7), 1, at(14)).await.unwrap_err();
    assert!(matches!(error, JournalError::Replayed { run_id } if run_id == RunId::new(7)), "{error}");
    assert!(journal.run_fetch(RunId::new(7)).await.unwrap().is_none());
}

#[tokio::test]
async fn the_first_end_of_a_run_is_the_one_that_stays() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    journal.run_begin(&acceptance(7), 1, at(10)).await.unwrap();
    journal.run_finish(&end(7, "first"), at(11)).await.unwrap();
    journal.run_finish(&end(7, "second"), at(12)).await.unwrap();
    assert_eq!(journal.run_patch(RunId::new(7)).await.unwrap().unwrap().log.as_deref(), Some("first"));
    journal.run_finish(&end(9, "refused"), at(12)).await.unwrap();
    let runs = journal.run_list().await.unwrap();
    assert_eq!(runs.iter().map(|run| run.stage).collect::<Vec<_>>(), [Stage::Finished; 2]);
    assert!(runs[1].accepted.is_none());
    journal.run_delivered(RunId::new(9), at(13)).await.unwrap();
    assert_eq!(journal.run_fetch(RunId::new(9)).await.unwrap().unwrap().stage, Stage::Delivered { at: at(13) });
}

#[tokio::test]
async fn two_nodes_do_not_share_a_state_directory() {
    let (_folder, path) = directory();
    let _journal = Journal::open(&path, None).await.unwrap();
    assert!(matches!(Journal::open(&path, None).await, Err(JournalError::InUse { .. })));
}

#[tokio::test]
async fn a_full_journal_says_so_and_serves_again_when_there_is_room() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, Some(128 << 10)).await.unwrap();
    journal.run_begin(&acceptance(1), 1, at(1)).await.unwrap();
    let error = journal.run_finish(&end(1, &"x".repeat(1 << 20)), at(2)).await.unwrap_err();
    assert!(matches!(error, JournalError::Full), "{error}");
    assert_eq!(journal.run_fetch(RunId::new(1)).await.unwrap().unwrap().stage, Stage::Begun { attempts: 1 });
    journal.run_finish(&end(1, "short"), at(3)).await.unwrap();
    assert_eq!(journal.run_fetch(RunId::new(1)).await.unwrap().unwrap().stage, Stage::Finished);
}

#[tokio::test]
async fn a_run_that_starts_over_gets_the_subtasks_it_made_before() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    journal.run_begin(&acceptance(1), 1, at(1)).await.unwrap();
    let run = RunId::new(1);
    let (same, other) = (Digest::of(b"same"), Digest::of(b"other"));
    let none = BTreeSet::new();
    let mut made = Vec::new();
    for (content, task) in [(same, 10), (same, 11), (other, 12)] {
        let claim = journal.subtask_claim(run, 1, content, &none).await.unwrap();
        assert_eq!(claim.task_id, None);
        journal.subtask_answered(&claim, TaskId::new(task)).await.unwrap();
        made.push((content, claim.occurrence));
    }
    assert_eq!(made, [(same, 0), (same, 1), (other, 0)]);
    for (content, task) in [(same, 10), (other, 12), (same, 11)] {
        let claim = journal.subtask_claim(run, 2, content, &none).await.unwrap();
        assert_eq!(claim.task_id, Some(TaskId::new(task)));
        journal.subtask_answered(&claim, TaskId::new(task)).await.unwrap();
    }
    assert_eq!(journal.subtask_claim(run, 2, same, &none).await.unwrap().task_id, None);
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_taken_up_again_unless_it_is_under_way() {
    let (_folder, path) = directory();
    let journal = Journal::open(&path, None).await.unwrap();
    journal.run_begin(&acceptance(1), 1, at(1)).await.unwrap();
    let content = Digest::of(b"content");
    let first = journal.subtask_claim(RunId::new(1), 1, content, &BTreeSet::new()).await.unwrap();
    let again = journal.subtask_claim(RunId::new(1), 1, content, &BTreeSet::new()).await.unwrap();
    assert_eq!(first, again);
    let beside = journal.subtask_claim(RunId::new(1), 1, content, &[(content, 0)].into()).await.unwrap();
    assert_eq!(beside.occurrence, 1);
}

#[test]
fn external_ports_are_free_ones_and_run_out_with_a_clear_error() {
    let used: Vec<i64> = (49_152..65_535).filter(|port| *port != 50_000).collect();
    assert_eq!(free_ports(&used, RunId::new(3), 1).unwrap(), [50_000]);
    assert!(matches!(free_ports(&used, RunId::new(3), 2), Err(JournalError::NoPort { .. })));
}
