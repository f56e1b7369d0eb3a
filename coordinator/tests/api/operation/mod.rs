//! What an operator sees of a coordinator.

mod batch;
mod doctor;

use std::path::Path;
use std::process::{Output, Stdio};

use twinmesh_coordinator::config::{Config, Secret};
use twinmesh_coordinator::{Coordinator, Running};

use crate::database::database;

/// The first user's password.
const PASSWORD: &str = "Correct-Horse-1";

async fn config(directory: &Path) -> Config {
    let database = database(directory).await;
    let mut config = Config { data_dir: directory.to_owned(), database, ..Config::default() };
    config.listen.set_port(0);
    config.root.password = Some(Secret::new(PASSWORD));
    config
}

async fn start(config: Config) -> Running {
    Coordinator::start(config).await.unwrap()
}

/// The program with these arguments, on the database of this data directory.
async fn program(directory: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_twinmesh-coordinator"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(url) = database(directory).await.url {
        command.env("COORDINATOR__DATABASE__URL", url.reveal());
    }
    command.env("COORDINATOR__DATA_DIR", directory).env("COORDINATOR__LISTEN", "127.0.0.1:0");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
