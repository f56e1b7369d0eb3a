//! What one coordinator carries on this machine, on each engine: durable tasks, lists over a long history, log-ins,
//! events, streams, memory, and how soon it is back after a kill.
//!
//! The coordinator is a process of its own with its default settings; who asks is this process, on the same cores. So
//! beside each rate stands the time that the coordinator's own threads worked for one of them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value as Json, json};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::time::Instant;
use twinmesh_client::api::{Api, ApiOptions};
use twinmesh_protocol::id::{CollaborationId, OrganizationId, RoleId};
use twinmesh_protocol::payload::to_text;
use twinmesh_protocol::wire::{NewCollaboration, NewNode, NewOrganization, NewUser};

use super::link::Link;
use super::{Figure, Scale};
use crate::enrolment::password;
use crate::federation::wait_ready;
use crate::process::{Daemon, this_program};

/// The variable that holds the URL of a PostgreSQL server; `tests/postgres.sh` starts one and sets it.
const POSTGRES: &str = "TWINMESH_TEST_POSTGRES";
/// Who asks at the same time where a rate is measured.
const ASKERS: usize = 16;
/// Members of the small and of the large collaboration.
const SIZES: [usize; 2] = [3, 100];
const IMAGE: &str = "registry.example.org/image:1";
const RESEARCHER: RoleId = RoleId::new(5);
/// Restarts whose times are taken.
const RESTARTS: usize = 5;

/// The URL of a PostgreSQL server, if there is one.
#[expect(clippy::print_stderr, reason = "tells what is left out")]
pub(super) fn server() -> Option<String> {
    let server = std::env::var(POSTGRES).ok();
    if server.is_none() {
        eprintln!("PostgreSQL is not measured: run this by `tests/postgres.sh`, or set {POSTGRES}");
    }
    server
}

/// Measures on both engines, or on SQLite alone where no PostgreSQL is given.
pub(super) async fn run(scale: &Scale, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).context("cannot open more files")?;
    let on_server = server().map(|server| ("PostgreSQL", Some(server)));
    for (engine, server) in [("SQLite", None)].into_iter().chain(on_server) {
        let home = tempfile::Builder::new().prefix("twinmesh-bench-").tempdir()?;
        let directory = Utf8PathBuf::from_path_buf(home.path().to_owned())
            .map_err(|path| anyhow::anyhow!("the temporary folder {} is not UTF-8", path.display()))?;
        let database = match &server {
            Some(server) => Database::server(server).await?,
            None => Database::file(&directory),
        };
        let mut bench = Bench::start(engine, &directory, database, figures).await?;
        let measured = bench.measure(scale).await.with_context(|| format!("on {engine}"));
        bench.daemon.stop().await?;
        bench.database.remove().await?;
        measured?;
    }
    Ok(())
}

/// Where the tables are.
pub(super) struct Database {
    url: String,
    /// The schema of a server, and the server.
    schema: Option<(String, String)>,
}

impl Database {
    fn file(directory: &Utf8Path) -> Self {
        Self { url: format!("sqlite://{}", directory.join("coordinator/coordinator.sqlite")), schema: None }
    }

