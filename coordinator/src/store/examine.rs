//! What a database looks like from outside, without changing it.

use sqlx::{AnyConnection, Connection as _, Row as _};
use twinmesh_protocol::time::Time;

use super::engine::{self, Engine};
use super::{Location, Result, migration, time};

/// What there is to see.
#[derive(Debug)]
pub(crate) struct Examined {
    /// Which engine, with its version.
    pub(crate) engine: String,
    /// The newest migration and how many are missing, or why this program does not use the database, if there are any
    /// tables.
    pub(crate) schema: Option<Result<(i64, usize)>>,
    /// When the last event was recorded.
    pub(crate) last_event: Option<Time>,
    /// What the server's clock says, where it may be another machine's.
    pub(crate) server_time: Option<Time>,
}

/// Looks at the database, which must be there.
pub(crate) async fn examine(location: &Location) -> Result<Examined> {
    sqlx::any::install_default_drivers();
    let url = match location {
        Location::File(path) => engine::sqlite_url(path, "rw"),
        Location::Url(url) => url.clone(),
    };
    let engine = Engine::of(&url)?;
    let mut connection = AnyConnection::connect(&url).await?;
    let (name, table, version, clock) = match engine {
        Engine::Sqlite => {
            sqlx::raw_sql("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000").execute(&mut connection).await?;
            let table = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ('migration', 'migration_checksum')";
            ("SQLite", table, "SELECT sqlite_version()", None)
        }
        Engine::Postgres => {
            sqlx::raw_sql("SET default_transaction_read_only = on").execute(&mut connection).await?;
            let table = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() \
                         AND tablename IN ('migration', 'migration_checksum')";
            let clock = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
            ("PostgreSQL", table, "SELECT current_setting('server_version')", Some(clock))
        }
    };
    let version: String = sqlx::query(version).fetch_one(&mut connection).await?.try_get(0)?;
    let server_time = match clock {
        Some(clock) => time(sqlx::query(clock).fetch_one(&mut connection).await?.try_get(0)?),
        None => None,
    };
    let tables: i64 = sqlx::query(table).fetch_one(&mut connection).await?.try_get(0)?;
    let (mut schema, mut last_event) = (None, None);
    if tables > 0 {
        let applied = migration::applied(&mut connection, tables > 1).await?;
        let missing = migration::missing(migration::MIGRATIONS, &applied);
        schema = applied.keys().last().map(|newest| missing.map(|missing| (*newest, missing.len())));
    }
    if matches!(schema, Some(Ok(_))) {
        let row = sqlx::query("SELECT time FROM event ORDER BY sequence DESC LIMIT 1").fetch_optional(&mut connection);
        last_event = row.await?.map(|row| row.try_get(0)).transpose()?.and_then(time);
    }
    connection.close().await?;
    Ok(Examined { engine: format!("{name} {version}"), schema, last_event, server_time })
}
