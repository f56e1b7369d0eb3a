//! `import` and `admin`: what an operator does at the machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{PASSWORD, config, program, said, start};
use crate::database::is_postgres;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/import.yaml");
const VANTAGE6: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vantage6.yaml");

async fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = program(directory, arguments).await;
    command.env("TWINMESH_ROOT_PASSWORD", PASSWORD).output().await.unwrap()
}

/// Runs it, expects it to succeed, and reads what it printed.
async fn done(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

async fn json(directory: &Path, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&done(directory, &all).await).unwrap()
}

/// Runs it, expects it to fail, and returns what it said.
async fn refused(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(directory, arguments).await;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    said(&output)
}

async fn log_in(url: &str, body: Value) -> (u16, Value) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let answer = client.post(url).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn count(report: &Value, outcome: &str, kind: &str) -> usize {
    let lines = report.as_array().unwrap().iter();
    lines.filter(|line| line["outcome"] == outcome && line["kind"] == kind).count()
}

#[tokio::test]
async fn a_file_of_vantage6_is_imported_and_its_users_and_nodes_log_in() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["import", VANTAGE6, "--json"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (kind, expected) in [("organization", 3), ("user", 3), ("collaboration", 2), ("node", 5)] {
        assert_eq!(count(&report, "created", kind), expected, "{report}");
    }
    let said = said(&output);
    assert!(said.contains("`tasks` of collaboration `ZEPPELIN`") && said.contains("gets `Researcher`"), "{said}");
    assert!(!said.contains("Correct-Horse") && !report.to_string().contains("Correct-Horse"));

    let again = json(directory.path(), &["import", VANTAGE6]).await;
    assert_eq!(count(&again, "created", "node") + count(&again, "created", "user"), 0);
    assert_eq!(count(&again, "kept", "node"), 5);

    let running = start(config(directory.path()).await).await;
    let user = json!({"username": "admin", "password": "Correct-Horse-1"});
    let (status, answer) = log_in(&format!("{}/token/user", running.url()), user).await;
    assert_eq!(status, 200, "{answer}");
    let root = json!({"username": "root", "password": PASSWORD});
    assert_eq!(log_in(&format!("{}/token/user", running.url()), root).await.0, 200);
    let node = json!({"api_key": "123e4567-e89b-12d3-a456-426614174003"});
    assert_eq!(log_in(&format!("{}/token/node", running.url()), node).await.0, 200);
    if !is_postgres() {
        let why = refused(directory.path(), &["import", VANTAGE6], 1).await;
        assert!(why.contains("stop the coordinator first"), "{why}");
        let why = refused(directory.path(), &["admin", "user", "list"], 1).await;
        assert!(why.contains("stop the coordinator first"), "{why}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn our_own_example_is_imported_with_all_it_adds() {
    let directory = tempfile::tempdir().unwrap();
    start(config(directory.path()).await).await.shutdown().await;
    let shown = json(directory.path(), &["import", EXAMPLE, "--dry-run"]).await;
    assert_eq!(count(&shown, "created", "organization"), 3);
    assert_eq!(json(directory.path(), &["admin", "organization", "list"]).await.as_array().unwrap().len(), 1);

    let keys = directory.path().join("keys");
    let report = json(directory.path(), &["import", EXAMPLE, "--keys-dir", keys.to_str().unwrap()]).await;
    for (kind, expected) in [("role", 1), ("user", 2), ("node", 2), ("study", 1), ("algorithm store", 1)] {
        assert_eq!(count(&report, "created", kind), expected, "{kind}: {report}");
    }
    // One key was given, the other made.
    let files: Vec<_> = std::fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!report.to_string().contains("api_key\""), "{report}");

    let history = json(directory.path(), &["admin", "key", "history", "hospital-a"]).await;
    assert_eq!((&history[0]["set_by"]["type"], &history[0]["replaced_at"]), (&json!("operator"), &Value::Null));
    let users = json(directory.path(), &["admin", "user", "list"]).await;
    let ada = users.as_array().unwrap().iter().find(|user| user["username"] == "ada").unwrap();
    assert_eq!(ada["roles"], json!(["Researcher", "auditor"]));

    let running = start(config(directory.path()).await).await;
    let key = std::fs::read_to_string(&files[0]).unwrap();
    let node = json!({"api_key": key.trim()});
    assert_eq!(log_in(&format!("{}/token/node", running.url()), node).await.0, 200);
    running.shutdown().await;
}

#[tokio::test]
async fn a_fault_names_line_and_key_and_nothing_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    start(config(directory.path()).await).await.shutdown().await;
    let file = directory.path().join("batch.yaml");
    let path = file.to_str().unwrap();
    let first = "organizations:\n  - name: first\n    users:\n      - {username: someone, password: Correct-Horse-1}\n";
    for (text, words) in [
        ("organizations:\n  - name: a\n    colour: red\n".to_owned(), ["batch.yaml", "line 3", "colour"]),
        (first.replace("Correct-Horse-1", "weak"), ["someone", "line 4", "--weak-passwords"]),
        (first.replace("password: Correct-Horse-1", "password_hash: x"), ["someone", "line 4", "bcrypt"]),
        (
            first.replace(
                "password: Correct-Horse-1",
                "password_hash: $2b$13$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            ),
            ["someone", "line 4", "cost 4 to 12"],
        ),
        (first.replace("password: Correct-Horse-1", "x: 1"), ["batch.yaml", "line 4", "x"]),
        (first.replace("someone,", "someone, roles: [Boss],"), ["someone", "line 4", "Boss"]),
        (first.replace("someone,", &format!("someone, lastname: {},", "x".repeat(129))), ["line 4", "lastname", "128"]),
        (
            first.replace("    users", &format!("    zipcode: {}\n    users", "x".repeat(129))),
            ["line 2", "zipcode", "128"],
        ),
        (format!("{first}collaborations:\n  - name: c\n    participants: [nobody]\n"), ["line 6", "`c`", "nobody"]),
        (
            format!("{first}collaborations:\n  - name: c\n    participants: [{{name: first, api_key: x}}]\n"),
            ["line 6", "first", "UUID"],
        ),
        (
            format!("{first}algorithm_stores:\n  - name: s\n    url: http://localhost/api\n"),
            ["line 6", "`s`", "insecure"],
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let why = refused(directory.path(), &["import", path], 1).await;
        assert!(words.iter().all(|word| why.contains(word)), "{text}: {why}");
        assert!(!why.contains("Correct-Horse"), "{why}");
    }
    let organizations = json(directory.path(), &["admin", "organization", "list"]).await;
    assert_eq!(organizations.as_array().unwrap().len(), 1);
    refused(directory.path(), &["import", "/nowhere.yaml"], 1).await;
    refused(directory.path(), &["import"], 2).await;

    std::fs::write(&file, first.replace("Correct-Horse-1", "weak")).unwrap();
    done(directory.path(), &["import", path, "--weak-passwords", "--all-rules"]).await;
    let users = json(directory.path(), &["admin", "user", "list"]).await;
    let someone = users.as_array().unwrap().iter().find(|user| user["username"] == "someone").unwrap();
    assert_eq!(someone["roles"], json!(["super"]));
    // The file grew: what is new is added to what was there.
    let grown = format!(
        "{first}      - {{username: another, password: Correct-Horse-2}}\ncollaborations:\n  - name: c\n    participants: [first, root]\n"
    );
    std::fs::write(&file, grown).unwrap();
    let report = json(directory.path(), &["import", path]).await;
    assert_eq!((count(&report, "kept", "user"), count(&report, "created", "user")), (1, 1));
    let made: Vec<_> = report.as_array().unwrap().iter().filter(|line| line["api_key"].is_string()).collect();
    assert_eq!(made.len(), 2, "{report}");
}

#[tokio::test]
async fn a_root_who_is_locked_out_gets_in_again() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path()).await).await;
    let url = format!("{}/token/user", running.url());
    let root = |password: &str| json!({"username": "root", "password": password});
    for _ in 0..6 {
        assert_ne!(log_in(&url, root("Wrong-Horse-1")).await.0, 200);
    }
    running.shutdown().await;
    let users = json(directory.path(), &["admin", "user", "list"]).await;
    assert_eq!((&users[0]["username"], &users[0]["locked"]), (&json!("root"), &json!(true)));
    done(directory.path(), &["admin", "user", "unlock", "root"]).await;
    done(directory.path(), &["admin", "user", "reset-two-factor", "root"]).await;
    let users = json(directory.path(), &["admin", "user", "list"]).await;
    assert_eq!((&users[0]["two_factor"], &users[0]["locked"]), (&json!(false), &json!(false)));

    let password = done(directory.path(), &["admin", "user", "reset-password", "root"]).await;
    let running = start(config(directory.path()).await).await;
    let url = format!("{}/token/user", running.url());
    assert_eq!(log_in(&url, root(password.trim())).await.0, 200);
    assert_ne!(log_in(&url, root(PASSWORD)).await.0, 200);
    running.shutdown().await;
}

