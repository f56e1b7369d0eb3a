use sqlx::{AnyPool, Row as _};

use super::engine::Engine;
use super::{Result, StoreError};

/// Append-only, and each runs beside the release before it: expand, move, contract.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../migrations/0001_base.sql")),
    (2, include_str!("../../migrations/0002_instance.sql")),
    (3, include_str!("../../migrations/0003_recovery.sql")),
    (4, include_str!("../../migrations/0004_object.sql")),
    (5, include_str!("../../migrations/0005_administration.sql")),
    (6, include_str!("../../migrations/0006_history.sql")),
];

/// The newest that this program knows.
pub(super) fn known() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, _)| *version)
}

/// Runs what the database does not have yet, each migration in a transaction of its own. Of several processes that
/// start together one does, and the others find it done.
pub(super) async fn run(engine: Engine, writer: &AnyPool) -> Result<()> {
    let known = known();
    loop {
        let mut tx = engine.begin_write(writer).await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)").execute(&mut *tx).await?;
        let found: i64 =
            sqlx::query("SELECT COALESCE(MAX(version), 0) FROM migration").fetch_one(&mut *tx).await?.try_get(0)?;
        if found > known {
            return Err(StoreError::FromTheFuture { found, known });
        }
        let Some((version, sql)) = MIGRATIONS.iter().find(|(version, _)| *version > found) else {
            return Ok(());
        };
        // The text is compiled in.
        sqlx::raw_sql(sqlx::AssertSqlSafe(engine.dialect(sql))).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO migration (version) VALUES ($1)").bind(*version).execute(&mut *tx).await?;
        tx.commit().await?;
    }
}
