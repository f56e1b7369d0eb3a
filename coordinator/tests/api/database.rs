//! The engine that the tests run on: SQLite, or a PostgreSQL server where every test has a schema of its own.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use twinmesh_coordinator::config::{DatabaseConfig, Secret, Synchronous};

/// The variable that holds the URL of a server to be tested on; `tests/postgres.sh` starts one and sets it.
const VARIABLE: &str = "TWINMESH_TEST_POSTGRES";

/// Where a data directory's database is noted.
const NOTE: &str = "test-url";

/// The database of a coordinator with this data directory: the same whenever it is asked for.
pub(crate) async fn database(directory: &Path) -> DatabaseConfig {
    let embedded = DatabaseConfig { synchronous: Synchronous::Normal, ..DatabaseConfig::default() };
    if !is_postgres() {
        return embedded;
    }
    let note = directory.join(NOTE);
    let url = match std::fs::read_to_string(&note) {
        Ok(url) => url,
        Err(_) => {
            let url = new_schema().await;
            std::fs::write(&note, &url).unwrap();
            url
        }
    };
    DatabaseConfig { url: Some(Secret::new(url)), readers: 4, ..embedded }
}

/// Whether this is a test on PostgreSQL.
pub(crate) fn is_postgres() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// For tests of several coordinators on one database. Says what is missing where they cannot run.
#[expect(clippy::print_stderr, reason = "whoever runs the tests should know")]
pub(crate) fn can_be_shared() -> bool {
    if !is_postgres() {
        eprintln!("skipped: needs PostgreSQL; run it by `tests/postgres.sh cargo test -p twinmesh-coordinator`");
    }
    is_postgres()
}

/// The URL of an empty database.
async fn new_schema() -> String {
    let server = server();
    let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    format!("{server}{separator}application_name={schema}&options[search_path]={schema}")
}

fn server() -> String {
    std::env::var(VARIABLE).unwrap()
}

/// Dumps the server's database of one data directory and restores it as that of another, as docs/operations.md says.
pub(crate) async fn dump_and_restore(from: &Path, to: &Path) {
    let url = database(from).await.url.unwrap();
    let (_, schema) = url.reveal().rsplit_once('=').unwrap();
    let (server, dump) = (server(), to.join("dump"));
    let (host, _) = server.rsplit_once('/').unwrap();
    let empty = format!("{host}/{schema}");
    let mut connection = PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {schema}"))).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let (from_server, to_empty) = (format!("--dbname={server}"), format!("--dbname={empty}"));
    let (file, only) = (format!("--file={}", dump.display()), format!("--schema={schema}"));
    // The other schemas are other tests' databases.
    run("pg_dump", &["--format=custom", &from_server, &file, &only]).await;
    run("pg_restore", &["--exit-on-error", "--no-owner", &to_empty, dump.to_str().unwrap()]).await;
    let url = format!("{empty}?application_name={schema}&options[search_path]={schema}");
    std::fs::write(to.join(NOTE), url).unwrap();
}

async fn run(program: &str, arguments: &[&str]) {
    let done = tokio::process::Command::new(program).args(arguments).output().await.unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Does something to a database behind the coordinator's back.
pub(crate) async fn execute(directory: &Path, sql: String) {
    match database(directory).await.url {
        Some(url) => {
            let mut connection = PgConnection::connect(url.reveal()).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        None => {
            let file = directory.join("coordinator.sqlite");
            let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// One text of a coordinator's database.
pub(crate) async fn text(directory: &Path, sql: &'static str) -> Option<String> {
    let row = match database(directory).await.url {
        Some(url) => {
            let mut connection = PgConnection::connect(url.reveal()).await.unwrap();
            let row = sqlx::query_scalar(sql).fetch_optional(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            row
        }
        None => {
            let options = SqliteConnectOptions::new().filename(directory.join("coordinator.sqlite"));
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            let row = sqlx::query_scalar(sql).fetch_optional(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            row
        }
    };
    row.flatten()
}

/// Lets nobody else write to the database of a coordinator with this data directory, until the connection is closed.
pub(crate) async fn hold_writes(directory: &Path) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let (url, hold) = match database(directory).await.url {
        Some(url) => {
            let turn = "SELECT pg_advisory_xact_lock(7601, current_schema()::regnamespace::oid::int4)";
            (url.reveal().to_owned(), format!("BEGIN; LOCK TABLE decoy; {turn}"))
        }
        None => (format!("sqlite://{}", directory.join("coordinator.sqlite").display()), "BEGIN IMMEDIATE".into()),
    };
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut connection).await.unwrap();
    connection
}

/// Ends every connection to the database of a coordinator with this data directory.
pub(crate) async fn cut_connections(directory: &Path) {
    let url = database(directory).await.url.unwrap();
    let (_, schema) = url.reveal().rsplit_once('=').unwrap();
    let mut connection = PgConnection::connect(&server()).await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    let cut = sqlx::query(sql).bind(schema).fetch_all(&mut connection).await.unwrap();
    assert!(!cut.is_empty(), "a coordinator is connected");
    connection.close().await.unwrap();
}
