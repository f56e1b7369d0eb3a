//! A federation in a temporary folder, and what stories do with it.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AnyPool, AssertSqlSafe, Connection as _};
use twinmesh_client::api::ApiError;
use twinmesh_client::researcher::{NewTaskRequest, TaskResults};
use twinmesh_netsim::data::GBSG2;
use twinmesh_netsim::federation::{DATABASE, Federation, Plan};
use twinmesh_protocol::id::{OrganizationId, TaskId};
use twinmesh_protocol::wire::{NewTaskDatabase, Task};

/// The program that is coordinator and node.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_twinmesh-e2e");

/// How long a story waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) federation: Federation,
    home: tempfile::TempDir,
    /// The URL of the coordinators' PostgreSQL, if that is what they are on.
    database: Option<String>,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Plan)) -> Self {
        let home = tempfile::Builder::new().prefix("twinmesh-e2e-").tempdir().unwrap();
        let directory = Utf8Path::from_path(home.path()).unwrap();
        let mut plan = Plan::new(directory, GBSG2);
        change(&mut plan);
        let federation = Federation::start(&plan, Utf8Path::new(PROGRAM)).await.unwrap();
        Self { federation, home, database: plan.database }
    }

    /// Stops everything, removes the folder, and checks that nothing is left.
    pub(crate) async fn end(mut self) {
        self.federation.stop().await.unwrap();
        let path = self.home.path().to_owned();
        assert_eq!(processes_naming(path.to_str().unwrap()), Vec::<String>::new());
        self.home.close().unwrap();
        assert!(!path.exists());
    }

    pub(crate) fn organizations(&self) -> Vec<OrganizationId> {
        self.federation.hospitals.iter().map(|hospital| hospital.organization).collect()
    }

    /// A task for one hospital (by number from 0), or for all.
    pub(crate) fn request(&self, function: &str, at: Option<usize>, kwargs: Value) -> NewTaskRequest {
        let organizations = self.organizations();
        NewTaskRequest {
            organizations: at.map_or(organizations.clone(), |at| vec![organizations[at]]),
            kwargs: match kwargs {
                Value::Object(kwargs) => kwargs,
                _ => Map::new(),
            },
            databases: vec![NewTaskDatabase { label: DATABASE.into(), ..NewTaskDatabase::default() }],
            ..NewTaskRequest::new(self.federation.collaboration, twinmesh_algorithms::IMAGE, function)
        }
    }

    pub(crate) async fn post(&self, function: &str, at: Option<usize>, kwargs: Value) -> Task {
        self.federation.researcher.task(self.request(function, at, kwargs)).await.unwrap()
    }

    /// A task that needs only one hospital and little time.
    pub(crate) async fn post_small(&self) -> Task {
        self.post("summary_partial", Some(0), json!({"columns": ["age"]})).await
    }

    pub(crate) async fn finish(&self, task: TaskId) -> TaskResults {
        let researcher = &self.federation.researcher;
        tokio::time::timeout(PATIENCE, researcher.wait(task)).await.expect("the task ends in time").unwrap();
        researcher.results(task).await.unwrap()
    }

    /// The coordinator's database, as somebody who has the machine would use it.
    pub(crate) async fn coordinator_database(&self) -> SqlitePool {
        database(&self.federation.instances[0].data.join("coordinator.sqlite")).await
    }

    /// The same, whatever its engine is.
    pub(crate) async fn any_database(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = match &self.database {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", self.federation.instances[0].data.join("coordinator.sqlite")),
        };
        AnyPool::connect(&url).await.unwrap()
    }

    /// The journal of a hospital's node.
    pub(crate) async fn journal(&self, hospital: usize) -> SqlitePool {
        database(&self.federation.hospitals[hospital].state.join("journal.sqlite")).await
    }

    /// A federation with several coordinators on one PostgreSQL; none where there is no server to be tested on.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests should know")]
    pub(crate) async fn shared(instances: usize, change: impl FnOnce(&mut Plan)) -> Option<Self> {
        let Some(database) = shared_database().await else {
            eprintln!("skipped: needs PostgreSQL; run it by `tests/postgres.sh cargo test -p twinmesh-tests`");
            return None;
        };
        let lab = Self::with(|plan| {
            plan.instances = instances;
            plan.database = Some(database);
            plan.coordinator_environment.insert("COORDINATOR__DATABASE__READERS".into(), "4".into());
            change(plan);
        });
        Some(lab.await)
    }

    /// Which of the coordinators somebody is connected to.
    pub(crate) fn instance_of(&self, whose: Whose) -> usize {
        let url = match whose {
            Whose::Researcher => self.federation.researcher.api().base().to_owned(),
            Whose::Node(hospital) => self.federation.hospitals[hospital].status().unwrap().coordinator.url,
        };
        self.federation.instances.iter().position(|instance| instance.url == url).unwrap()
    }

    /// Kills the coordinator that somebody is connected to, and says which it was.
    pub(crate) async fn kill_instance_of(&mut self, whose: Whose) -> usize {
        let instance = self.instance_of(whose);
        self.federation.instances[instance].daemon.kill().await.unwrap();
        instance
    }

    /// Waits until all nodes follow another coordinator than this one, and are online.
    pub(crate) async fn moved_from(&self, dead: usize) {
        let dead = &self.federation.instances[dead].url;
        until("all nodes have moved", async || {
            let moved = self.federation.hospitals.iter().all(|hospital| {
                let status = hospital.status().filter(|status| Some(status.pid) == hospital.daemon.pid());
                status.is_some_and(|status| status.coordinator.link.connected && status.coordinator.url != *dead)
            });
            (moved && self.are_online().await).then_some(())
        })
        .await;
    }

    /// Whether all nodes are online.
    pub(crate) async fn are_online(&self) -> bool {
        let nodes = patiently(|| self.federation.root.node_list(Some(self.federation.collaboration))).await;
        nodes.iter().all(|node| node.status.as_deref() == Some("online"))
    }

    pub(crate) async fn kill_node(&mut self, hospital: usize) {
        self.federation.hospitals[hospital].daemon.kill().await.unwrap();
    }

    pub(crate) fn start_node(&mut self, hospital: usize) {
        self.federation.hospitals[hospital].daemon.start().unwrap();
    }
}