    pub(super) async fn server(server: &str) -> anyhow::Result<Self> {
        let schema = format!("bench_{:016x}", rand::random::<u64>());
        let mut connection = PgConnection::connect(server).await.context("cannot reach PostgreSQL")?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await?;
        connection.close().await?;
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options[search_path]={schema}");
        Ok(Self { url, schema: Some((schema, server.into())) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let Some((schema, server)) = &self.schema else { return Ok(()) };
        let mut connection = PgConnection::connect(server).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

/// A collaboration to ask in.
struct Place {
    collaboration: CollaborationId,
    organizations: Vec<OrganizationId>,
    /// Tokens of its nodes.
    nodes: Vec<String>,
}

struct Bench<'a> {
    engine: &'static str,
    database: Database,
    daemon: Daemon,
    data: Utf8PathBuf,
    host: String,
    root: String,
    root_password: String,
    researcher: String,
    places: Vec<Place>,
    figures: &'a mut Vec<Figure>,
}

impl<'a> Bench<'a> {
    async fn start(
        engine: &'static str,
        directory: &Utf8Path,
        database: Database,
        figures: &'a mut Vec<Figure>,
    ) -> anyhow::Result<Self> {
        let data = directory.join("coordinator");
        std::fs::create_dir_all(&data).with_context(|| format!("cannot create `{data}`"))?;
        let parent = std::process::id().to_string();
        let arguments =
            ["--parent", &parent, "coordinator", "start", "--data-dir", data.as_str(), "--listen", "127.0.0.1:0"];
        let root_password = password();
        let mut daemon = Daemon::new("coordinator", &this_program()?, &arguments, directory.join("coordinator.log"))
            .with_variable("TWINMESH_ROOT_PASSWORD", &root_password);
        if database.schema.is_some() {
            daemon = daemon.with_variable("COORDINATOR__DATABASE__URL", &database.url);
        }
        daemon.start()?;
        let url = wait_ready(&mut daemon, &data).await?.url;
        let mut bench = Self {
            engine,
            database,
            daemon,
            data,
            host: host(&url),
            root: String::new(),
            root_password,
            researcher: String::new(),
            places: Vec::new(),
            figures,
        };
        bench.figure("memory after start", bench.resident()?, "MiB");
        bench.enrol(&url).await?;
        Ok(bench)
    }

    async fn enrol(&mut self, url: &str) -> anyhow::Result<()> {
        let root = Api::new(url, ApiOptions::default())?;
        root.log_in_user("root", &self.root_password, None).await?;
        self.root = token(&root).await?;
        for size in SIZES {
            let mut organizations = Vec::new();
            for number in 0..size {
                let name = Some(format!("member {number} of {size}"));
                let new = NewOrganization { name, ..NewOrganization::default() };
                organizations.push(root.organization_create(&new).await?.id);
            }
            let new = NewCollaboration {
                name: format!("{size} members"),
                organization_ids: organizations.clone(),
                encrypted: false,
            };
            let collaboration = root.collaboration_create(&new).await?.id;
            let mut nodes = Vec::new();
            for organization in &organizations {
                let new = NewNode { collaboration_id: collaboration, organization_id: Some(*organization), name: None };
                let key = root.node_create(&new).await?.api_key.context("the node has no key")?;
                let node = Api::new(url, ApiOptions::default())?;
                node.log_in_node(&key).await?;
                nodes.push(token(&node).await?);
            }
            self.places.push(Place { collaboration, organizations, nodes });
        }
        // Of a member of both: who asks for tasks in the large collaboration must belong to it.
        let first = self.places[0].organizations[0];
        let large = self.places[1].collaboration;
        root.collaboration_organization_add(large, first).await?;
        let new = NewUser {
            username: "researcher".into(),
            password: self.root_password.clone(),
            email: "researcher@example.org".into(),
            firstname: None,
            lastname: None,
            organization_id: Some(first),
            roles: Some(vec![RESEARCHER]),
            rules: None,
        };
        root.user_create(&new).await?;
        let researcher = Api::new(url, ApiOptions::default())?;
        researcher.log_in_user("researcher", &self.root_password, None).await?;
        self.researcher = token(&researcher).await?;
        Ok(())
    }

    async fn measure(&mut self, scale: &Scale) -> anyhow::Result<()> {
        for place in 0..SIZES.len() {
            self.tasks(place, 1, scale).await?;
            self.tasks(place, ASKERS, scale).await?;
        }
        self.reports(scale).await?;
        self.events(scale).await?;
        self.log_ins(scale).await?;
        self.figure("memory when busy", self.resident()?, "MiB");
        self.streams(scale).await?;
        self.history(scale).await?;
        self.restarts().await?;
        self.lists(scale).await?;
        self.tasks(0, ASKERS, scale).await
    }

    /// Tasks made as fast as they are acknowledged.
    async fn tasks(&mut self, place: usize, askers: usize, scale: &Scale) -> anyhow::Result<()> {
        let body = self.body(place, usize::MAX);
        let count = self.places[place].organizations.len();
        let what = format!("tasks at {count} organizations, {askers} at once");
        self.rate(&what, askers, scale.span, "POST", 201, |_| ("/task".into(), body.clone())).await
    }

    /// Ends of runs, each with a small result.
    async fn reports(&mut self, scale: &Scale) -> anyhow::Result<()> {
        let node = self.places[0].nodes[0].clone();
        let mut link = Link::open(&self.host, &node).await?;
        let wanted = 4000;
        let path = format!("/run?state=open&per_page={wanted}");
        let open = link.ask("GET", &path, "").await?.expect(200)?;
        let own = json!(self.places[0].organizations[0]);
        let runs: Vec<i64> =
            items(&open)?.filter(|run| run["organization"]["id"] == own).filter_map(|run| run["id"].as_i64()).collect();
        ensure!(!runs.is_empty(), "there is no open run");
        let body = json!({"status": "completed", "result": to_text(&[7; 512]), "log": "done"}).to_string();
        let before = self.processor_time()?;
        let begun = Instant::now();
        let mut askers = Vec::new();
        for mine in runs.chunks(runs.len().div_ceil(ASKERS)) {
            let (mine, body, mut link) = (mine.to_vec(), body.clone(), Link::open(&self.host, &node).await?);
            let span = scale.span;
            askers.push(tokio::spawn(async move {
                let mut times = Vec::new();
                for run in mine {
                    let asked = Instant::now();
                    link.ask("PATCH", &format!("/run/{run}"), &body).await?.expect(200)?;
                    times.push(milliseconds(asked.elapsed()));
                    if begun.elapsed() > span {
                        break;
                    }
                }
                anyhow::Ok(times)
            }));
        }
        self.told("results delivered, 16 at once", begun, before, askers).await
    }

    /// One task after the other at a coordinator with nothing else to do, until a node that follows hears of its run.
    async fn events(&mut self, scale: &Scale) -> anyhow::Result<()> {
        let mut node = Link::open(&self.host, &self.places[0].nodes[1]).await?.follow("latest").await?;
        let mut link = Link::open(&self.host, &self.researcher).await?;
        let body = self.body(0, usize::MAX);
        let (mut heard, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..scale.samples {
            let asked = Instant::now();
            let post = async {
                let task = link.ask("POST", "/task", &body).await?.expect(201)?;
                anyhow::Ok((task, milliseconds(asked.elapsed())))
            };
            let hear = async {
                loop {
                    node.next().await?;
                    if node.data.contains("\"run_assigned\"") {
                        return anyhow::Ok(milliseconds(asked.elapsed()));
                    }
                }
            };
            let ((task, answer), event) = tokio::try_join!(post, hear)?;
            let data: Json = serde_json::from_str(&node.data)?;
            ensure!(data["task_id"] == task["id"], "the node was told of another task");
            heard.push(event);
            answered.push(answer);
        }
        self.times("POST to its answer, one at a time", &mut answered);
        self.times("POST to the event at a connected node", &mut heard);
        Ok(())
    }

    async fn log_ins(&mut self, scale: &Scale) -> anyhow::Result<()> {
        let body = json!({"username": "researcher", "password": self.root_password}).to_string();
        let what = "log-ins, 8 at once (argon2id, 19 MiB, 2 passes)";
        self.rate(what, 8, scale.span, "POST", 200, |_| ("/token/user".into(), body.clone())).await
    }

    /// Many streams that all hear everything: at rest, and when much happens.
    async fn streams(&mut self, scale: &Scale) -> anyhow::Result<()> {
        let (streams, tasks) = (scale.streams, 50);
        let before = self.resident()?;
        let mut followers = Vec::new();
        for _ in 0..streams {
            followers.push(Link::open(&self.host, &self.root).await?.follow("latest").await?);
        }
        let what = |what: &str| format!("{streams} event streams: {what}");
        self.figure(&what("memory for each"), (self.resident()? - before) * 1024.0 / streams as f64, "KiB");
        let worked = self.processor_time()?;
        let rest = scale.span;
        tokio::time::sleep(rest).await;
        let worked = self.processor_time()? - worked;
        self.figure(&what("processor at rest"), worked / rest.as_secs_f64() * 100.0, "%");

        let mut link = Link::open(&self.host, &self.researcher).await?;
        let body = self.body(0, 1);
        let from = followers.iter().map(|follower| follower.place).max().unwrap_or(0);
        let before = self.processor_time()?;
        let begun = Instant::now();
        let all: Vec<_> = followers
            .into_iter()
            .map(|mut follower| {
                tokio::spawn(async move {
                    let mut heard = 0;
                    // Two events of each task.
                    while heard < 2 * tasks {
                        follower.next().await?;
                        heard += usize::from(!follower.data.is_empty() && follower.place > from);
                    }
                    anyhow::Ok(follower)
                })
            })
            .collect();
        for _ in 0..tasks {
            link.ask("POST", "/task", &body).await?.expect(201)?;
        }
        let posted = begun.elapsed();
        for follower in all {
            follower.await??;
        }
        let ended = begun.elapsed();
        let worked = self.processor_time()? - before;
        self.figure(&what("burst of 100 events, posted in"), milliseconds(posted), "ms");
        self.figure(&what("burst of 100 events, the last has the last after"), milliseconds(ended), "ms");
        let told = (2 * tasks * streams) as f64;
        self.figure(&what("burst, processor for each event told"), worked * 1e6 / told, "us");
        self.figure(&what("memory after the burst"), self.resident()?, "MiB");
        Ok(())
    }

    /// Fills the tables with finished tasks, behind the coordinator's back.
    async fn history(&mut self, scale: &Scale) -> anyhow::Result<()> {
        self.daemon.stop().await?;
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&self.database.url).await?;
        let user: i64 = sqlx::query("SELECT id FROM user_account WHERE username = 'researcher'")
            .fetch_one(&mut connection)
            .await?
            .try_get(0)?;
        let [collaboration, organization] =
            [self.places[0].collaboration.get(), self.places[0].organizations[0].get()].map(|id| id.to_string());
        let (payload, count, user) = (to_text(&[7; 300]), scale.history, user.to_string());
        let fill = |sql: &str| {
            sql.replace("{count}", &count.to_string())
                .replace("{collaboration}", &collaboration)
                .replace("{organization}", &organization)
                .replace("{user}", &user)
                .replace("{payload}", &payload)
        };
        let mut tx = connection.begin().await?;
        for sql in HISTORY {
            sqlx::raw_sql(AssertSqlSafe(fill(sql))).execute(&mut *tx).await.context("cannot write the history")?;
        }
        tx.commit().await?;
        let count = |table: &str| format!("SELECT COUNT(*) FROM {table}");
        for table in ["task", "run", "event"] {
            let rows = sqlx::query(AssertSqlSafe(count(table))).fetch_one(&mut connection).await?;
            self.figure(&format!("history: rows of `{table}`"), rows.try_get::<i64, _>(0)? as f64, "");
        }
        // What an engine does by itself as a history grows, and has not done about one that was written at once.
        let settle =
            if self.database.schema.is_some() { "VACUUM (ANALYZE)" } else { "PRAGMA wal_checkpoint(TRUNCATE)" };
        sqlx::raw_sql(settle).execute(&mut connection).await?;
        connection.close().await?;
        self.start_again().await?;
        Ok(())
    }

    /// From the start of the process that was killed to its first good answer.
    async fn restarts(&mut self) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for _ in 0..RESTARTS {
            self.daemon.kill().await?;
            times.push(self.start_again().await?);
        }
        times.sort_by(f64::total_cmp);
        self.figure("restart after a kill, to the first answer: median", times[RESTARTS / 2], "ms");
        self.figure("restart after a kill, to the first answer: slowest", times[RESTARTS - 1], "ms");
        self.figure("memory after the restart", self.resident()?, "MiB");
        Ok(())
    }

    async fn start_again(&mut self) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.daemon.start()?;
        self.host = host(&wait_ready(&mut self.daemon, &self.data).await?.url);
        let mut link = Link::open(&self.host, &self.researcher).await?;
        link.ask("GET", "/task?per_page=1", "").await?.expect(200)?;
        Ok(milliseconds(begun.elapsed()))
    }

    /// Lists over the history, asked for one after the other.
    async fn lists(&mut self, scale: &Scale) -> anyhow::Result<()> {
        let mut root = Link::open(&self.host, &self.root).await?;
        let newest = root.ask("GET", "/task?name=history&per_page=1", "").await?.expect(200)?;
        let task = items(&newest)?.next().and_then(|task| task["id"].as_i64()).context("there is no history")?;
        let node = root.ask("GET", "/node?per_page=1&sort=id", "").await?.expect(200)?;
        let node = items(&node)?.next().and_then(|node| node["id"].as_i64()).context("there is no node")?;
        let node_token = self.places[0].nodes[0].clone();
        let (researcher, collaboration) = (self.researcher.clone(), self.places[0].collaboration);
        let deep = scale.history / 20;
        for (what, token, path) in [
            ("GET /task, the first 10", &researcher, "/task".to_owned()),
            ("GET /task, 10 in the middle", &researcher, format!("/task?page={deep}")),
            ("GET /task, the first 100", &researcher, "/task?per_page=100".to_owned()),
            ("GET /task of a collaboration", &researcher, format!("/task?collaboration_id={collaboration}")),
            ("GET /task with a status", &researcher, "/task?status=completed".to_owned()),
            ("GET /task with a rare status", &researcher, "/task?status=crashed".to_owned()),
            ("GET /task by root", &self.root.clone(), "/task".to_owned()),
            ("GET /task/ID", &researcher, format!("/task/{task}")),
            ("GET /run?task_id", &researcher, format!("/run?task_id={task}")),
            ("GET /result?task_id", &researcher, format!("/result?task_id={task}")),
            ("GET /run, the first 10", &researcher, "/run".to_owned()),
            ("GET /run, open at a node", &node_token, format!("/run?state=open&node_id={node}&include=task")),
        ] {
            let mut link = Link::open(&self.host, token).await?;
            let before = self.processor_time()?;
            let begun = Instant::now();
            let mut times = Vec::new();
            while times.len() < scale.samples && (times.len() < 3 || begun.elapsed() < scale.span) {
                let asked = Instant::now();
                link.ask("GET", &path, "").await?.expect(200)?;
                times.push(milliseconds(asked.elapsed()));
            }
            let worked = (self.processor_time()? - before) * 1e3 / times.len() as f64;
            self.times(what, &mut times);
            self.figure(&format!("{what}: processor"), worked, "ms");
        }
        // A reader that has to catch up.
        let behind = 10_000;
        let end = Link::open(&self.host, &self.root).await?.follow("latest").await?.place;
        let begun = Instant::now();
        let after = (end - behind).max(0).to_string();
        Link::open(&self.host, &self.root).await?.follow(&after).await?.reach(end).await?;
        self.figure("GET /event, catching up with the last 10,000", milliseconds(begun.elapsed()), "ms");
        Ok(())
    }

    /// The body of a task at the first members of a place.
    fn body(&self, place: usize, members: usize) -> String {
        let place = &self.places[place];
        let input = to_text(br#"{"method": "partial", "kwargs": {"columns": ["age", "sex"]}}"#);
        let organizations: Vec<_> =
            place.organizations.iter().take(members).map(|id| json!({"id": id, "input": input})).collect();
        json!({
            "name": "bench", "image": IMAGE, "description": "", "collaboration_id": place.collaboration,
            "organizations": organizations, "databases": [{"label": "default"}],
        })
        .to_string()
    }

    /// Asks the same from several sides at once, for a while.
    async fn rate(
        &mut self,
        what: &str,
        askers: usize,
        span: Duration,
        method: &'static str,
        status: u16,
        request: impl Fn(usize) -> (String, String),
    ) -> anyhow::Result<()> {
        let mut links = Vec::new();
        for _ in 0..askers {
            links.push(Link::open(&self.host, &self.researcher).await?);
        }
        let before = self.processor_time()?;
        let begun = Instant::now();
        let asking = links.into_iter().enumerate().map(|(number, mut link)| {
            let (path, body) = request(number);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < span {
                    let asked = Instant::now();
                    link.ask(method, &path, &body).await?.expect(status)?;
                    times.push(milliseconds(asked.elapsed()));
                }
                anyhow::Ok(times)
            })
        });
        let asking: Vec<_> = asking.collect();
        self.told(what, begun, before, asking).await
    }