#[tokio::test]
async fn users_and_keys_are_made_at_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    if !is_postgres() {
        let why = refused(data, &["admin", "user", "list"], 1).await;
        assert!(why.contains("there is no database"), "{why}");
    }
    done(data, &["import", VANTAGE6]).await;
    let secret = data.join("secret");
    std::fs::write(&secret, "Correct-Horse-9\n").unwrap();
    let file = secret.to_str().unwrap();
    let create =
        ["admin", "user", "create", "rescue", "--organization", "root", "--role", "root", "--password-file", file];
    assert_eq!(done(data, &create).await, "", "what was given is not shown");
    assert!(refused(data, &create, 1).await.contains("another user"));
    let nodes = json(data, &["admin", "node", "list"]).await;
    assert_eq!(nodes.as_array().unwrap().len(), 5);
    let table = done(data, &["admin", "node", "list"]).await;
    assert!(table.starts_with("ID  NAME") && !table.contains(" \n"), "{table}");
    let name = nodes[0]["name"].as_str().unwrap();
    let key_file = data.join("new.key");
    done(data, &["admin", "node", "new-key", name, "--key-file", key_file.to_str().unwrap()]).await;
    let key = std::fs::read_to_string(&key_file).unwrap();
    for (arguments, noun) in [
        (vec!["admin", "user", "unlock", "nobody"], "user"),
        (vec!["admin", "node", "new-key", "nobody"], "node"),
        (vec!["admin", "key", "history", "nobody"], "organization"),
    ] {
        let why = refused(data, &arguments, 5).await;
        assert!(why.contains(&format!("there is no {noun} `nobody`")), "{why}");
    }
    assert!(refused(data, &["admin", "user", "delete", "small"], 1).await.contains("--yes"));
    done(data, &["admin", "user", "delete", "small", "--yes"]).await;

    let running = start(config(data).await).await;
    let rescue = json!({"username": "rescue", "password": "Correct-Horse-9"});
    assert_eq!(log_in(&format!("{}/token/user", running.url()), rescue).await.0, 200);
    let node = json!({"api_key": key.trim()});
    assert_eq!(log_in(&format!("{}/token/node", running.url()), node).await.0, 200);
    running.shutdown().await;
}