/// Asks until a coordinator that lives answers.
pub(crate) async fn patiently<T, F>(ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, ApiError>>,
{
    twinmesh_client::api::retry(PATIENCE, ask).await.unwrap()
}

/// Who is connected to a coordinator. Hospitals are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Researcher,
    Node(usize),
}

/// The URL of an empty database on the server that `tests/postgres.sh` has started.
async fn shared_database() -> Option<String> {
    let server = std::env::var("TWINMESH_TEST_POSTGRES").ok()?;
    let unique = tempfile::tempdir().unwrap();
    let unique = unique.path().file_name().unwrap().as_encoded_bytes();
    let schema = unique.iter().fold("e2e_".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let mut connection = PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    Some(format!("{server}{separator}options[search_path]={schema}"))
}

async fn database(path: &Utf8Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
    SqlitePool::connect_with(options).await.unwrap()
}

/// The only content of a task's results, as JSON.
pub(crate) fn only(results: TaskResults) -> Value {
    let mut contents = results.contents().unwrap();
    assert_eq!(contents.len(), 1);
    contents.remove(0).1.json().unwrap()
}

/// The command lines of processes that name a path.
pub(crate) fn processes_naming(path: &str) -> Vec<String> {
    processes().into_iter().map(|(_, line)| line).filter(|line| line.contains(path)).collect()
}

/// All processes and their command lines.
pub(crate) fn processes() -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in Utf8Path::new("/proc").read_dir_utf8().unwrap().flatten() {
        let Ok(pid) = entry.file_name().parse() else { continue };
        // A process may end while we look.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    found
}

/// The process that a process was started by.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Waits until a condition holds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(twinmesh_netsim::process::POLL).await;
    }
}

/// A temporary folder and its path.
pub(crate) fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(home.path().to_owned()).unwrap();
    (home, path)
}
