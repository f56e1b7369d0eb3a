//! The README's first task of one's own, step by step, with the command lines that a person types.

use std::process::Stdio;

use camino::Utf8Path;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::lab::{PROGRAM, folder, until};

struct Desk<'a> {
    home: &'a Utf8Path,
}

impl Desk<'_> {
    /// Runs a program of ours and returns exit code, stdout and stderr.
    async fn run(&self, program: &str, line: &str, input: &str) -> (i32, String, String) {
        let mut child = self.command(program, line).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    async fn twinmesh(&self, line: &str, input: &str) -> String {
        let (code, out, err) = self.run("twinmesh", line, input).await;
        assert_eq!(code, 0, "twinmesh {line}\n{out}{err}");
        out
    }

    fn daemon(&self, program: &str, line: &str) -> Child {
        self.command(program, line).stdin(Stdio::null()).spawn().unwrap()
    }

    fn command(&self, program: &str, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg(program)
            .args(line.split_whitespace())
            .current_dir(self.home)
            .env("TWINMESH_HOME", self.home.join("home"))
            .env("TWINMESH_ROOT_PASSWORD", "Choose-a-password-1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

#[tokio::test]
async fn the_first_task_of_the_readme_gives_its_answer() {
    let (home, path) = folder();
    let desk = Desk { home: &path };
    std::fs::create_dir(path.join("coordinator")).unwrap();
    let mut coordinator = desk.daemon(
        "coordinator",
        "start --data-dir coordinator --listen 127.0.0.1:0 --overlay-listen /ip4/127.0.0.1/tcp/0",
    );
    let ready =
        until("the coordinator is ready", async || std::fs::read(path.join("coordinator/coordinator.json")).ok());
    let ready: Value = serde_json::from_slice(&ready.await).unwrap();
    let url = ready["url"].as_str().unwrap();

    desk.twinmesh(&format!("login {url} --username root --password-stdin"), "Choose-a-password-1\n").await;
    desk.twinmesh("organization create hospital", "").await;
    desk.twinmesh("collaboration create first --organization hospital", "").await;
    let node = desk.twinmesh("node create --collaboration first --organization hospital --json", "").await;
    let node: Value = serde_json::from_str(&node).unwrap();
    desk.twinmesh("key create", "").await;
    let user = "user create robin --organization hospital --role Researcher --email robin@example.org --password-stdin";
    desk.twinmesh(user, "Choose-a-password-2").await;

    let mut data = String::from("age,weight\n");
    for age in [31, 44, 52, 60, 67, 73] {
        data.push_str(&format!("{age},{}\n", age + 20));
    }
    std::fs::write(path.join("data.csv"), data).unwrap();
    let configuration = format!(
        "coordinator_url = \"{url}\"\napi_key = {}\nstate_directory = \"node\"\nprivate_key = \"home/private_key.pem\"\n\
         [runtime]\nminimum = \"lite\"\n\
         [[databases]]\nlabel = \"default\"\ntype = \"csv\"\npath = \"data.csv\"\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n",
        node["api_key"]
    );
    std::fs::write(path.join("node.toml"), configuration).unwrap();
    for check in ["config check", "doctor"] {
        let (code, out, err) = desk.run("node", &format!("{check} --config node.toml"), "").await;
        assert_eq!(code, 0, "twinmesh-node {check}\n{out}{err}");
    }
    let mut daemon = desk.daemon("node", "start --config node.toml --stop-runs-on-exit");
    until("the node says that it works", async || {
        let (code, _, _) = desk.run("node", "status --config node.toml", "").await;
        (code == 0).then_some(())
    })
    .await;

    desk.twinmesh(&format!("login {url} --username robin --password-stdin"), "Choose-a-password-2").await;
    let status = desk.twinmesh("status", "").await;
    assert!(status.contains("the coordinator shows the key here") && status.contains("1 of 1"), "{status}");
    let task = format!(
        "task create --collaboration first --organization hospital --image {} --function summary \
         --argument columns=[\"age\"] --database default --wait --json",
        twinmesh_algorithms::IMAGE
    );
    let answer = desk.twinmesh(&task, "").await;
    // The mean of 31, 44, 52, 60, 67 and 73.
    assert!(answer.contains("54.5"), "{answer}");

    let refused = task.replace(twinmesh_algorithms::IMAGE, "somebody/else:1");
    let (code, _, err) = desk.run("twinmesh", &refused, "").await;
    assert_eq!(code, 1);
    assert!(err.contains("policies.allowed_algorithms"), "{err}");
    let (code, _, err) = desk.run("twinmesh", "login --username robin --password-stdin", "wrong").await;
    assert_eq!(code, 4, "{err}");
    let (code, _, err) = desk.run("twinmesh", "organization get nowhere", "").await;
    assert_eq!(code, 5, "{err}");

    daemon.kill().await.unwrap();
    coordinator.kill().await.unwrap();
    home.close().unwrap();
}