    /// The rate, the times and the work of what was asked.
    async fn told(
        &mut self,
        what: &str,
        begun: Instant,
        before: f64,
        askers: Vec<tokio::task::JoinHandle<anyhow::Result<Vec<f64>>>>,
    ) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for asker in askers {
            times.extend(asker.await??);
        }
        let (span, worked) = (begun.elapsed().as_secs_f64(), self.processor_time()? - before);
        let count = times.len() as f64;
        self.figure(what, count / span, "/s");
        self.times(what, &mut times);
        self.figure(&format!("{what}: processor for each"), worked * 1e3 / count, "ms");
        Ok(())
    }

    fn times(&mut self, what: &str, times: &mut [f64]) {
        times.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
            if let Some(value) = times.get(at) {
                self.figure(&format!("{what}: {name}"), *value, "ms");
            }
        }
    }

    fn figure(&mut self, what: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { what: format!("{}: {what}", self.engine), value, unit });
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.daemon.pid().context("the coordinator does not run")
    }

    /// Resident memory in MiB.
    fn resident(&self) -> anyhow::Result<f64> {
        super::resident(self.pid()?)
    }

    /// Seconds that the coordinator's threads have worked since its start.
    fn processor_time(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // proc(5): after the name, which may hold anything, utime is field 14 and stime 15 of all.
        let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }
}

