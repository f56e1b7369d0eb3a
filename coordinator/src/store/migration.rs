use sqlx::{AnyPool, Row as _};

use super::{Result, StoreError};

/// Append-only, and each runs beside the release before it: expand, move, contract.
const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../../migrations/0001_base.sql"))];

/// How SQLite numbers rows without ever using a number twice.
const IDENTITY: &str = "INTEGER PRIMARY KEY AUTOINCREMENT";

/// Runs what the database does not have yet, each migration in a transaction of its own.
pub(super) async fn run(writer: &AnyPool) -> Result<()> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)").execute(&mut *tx).await?;
    let found: i64 =
        sqlx::query("SELECT COALESCE(MAX(version), 0) FROM migration").fetch_one(&mut *tx).await?.try_get(0)?;
    tx.commit().await?;

    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if found > known {
        return Err(StoreError::FromTheFuture { found, known });
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
        // The text is compiled in.
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("{identity}", IDENTITY))).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO migration (version) VALUES ($1)").bind(*version).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}
