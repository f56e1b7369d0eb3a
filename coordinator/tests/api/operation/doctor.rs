//! `doctor` says whether it works, and why not.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{config, program, said, start};
use crate::database::{is_postgres, text};
use crate::identity::smtp::{Manner, Sink};

/// What it says, and whether all is well.
async fn examine(directory: &Path) -> (bool, String) {
    let output = program(directory, &["doctor"]).await.output().await.unwrap();
    (output.status.success(), said(&output))
}

/// The line of a check.
fn line<'a>(text: &'a str, check: &str) -> &'a str {
    let found = text.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(check)));
    found.unwrap_or_else(|| panic!("no check `{check}` in {text}"))
}

fn private_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
    directory
}

#[tokio::test]
async fn before_the_first_start_it_touches_nothing() {
    let directory = private_directory();
    let data = directory.path().join("data");
    // Not on the server of the other tests: nothing is made there either, but the note of its address would be here.
    let mut command = program(directory.path(), &["doctor", "--data-dir", data.to_str().unwrap()]).await;
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(line(&said(&output), "directory").contains("made by the first start"));
    assert!(!data.exists());
}

#[tokio::test]
async fn a_running_coordinator_is_asked_how_it_is() {
    let directory = private_directory();
    let running = start(config(directory.path()).await).await;
    let (well, text) = examine(directory.path()).await;
    assert!(well, "{text}");
    assert!(line(&text, "address").contains(running.url()), "{text}");
    assert!(line(&text, "service").contains("it answers"), "{text}");
    let engine = if is_postgres() { "PostgreSQL" } else { "SQLite" };
    assert!(line(&text, "database").contains(engine) && line(&text, "database").contains("schema"), "{text}");
    running.shutdown().await;
    let (well, text) = examine(directory.path()).await;
    assert!(well && line(&text, "service").contains("no coordinator runs"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_to_do() {
    let directory = private_directory();
    start(config(directory.path()).await).await.shutdown().await;
    let shown = directory.path().join("root-password");
    std::fs::write(&shown, "x").unwrap();
    std::fs::set_permissions(&shown, Permissions::from_mode(0o600)).unwrap();
    let (well, text) = examine(directory.path()).await;
    assert!(well && line(&text, "secrets").starts_with("odd"), "{text}");
    std::fs::set_permissions(&shown, Permissions::from_mode(0o604)).unwrap();
    let (well, text) = examine(directory.path()).await;
    assert!(!well && line(&text, "secrets").contains("604") && text.contains("chmod 600"), "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = program(directory.path(), &["doctor", "--listen", &address]).await.output().await.unwrap();
    let text = said(&output);
    assert!(line(&text, "address").starts_with("FAIL") && text.contains("--listen"), "{text}");
}

#[tokio::test]
async fn every_file_that_a_setting_names_for_its_secret_is_looked_at() {
    let directory = private_directory();
    start(config(directory.path()).await).await.shutdown().await;
    let secret = directory.path().join("secret");
    for setting in [
        "OBJECTS__OPTIONS__SECRET_ACCESS_KEY_FILE",
        "OBJECTS__OPTIONS__WEB_IDENTITY_TOKEN_FILE",
        "MAIL__PASSWORD_FILE",
        "ROOT__PASSWORD_FILE",
    ] {
        let ask = async |mode: Option<u32>| {
            let _ = std::fs::remove_file(&secret);
            if let Some(mode) = mode {
                std::fs::write(&secret, "whispered").unwrap();
                std::fs::set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
            }
            let mut command = program(directory.path(), &["doctor"]).await;
            command.env(format!("COORDINATOR__{setting}"), &secret);
            if setting.starts_with("OBJECTS") {
                // Nobody is asked; what matters here are the files.
                command.env("COORDINATOR__OBJECTS__URL", "s3://payloads");
                command.env("COORDINATOR__OBJECTS__OPTIONS__CHECKSUM_ALGORITHM", "none that there is");
            }
            let output = command.output().await.unwrap();
            said(&output)
        };
        let text = ask(Some(0o600)).await;
        assert!(line(&text, "secrets").starts_with("ok"), "{setting}: {text}");
        let text = ask(Some(0o644)).await;
        assert!(line(&text, "secrets").starts_with("FAIL") && text.contains("chmod 600"), "{setting}: {text}");
        let text = ask(None).await;
        assert!(line(&text, "secrets").starts_with("FAIL") && text.contains("cannot read"), "{setting}: {text}");
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_told_with_its_reason() {
    let directory = private_directory();
    let mut command = program(directory.path(), &["doctor"]).await;
    if is_postgres() {
        command.env("COORDINATOR__DATABASE__URL", "postgres://nobody:secret@127.0.0.1:1/nowhere");
    } else {
        std::fs::write(directory.path().join("coordinator.sqlite"), "this is no database, and never was one").unwrap();
    }
    let output = command.output().await.unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(line(&text, "database").starts_with("FAIL"), "{text}");
    assert!(!text.contains("secret@"), "{text}");
}

#[tokio::test]
async fn a_database_that_was_made_otherwise_is_used_by_nobody_and_told_with_its_reason() {
    for (sql, words) in [
        ("INSERT INTO migration (version) VALUES (99)", "migration 99"),
        ("UPDATE migration_checksum SET checksum = 'another' WHERE version = 3", "migration 3"),
    ] {
        let directory = private_directory();
        start(config(directory.path()).await).await.shutdown().await;
        assert_eq!(text(directory.path(), sql).await, None);
        let (well, said_by_doctor) = examine(directory.path()).await;
        assert!(!well, "{said_by_doctor}");
        let line = line(&said_by_doctor, "database");
        assert!(line.starts_with("FAIL") && line.contains(words), "{said_by_doctor}");
        let output = program(directory.path(), &["start"]).await.output().await.unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains(words) && said(&output).contains("start the release"), "{}", said(&output));
    }
}

#[tokio::test]
async fn what_an_earlier_release_left_is_brought_up_to_date() {
    let directory = private_directory();
    start(config(directory.path()).await).await.shutdown().await;
    // As it was before checksums were kept.
    assert_eq!(text(directory.path(), "DROP TABLE migration_checksum").await, None);
    let (well, said) = examine(directory.path()).await;
    assert!(well && line(&said, "database").contains("schema"), "{said}");
    start(config(directory.path()).await).await.shutdown().await;
    let kept = "SELECT CAST(COUNT(*) AS TEXT) FROM migration_checksum";
    let all = "SELECT CAST(COUNT(*) AS TEXT) FROM migration";
    let kept = text(directory.path(), kept).await;
    assert!(kept.is_some() && kept == text(directory.path(), all).await, "{kept:?}");
}

#[tokio::test]
async fn a_mail_server_is_tried_with_its_log_in() {
    let directory = private_directory();
    let sink = Sink::start(Manner::Polite).await;
    let ask = async |port: u16| {
        let mut command = program(directory.path(), &["doctor"]).await;
        for (name, value) in [
            ("SERVER", "127.0.0.1"),
            ("PORT", &port.to_string()),
            ("ENCRYPTION", "none"),
            ("FROM", "noreply@example.org"),
            ("USERNAME", "us"),
            ("PASSWORD", "Mail-Secret-1"),
        ] {
            command.env(format!("COORDINATOR__MAIL__{name}"), value);
        }
        let output = command.output().await.unwrap();
        (output.status.success(), said(&output))
    };
    let (well, text) = ask(sink.address.port()).await;
    assert!(well && line(&text, "mail").starts_with("ok"), "{text}");
    assert!(sink.commands().iter().any(|line| line.starts_with("AUTH")), "{:?}", sink.commands());
    let (port, server) = (sink.address.port(), sink);
    drop(server);
    let (well, text) = ask(port).await;
    assert!(!well && line(&text, "mail").starts_with("FAIL") && !text.contains("Mail-Secret"), "{text}");
}
