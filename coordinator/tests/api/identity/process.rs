//! The coordinator as a process keeps house: one per directory, secrets private, gone when told.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinmesh_coordinator::config::{Config, Secret};
use twinmesh_coordinator::{Coordinator, Running, StartError, Surroundings};

use crate::database::{can_be_shared, database, dump_and_restore, is_postgres};

async fn config(directory: &Path) -> Config {
    let database = database(directory).await;
    let mut config = Config { data_dir: directory.to_owned(), database, ..Config::default() };
    config.listen.set_port(0);
    config
}

async fn start(directory: &Path) -> Running {
    Coordinator::start(config(directory).await).await.unwrap()
}

fn host(running: &Running) -> String {
    running.url().trim_start_matches("http://").trim_end_matches("/api").to_owned()
}

/// Sends a request and reads what comes until the other side is done.
async fn ask(host: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn log_in(host: &str, password: &str) -> String {
    let body = json!({"username": "root", "password": password}).to_string();
    let length = body.len();
    let head = "POST /api/token/user HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    ask(host, &format!("{head}content-length: {length}\r\n\r\n{body}")).await
}

#[tokio::test]
async fn the_first_start_makes_up_a_password_and_keeps_it_private() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let path = directory.path().join("root-password");
    let password = std::fs::read_to_string(&path).unwrap();
    assert!(log_in(&host(&running), password.trim()).await.starts_with("HTTP/1.1 200"));
    assert!(log_in(&host(&running), "root").await.starts_with("HTTP/1.1 401"));
    let kept = if is_postgres() { vec!["instance-id"] } else { vec!["token-secret", "coordinator.sqlite"] };
    for name in kept.into_iter().chain(["root-password", "coordinator.json"]) {
        let mode = directory.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    running.shutdown().await;
    std::fs::remove_file(&path).unwrap();
    let running = start(directory.path()).await;
    assert!(!path.exists(), "a later start makes up nothing");
    running.shutdown().await;
}

#[tokio::test]
async fn a_weak_password_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path()).await;
    config.root.password = Some(Secret::new("root"));
    let error = Coordinator::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::RootPassword { .. }), "{error}");
    start(directory.path()).await.shutdown().await;
}