async fn token(api: &Api) -> anyhow::Result<String> {
    Ok(api.tokens().await.context("nobody is logged in")?.access_token)
}

fn host(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches("/api").into()
}

fn items(page: &Json) -> anyhow::Result<impl Iterator<Item = &Json>> {
    Ok(page["data"].as_array().context("the answer is no page")?.iter())
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// A history of finished tasks at every member of a collaboration, as the coordinator would have written it.
const HISTORY: [&str; 6] = [
    "INSERT INTO job (created_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
     SELECT -i FROM n",
    "INSERT INTO task (name, description, image, collaboration_id, job_id, init_org_id, init_user_id, created_at) \
     SELECT 'history', '', 'registry.example.org/image:1', {collaboration}, id, {organization}, {user}, \
     1700000000000000 + id * 1000000 FROM job WHERE created_at < 0 ORDER BY id",
    "INSERT INTO task_database (task_id, label, parameters) \
     SELECT id, 'default', '{}' FROM task WHERE name = 'history' ORDER BY id",
    "INSERT INTO run (task_id, organization_id, status, assigned_at, started_at, finished_at, input, result, log) \
     SELECT task.id, member.organization_id, 'completed', task.created_at, task.created_at + 1000, \
     task.created_at + 500000, '{payload}', '{payload}', 'done' FROM task \
     JOIN collaboration_organization member ON member.collaboration_id = task.collaboration_id \
     WHERE task.name = 'history' ORDER BY task.id, member.organization_id",
    "INSERT INTO event (time, kind, collaboration_id, organization_id, task_id, job_id) \
     SELECT created_at, 'task_created', collaboration_id, init_org_id, id, job_id FROM task \
     WHERE name = 'history' ORDER BY id",
    "INSERT INTO event (time, kind, collaboration_id, organization_id, task_id, job_id, run_id, status) \
     SELECT run.assigned_at + step.i, step.kind, task.collaboration_id, run.organization_id, task.id, task.job_id, \
     run.id, step.status FROM run JOIN task ON task.id = run.task_id \
     CROSS JOIN (SELECT 1 AS i, 'run_assigned' AS kind, 'pending' AS status \
     UNION ALL SELECT 2, 'run_status', 'active' UNION ALL SELECT 3, 'run_status', 'completed') step \
     WHERE task.name = 'history' ORDER BY run.id, step.i",
];
