use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use crate::lab::{PATIENCE, PROGRAM, folder, parent, processes, processes_naming, until};

#[tokio::test]
async fn every_answer_of_the_demonstration_agrees_with_the_pooled_data() {
    let (home, path) = folder();
    for arguments in [&["--json"][..], &["--json", "--nodes", "4", "--seed", "5"]] {
        let output = Command::new(PROGRAM)
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", &path)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{errors}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ok"], true);
        assert_eq!(report["sections"].as_array().unwrap().len(), 5);
        for section in report["sections"].as_array().unwrap() {
            for row in section["rows"].as_array().unwrap() {
                for value in row["values"].as_array().unwrap() {
                    let (federated, pooled) = (&value["federated"], &value["pooled"]);
                    let (federated, pooled) = (federated.as_f64().unwrap(), pooled.as_f64().unwrap());
                    let tolerance = if value["exact"] == true { 0.0 } else { (1e-9 * pooled.abs()).max(0.51e-10) };
                    assert!((federated - pooled).abs() <= tolerance, "{}: {row}", section["title"]);
                }
            }
        }
        let evidence = &report["evidence"];
        assert_eq!(evidence["twin_bytes_relayed"], 0);
        assert!(evidence["twin_bytes_direct"].as_u64().unwrap() > 0);
        assert_eq!(evidence["coordinator"]["findings"].as_array().unwrap().len(), 0);
        assert!(evidence["coordinator"]["bytes"].as_u64().unwrap() > 10_000);
        assert!(evidence["control"].as_u64().unwrap() > 600, "the search finds patients' rows where they are");
    }
    nothing_is_left(&path).await;
    home.close().unwrap();
}

#[tokio::test]
async fn an_interrupted_demonstration_leaves_no_process_and_no_file() {
    let (home, path) = folder();
    let mut child = Command::new(PROGRAM)
        .args(["demo", "--keep"])
        .env("TMPDIR", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // A run at work is the moment at which most could be left behind.
    until("a run is at work", async || run_of(&path)).await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends soon").unwrap();
    assert_eq!(status.code(), Some(1));
    nothing_is_left(&path).await;
    home.close().unwrap();
}

#[tokio::test]
async fn impossible_numbers_of_hospitals_are_refused() {
    for nodes in ["2", "17"] {
        let output = Command::new(PROGRAM).args(["demo", "--nodes", nodes]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("choose 3 to 16"));
    }
}

/// The agent of a run of a node whose files are below a path.
fn run_of(path: &camino::Utf8Path) -> Option<i32> {
    let all = processes();
    let nodes: Vec<i32> = all.iter().filter(|(_, line)| line.contains(path.as_str())).map(|(pid, _)| *pid).collect();
    let agent = all.iter().find(|(pid, line)| {
        line.contains("twinmesh-sandbox-init") && parent(*pid).is_some_and(|parent| nodes.contains(&parent))
    });
    agent.map(|(pid, _)| *pid)
}

async fn nothing_is_left(path: &camino::Utf8Path) {
    let left: Vec<_> = path.read_dir_utf8().unwrap().flatten().map(|entry| entry.into_path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_naming(path.as_str()), Vec::<String>::new());
}