#[tokio::test]
async fn the_first_password_may_come_as_a_hash() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = config(directory.path()).await;
    wrong.root.password_hash = Some(Secret::new("Correct-Horse-1"));
    let error = Coordinator::start(wrong).await.unwrap_err();
    assert!(matches!(error, StartError::RootPassword { .. }) && error.to_string().contains("argon2id"), "{error}");

    // As stock servers are told.
    let (data, file) = (directory.path().join("data"), directory.path().join("hash"));
    std::fs::write(&file, format!("{}\n", bcrypt::hash("Correct-Horse-1", 4).unwrap())).unwrap();
    let mut command = program(&["start", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    if let Some(url) = database(directory.path()).await.url {
        command.env("COORDINATOR__DATABASE__URL", url.reveal());
    }
    let _running = command.env("V6_INIT_SUPER_PASS_HASHED_FILE", &file).spawn().unwrap();
    let url = ready(&data.join("coordinator.json")).await["url"].as_str().unwrap().to_owned();
    let host = url.trim_start_matches("http://").trim_end_matches("/api");
    assert!(log_in(host, "Correct-Horse-1").await.starts_with("HTTP/1.1 200"));
    assert!(!data.join("root-password").exists());
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let error = Coordinator::prepare(config(directory.path()).await, Surroundings::default()).await.unwrap_err();
    assert!(error.to_string().contains("another coordinator runs"), "{error}");
    assert!(directory.path().join("coordinator.json").exists(), "the first is left alone");
    running.shutdown().await;
}

#[tokio::test]
async fn what_is_held_open_is_dropped_without_an_answer_when_the_process_ends() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let ready = directory.path().join("coordinator.json");
    let told: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    assert_eq!(told["url"], running.url());
    assert_eq!(told["pid"], std::process::id());

    let password = std::fs::read_to_string(directory.path().join("root-password")).unwrap();
    let answer = log_in(&host(&running), password.trim()).await;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let token = body["access_token"].as_str().unwrap();
    let mut stream = TcpStream::connect(host(&running)).await.unwrap();
    let request = format!("GET /api/event HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 512];
    assert!(stream.read(&mut first).await.unwrap() > 0);

    tokio::time::timeout(Duration::from_secs(2), running.shutdown()).await.unwrap();
    assert!(!ready.exists());
    let mut rest = Vec::new();
    // Cut or closed, but at an end.
    let _ = stream.read_to_end(&mut rest).await;
    start(directory.path()).await.shutdown().await;
}

/// The program itself.
fn program(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_twinmesh-coordinator"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a coordinator that runs tells of itself.
async fn ready(path: &Path) -> Value {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("the coordinator becomes ready");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_program_starts_refuses_a_second_one_and_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let start = ["start", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut command = program(&start);
    if let Some(url) = database(directory.path()).await.url {
        command.env("COORDINATOR__DATABASE__URL", url.reveal());
    }
    let mut running = command.env("TWINMESH_ROOT_PASSWORD", "Correct-Horse-1").spawn().unwrap();
    let path = data.join("coordinator.json");
    ready(&path).await;
    assert!(!data.join("root-password").exists());

    let second = program(&start).output().await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another coordinator runs"));

    let pid = running.id().unwrap().to_string();
    let told = tokio::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await.unwrap();
    assert!(told.success());
    let ended = tokio::time::timeout(Duration::from_secs(2), running.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn the_settings_are_checked_and_shown_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("coordinator.toml");
    std::fs::write(&file, "[root]\npassword = \"Correct-Horse-1\"\n[tokens]\naccess_for = \"2h\"\n").unwrap();
    let path = file.to_str().unwrap();
    let shown = program(&["config", "show", "--config", path]).output().await.unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("access_for = \"2h\"") && !text.contains("Horse"), "{text}");
    let by_environment = program(&["config", "show"]).env("COORDINATOR__TOKENS__ACCESS_FOR", "3h").output().await;
    assert!(String::from_utf8(by_environment.unwrap().stdout).unwrap().contains("access_for = \"3h\""));

    std::fs::write(&file, "lisen = 1").unwrap();
    let checked = program(&["config", "check", "--config", path]).output().await.unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stderr).contains("lisen"));
    assert_eq!(program(&["nonsense"]).output().await.unwrap().status.code(), Some(2));
}

#[tokio::test]
async fn a_backup_made_while_the_coordinator_runs_can_be_started_from() {
    let directory = tempfile::tempdir().unwrap();
    let (data, copy) = (directory.path().join("data"), directory.path().join("copy.sqlite"));
    // Embedded, whatever the other tests run on.
    let embedded = |data: &Path| {
        let mut config = Config { data_dir: data.to_owned(), ..Config::default() };
        config.listen.set_port(0);
        config.root.password = Some(Secret::new("Correct-Horse-1"));
        config
    };
    let back_up = async || {
        let arguments = ["backup", "--data-dir", data.to_str().unwrap(), "--output", copy.to_str().unwrap()];
        program(&arguments).output().await.unwrap()
    };
    let missing = back_up().await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--data-dir"));

    let running = Coordinator::start(embedded(&data)).await.unwrap();
    let done = back_up().await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = back_up().await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    running.shutdown().await;

    let restored = directory.path().join("restored");
    std::fs::create_dir(&restored).unwrap();
    std::fs::rename(&copy, restored.join("coordinator.sqlite")).unwrap();
    let mut config = embedded(&restored);
    // The user comes from the copy.
    config.root.password = Some(Secret::new("Another-Horse-2"));
    let running = Coordinator::start(config).await.unwrap();
    assert!(log_in(&host(&running), "Correct-Horse-1").await.starts_with("HTTP/1.1 200"));
    running.shutdown().await;
}

#[tokio::test]
async fn a_dump_made_while_the_coordinator_runs_can_be_started_from() {
    if !can_be_shared() {
        return;
    }
    let (directory, restored) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = start(directory.path()).await;
    let password = std::fs::read_to_string(directory.path().join("root-password")).unwrap();
    assert!(log_in(&host(&running), password.trim()).await.starts_with("HTTP/1.1 200"));
    dump_and_restore(directory.path(), restored.path()).await;
    running.shutdown().await;

    let running = start(restored.path()).await;
    assert!(!restored.path().join("root-password").exists(), "the first user comes from the dump");
    assert!(log_in(&host(&running), password.trim()).await.starts_with("HTTP/1.1 200"));
    running.shutdown().await;
}

#[tokio::test]
async fn a_backup_of_a_server_is_left_to_its_own_tools() {
    let done = program(&["backup", "--output", "nowhere"]).env("COORDINATOR__DATABASE__URL", "postgres://x/y").output();
    let done = done.await.unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("pg_dump"));
}
