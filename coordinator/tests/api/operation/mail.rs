//! Mail over TLS, to a server that proves who it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::process::Child;
use twinmesh_coordinator::config::{Config, Encryption, Secret};

use super::tls::Authority;
use super::{PASSWORD, exchange, program, said};
use crate::identity::smtp::{DISTRUSTED, ENCRYPTED, Security, Sink};
use crate::ledger::federation::{DEADLINE, Federation};

/// A server of this name that encrypts in this way.
async fn sink(authority: &Authority, name: &str, encryption: Encryption) -> Sink {
    let acceptor = authority.acceptor(name);
    Sink::secure(match encryption {
        Encryption::Starttls => Security::Starttls(acceptor),
        Encryption::Implicit => Security::Implicit(acceptor),
        Encryption::None => Security::None,
    })
    .await
}

#[tokio::test]
async fn mail_and_password_go_encrypted_to_a_server_for_which_the_named_authority_vouches() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    for encryption in [Encryption::Starttls, Encryption::Implicit] {
        let sink = sink(&authority, "localhost", encryption).await;
        let federation = Federation::bare(|config: &mut Config| {
            Sink::settings(sink.address)(config);
            config.mail.server = Some("localhost".into());
            config.mail.encryption = encryption;
            config.mail.ca_file = Some(authority.file());
            config.mail.username = Some("us".into());
            config.mail.password = Some(Secret::new("Mail-Secret-1"));
        })
        .await;
        let body = json!({"username": "root"});
        federation.ask(Method::POST, "/recover/lost", None, Some(body), &[]).await.expect(200);
        assert!(sink.nth(1).await.contains("To: root@"));
        let commands = sink.commands();
        let at = commands.iter().position(|line| line == ENCRYPTED).expect("it is encrypted");
        let before: Vec<&str> = commands[..at].iter().map(|line| line.split(' ').next().unwrap()).collect();
        match encryption {
            Encryption::Starttls => assert_eq!(before, ["EHLO", "STARTTLS"]),
            Encryption::Implicit | Encryption::None => assert!(before.is_empty(), "{before:?}"),
        }
        assert!(commands[at..].iter().any(|line| line.starts_with("AUTH")), "{commands:?}");
    }
}

#[tokio::test]
async fn a_mail_server_that_cannot_prove_who_it_is_gets_nothing_and_log_and_doctor_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    for encryption in [Encryption::Starttls, Encryption::Implicit] {
        for (name, is_known, words) in [
            ("mail.example.org", true, ["for another name", "`mail.server`"]),
            ("localhost", false, ["authority that is not known", "`mail.ca_file`"]),
        ] {
            let sink = sink(&authority, name, encryption).await;
            let settings =
                Settings { port: sink.address.port(), encryption, ca_file: is_known.then(|| authority.file()) };
            let data = tempfile::tempdir().unwrap();
            let mut daemon = Daemon::start(data.path(), &settings).await;
            let body = json!({"username": "root"}).to_string();
            let head = "POST /api/recover/lost HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
            let head = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            assert_eq!(exchange(&daemon.host, format!("{head}{body}")).await.status, 200);
            let line = daemon.line("cannot send a mail yet").await;
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
            daemon.child.kill().await.unwrap();

            let output = settings.apply(program(data.path(), &["doctor"]).await).output().await.unwrap();
            let text = said(&output);
            let line = text.lines().find(|line| line.starts_with("FAIL  mail")).unwrap_or_else(|| panic!("{text}"));
            assert!(words.iter().all(|word| line.contains(word)), "{text}");
            assert!(!text.contains("Mail-Secret"), "{text}");

            sink.until(|sink| sink.commands().iter().filter(|line| *line == DISTRUSTED).count() >= 2).await;
            let commands = sink.commands();
            let harmless = |line: &String| line == DISTRUSTED || line == "STARTTLS" || line.starts_with("EHLO");
            assert!(commands.iter().all(harmless) && sink.mails().is_empty(), "{commands:?}");
        }
    }
}

#[tokio::test]
async fn an_authority_that_is_none_is_told_by_setting_and_file() {
    let data = tempfile::tempdir().unwrap();
    let empty = data.path().join("authority.pem");
    std::fs::write(&empty, "nothing of the kind\n").unwrap();
    let settings = Settings { port: 1, encryption: Encryption::Starttls, ca_file: Some(empty) };
    for verb in ["doctor", "start"] {
        let output = settings.apply(program(data.path(), &[verb]).await).output().await.unwrap();
        let text = said(&output);
        assert!(!output.status.success(), "{verb}: {text}");
        assert!(text.contains("`mail.ca_file`") && text.contains("authority.pem"), "{verb}: {text}");
    }
}

/// Settings of a program's mail.
struct Settings {
    port: u16,
    encryption: Encryption,
    ca_file: Option<PathBuf>,
}

impl Settings {
    fn apply(&self, mut command: tokio::process::Command) -> tokio::process::Command {
        let encryption = match self.encryption {
            Encryption::Starttls => "starttls",
            Encryption::Implicit => "implicit",
            Encryption::None => "none",
        };
        for (name, value) in [
            ("SERVER", "localhost"),
            ("PORT", &self.port.to_string()),
            ("ENCRYPTION", encryption),
            ("FROM", "noreply@example.org"),
            ("USERNAME", "us"),
            ("PASSWORD", "Mail-Secret-1"),
        ] {
            command.env(format!("COORDINATOR__MAIL__{name}"), value);
        }
        if let Some(path) = &self.ca_file {
            command.env("COORDINATOR__MAIL__CA_FILE", path);
        }
        command
    }
}

/// A coordinator as a process, with its log.
struct Daemon {
    child: Child,
    host: String,
    log: PathBuf,
}

impl Daemon {
    async fn start(data: &Path, settings: &Settings) -> Self {
        let log = data.join("log");
        let mut command = settings.apply(program(data, &["start"]).await);
        command.env("TWINMESH_ROOT_PASSWORD", PASSWORD).stderr(std::fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let ready = data.join("coordinator.json");
        let told = until(|| serde_json::from_slice::<Value>(&std::fs::read(&ready).ok()?).ok()).await;
        let host = told["url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches("/api").to_owned();
        Self { child, host, log }
    }

    /// Waits for the first line of the log with these words.
    async fn line(&self, words: &str) -> String {
        until(|| {
            let log = std::fs::read_to_string(&self.log).ok()?;
            // Whole lines only.
            log.split_inclusive('\n').find(|line| line.contains(words) && line.ends_with('\n')).map(str::to_owned)
        })
        .await
    }
}

/// Waits until there is something.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it comes to this")
}
