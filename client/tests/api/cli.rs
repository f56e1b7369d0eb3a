//! The command line: each command with its exit code, stdout and stderr.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p twinmesh-client --test api` writes what it prints at present.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::server::{Nodes, Server, UNIVERSITY, key};

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/cli.snapshot");

/// The commands, in order, on one home folder and one coordinator. Lines with `#` change the scene.
const SESSION: &str = "\
status
login <SERVER>
login <SERVER> --username grace --password-stdin < correct
login <SERVER> --username joan --password-stdin < correct
login <SERVER> --username joan --password-stdin --mfa-code 000000 < correct
login <SERVER> --username joan --password-stdin --mfa-code 123456 < correct
logout
login <SERVER> --username ada --password-stdin < wrong
login <SERVER> --username ada --password-stdin < correct
key show
key create
key create
status
key upload
# own key
status
key upload
status
organization list
organization get hospital-a
organization keys hospital-a
organization get hospital-c
organization get 99
organization create x
organization update hospital-a
organization delete hospital-a
organization delete hospital-a --yes
organization pin
collaboration list
collaboration get trial --json
node list
user list
role list
task create --collaboration trial --image twinmesh/builtin:0.1.0 --function summary_partial --database default --argument columns=[\"age\"] --wait
task create --collaboration trial --image twinmesh/builtin:0.1.0 --function summary --organization hospital-a --argument columns=[\"age\" --wait
task create --collaboration trial --image twinmesh/builtin:0.1.0 --function summary --organization hospital-a --wait --json
task create --collaboration trial --image twinmesh/builtin:0.1.0 --function summary --organization hospital-a --database default --dry-run
organization list
organization pin hospital-a --fingerprint 0000
task list
task get 1
task status 1
task wait 1
task status 77
run list --task 1
result list --task 1
result get --task 1
# tampered
result get --task 1
result get --task 1 --json
# strict nodes
task create --collaboration trial --image x --function f --wait
run logs 5
# another key
task create --collaboration trial --image x --function f
organization list --collaboration trial
# ended
organization list
# events
event follow --count 2
event follow --count 1 --json
logout
status
login http://127.0.0.1:9 --username ada --password-stdin < correct
task
nonsense
";

fn twinmesh(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_twinmesh"))
        .args(arguments)
        .env_clear()
        .env("TWINMESH_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input may have ended already.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

fn set_the_scene(server: &Server, home: &Path, scene: &str) {
    let mut state = server.state();
    match scene {
        "own key" => std::fs::write(home.join("private_key.pem"), key(UNIVERSITY).to_pem().as_bytes()).unwrap(),
        "tampered" => {
            let (mut values, other) = (state.results.clone(), key(UNIVERSITY).public().to_api());
            *values.values_mut().next().unwrap() = other;
            state.results = values;
        }
        "strict nodes" => state.nodes = Nodes::Strict,
        "another key" => state.organizations[2].public_key = key(UNIVERSITY).public().to_api(),
        "ended" => {
            state.generation += 1;
            state.refuse_refresh = true;
        }
        "events" => {
            state.generation -= 1;
            let event = |n: i64, kind: &str| {
                format!(
                    "id: {n}\nevent: {kind}\ndata: {{\"sequence\": {n}, \"kind\": \"{kind}\", \"task_id\": 1, \
                     \"time\": \"2026-11-23T02:21:12.429374\"}}\n\n"
                )
            };
            let hello = "event: hello\ndata: {\"sequence\": 3}\n\n";
            state.streams = vec![
                hello.to_owned() + &event(4, "task_created"),
                hello.to_owned() + &event(5, "run_assigned"),
                hello.to_owned() + &event(6, "node_online"),
            ];
        }
        other => panic!("no such scene: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_what_the_snapshot_says() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let mut text = String::new();
    for line in SESSION.lines() {
        if let Some(scene) = line.strip_prefix("# ") {
            set_the_scene(&server, &home, scene);
            text.push_str(&format!("{line}\n\n"));
            continue;
        }
        let (command, input) = line.split_once(" < ").unwrap_or((line, ""));
        let arguments: Vec<String> =
            command.split(' ').map(|argument| argument.replace("<SERVER>", &server.url)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = tokio::task::block_in_place(|| twinmesh(&home, &arguments, &format!("{input}\n")));
        let show = |bytes: &[u8]| filter(&String::from_utf8_lossy(bytes), &server.url, &home);
        text.push_str(&format!("$ twinmesh {line}\n? {}\n{}", output.status.code().unwrap(), show(&output.stdout)));
        for line in show(&output.stderr).lines() {
            text.push_str(&format!("! {line}\n"));
        }
        text.push('\n');
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let expected = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    for (at, (actual, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(actual, expected, "line {} of {SNAPSHOT}; UPDATE_SNAPSHOTS=1 accepts what is printed", at + 1);
    }
    assert_eq!(text.len(), expected.len(), "{SNAPSHOT} has another length");
}

/// Puts words in place of what differs from run to run.
fn filter(text: &str, server: &str, home: &Path) -> String {
    let text = text.replace(server, "<SERVER>").replace(home.to_str().unwrap(), "<HOME>");
    let text = replace_runs(&text, "<FINGERPRINT>", |rest| {
        let length = 8 * 5 - 1;
        let is_fingerprint = rest.len() >= length
            && rest.as_bytes()[..length].iter().enumerate().all(|(at, byte)| match at % 5 {
                4 => *byte == b' ',
                _ => byte.is_ascii_hexdigit(),
            });
        is_fingerprint.then_some(length)
    });
    let text = replace_runs(&text, "<KEY>", |rest| {
        rest.starts_with("-----BEGIN PUBLIC KEY").then(|| rest.find("-----END PUBLIC KEY-----").map(|at| at + 24))?
    });
    replace_runs(&text, "<AGO>", |rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let tail = &rest[digits..];
        let unit = [" s ago", " min ago", " h ago", " d ago"].into_iter().find(|unit| tail.starts_with(unit));
        unit.filter(|_| digits > 0).map(|unit| digits + unit.len()).or_else(|| rest.starts_with("now\n").then_some(3))
    })
}

/// Replaces what `length` recognises at the start of a word.
fn replace_runs(text: &str, word: &str, length: impl Fn(&str) -> Option<usize>) -> String {
    let mut result = String::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let is_start = !before.is_alphanumeric();
        match is_start.then(|| length(rest)).flatten() {
            Some(length) => {
                result.push_str(word);
                rest = &rest[length..];
                before = '>';
            }
            None => {
                result.push(first);
                rest = &rest[first.len_utf8()..];
                before = first;
            }
        }
    }
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_for_its_owner_alone() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    tokio::task::block_in_place(|| {
        let log_in = ["login", &server.url, "--username", "ada", "--password-stdin"];
        assert!(twinmesh(&home, &log_in, "correct\n").status.success());
        assert!(twinmesh(&home, &["key", "create"], "").status.success());
        assert!(twinmesh(&home, &["key", "upload", "--yes"], "").status.success());
    });
    #[cfg(unix)]
    for entry in std::fs::read_dir(&home).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "lock") {
            continue;
        }
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_twinmesh"))
        .args(["completions", "bash"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
}

#[test]
fn help_ends_with_an_example_and_names_the_exit_codes() {
    let home = Path::new("/nonexistent");
    let short = twinmesh(home, &["-h"], "");
    let long = twinmesh(home, &["--help"], "");
    assert!(String::from_utf8_lossy(&short.stdout).contains("Example:"));
    let long = String::from_utf8_lossy(&long.stdout).into_owned();
    for words in ["Exit codes:", "3  the coordinator cannot be reached", "Example:"] {
        assert!(long.contains(words), "{long}");
    }
}
