//! What brings a database's tables up to date.
//!
//! What has been applied is kept with its checksum: a database is used only by a program that knows exactly how it was
//! made.

use std::collections::BTreeMap;

use sqlx::{AnyConnection, AnyPool, Row as _};
use twinmesh_protocol::digest::Digest;

use super::engine::Engine;
use super::{Result, StoreError};

/// A migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Migration {
    /// Its number.
    version: i64,
    /// Its text, in the words of [`Engine::dialect`].
    sql: &'static str,
}

impl Migration {
    fn checksum(&self) -> String {
        Digest::of(self.sql.as_bytes()).to_string()
    }
}

/// Append-only, and each runs beside the release before it: expand, move, contract.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../migrations/0001_base.sql") },
    Migration { version: 2, sql: include_str!("../../migrations/0002_instance.sql") },
    Migration { version: 3, sql: include_str!("../../migrations/0003_recovery.sql") },
    Migration { version: 4, sql: include_str!("../../migrations/0004_object.sql") },
    Migration { version: 5, sql: include_str!("../../migrations/0005_administration.sql") },
    Migration { version: 6, sql: include_str!("../../migrations/0006_history.sql") },
    Migration { version: 7, sql: include_str!("../../migrations/0007_relay.sql") },
    Migration { version: 8, sql: include_str!("../../migrations/0008_status.sql") },
    Migration { version: 9, sql: include_str!("../../migrations/0009_identity.sql") },
    Migration { version: 10, sql: include_str!("../../migrations/0010_notice.sql") },
];

/// What has been applied to a database: by number, with its checksum if that was kept.
pub(super) type Applied = BTreeMap<i64, Option<String>>;

/// Which of the known migrations a database lacks, in order.
///
/// # Errors
/// When the database has one that is not known, or another than is known.
pub(super) fn missing<'a>(known: &'a [Migration], applied: &Applied) -> Result<Vec<&'a Migration>> {
    let newest = known.iter().map(|migration| migration.version).max().unwrap_or_default();
    if let Some(found) = applied.keys().rev().find(|version| !known.iter().any(|known| known.version == **version)) {
        return Err(StoreError::FromTheFuture { found: *found, known: newest });
    }
    let altered = |migration: &&Migration| {
        applied.get(&migration.version).and_then(Option::as_ref).is_some_and(|sum| *sum != migration.checksum())
    };
    if let Some(Migration { version, .. }) = known.iter().find(altered) {
        return Err(StoreError::AlteredMigration { version: *version });
    }
    Ok(known.iter().filter(|migration| !applied.contains_key(&migration.version)).collect())
}

/// What has been applied to a database that has been used. Early releases kept no checksums.
pub(super) async fn applied(conn: &mut AnyConnection, has_checksums: bool) -> Result<Applied> {
    let sql = if has_checksums {
        "SELECT migration.version, migration_checksum.checksum FROM migration \
         LEFT JOIN migration_checksum ON migration_checksum.version = migration.version"
    } else {
        "SELECT version, CAST(NULL AS TEXT) FROM migration"
    };
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Applies what the database does not have yet, each migration in a transaction of its own. Of several processes that
/// start together one does, and the others find it done.
pub(super) async fn run(engine: Engine, writer: &AnyPool, known: &[Migration]) -> Result<()> {
    loop {
        let mut tx = engine.begin_write(writer).await?;
        for table in [
            "CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)",
            // Beside the other, which earlier releases write too.
            "CREATE TABLE IF NOT EXISTS migration_checksum (version BIGINT PRIMARY KEY, checksum TEXT NOT NULL)",
        ] {
            sqlx::query(table).execute(&mut *tx).await?;
        }
        let applied = applied(&mut tx, true).await?;
        let missing = missing(known, &applied)?;
        for migration in known.iter().filter(|known| matches!(applied.get(&known.version), Some(None))) {
            checksum_insert(&mut tx, migration).await?;
        }
        let Some(next) = missing.first() else {
            return Ok(tx.commit().await?);
        };
        // The text is compiled in.
        sqlx::raw_sql(sqlx::AssertSqlSafe(engine.dialect(next.sql))).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO migration (version) VALUES ($1)").bind(next.version).execute(&mut *tx).await?;
        checksum_insert(&mut tx, next).await?;
        tx.commit().await?;
    }
}

async fn checksum_insert(conn: &mut AnyConnection, migration: &Migration) -> Result<()> {
    sqlx::query("INSERT INTO migration_checksum (version, checksum) VALUES ($1, $2)")
        .bind(migration.version)
        .bind(migration.checksum())
        .execute(conn)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::engine;
    use super::super::testing::location;
    use super::*;
    use crate::config::Synchronous;

    const BASE: Migration = Migration {
        version: 1,
        sql: "CREATE TABLE trace (id {identity}, name TEXT); INSERT INTO trace (name) VALUES ('1')",
    };

    fn note(version: i64) -> Migration {
        let sql = match version {
            2 => "INSERT INTO trace (name) VALUES ('2')",
            3 => "INSERT INTO trace (name) VALUES ('3')",
            _ => "INSERT INTO trace (name) VALUES ('4')",
        };
        Migration { version, sql }
    }

    struct Database {
        engine: Engine,
        pool: AnyPool,
        _directory: tempfile::TempDir,
    }

    impl Database {
        async fn new() -> Self {
            sqlx::any::install_default_drivers();
            let directory = tempfile::tempdir().unwrap();
            let url = engine::url(&location(directory.path()).await);
            let engine = Engine::of(&url).unwrap();
            let pool = engine.writers(&url, Synchronous::Normal).await.unwrap();
            Self { engine, pool, _directory: directory }
        }

        async fn run(&self, known: &[Migration]) -> Result<()> {
            run(self.engine, &self.pool, known).await
        }

        async fn execute(&self, sql: &'static str) {
            sqlx::query(sql).execute(&self.pool).await.unwrap();
        }

        /// Which migrations have run, in the order in which they did.
        async fn trace(&self) -> String {
            let rows = sqlx::query("SELECT name FROM trace ORDER BY id").fetch_all(&self.pool).await.unwrap();
            rows.iter().map(|row| row.try_get::<String, _>(0).unwrap()).collect()
        }

        async fn applied(&self) -> Applied {
            applied(&mut self.pool.acquire().await.unwrap(), true).await.unwrap()
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_applied_in_order_wherever_it_stands() {
        let database = Database::new().await;
        database.run(&[BASE, note(3)]).await.unwrap();
        assert_eq!(database.trace().await, "13");
        database.run(&[BASE, note(2), note(3), note(4)]).await.unwrap();
        assert_eq!(database.trace().await, "1324");
        database.run(&[BASE, note(2), note(3), note(4)]).await.unwrap();
        assert_eq!(database.trace().await, "1324", "each is applied once");
    }

    #[tokio::test]
    async fn an_altered_migration_is_refused_before_anything_is_applied() {
        let database = Database::new().await;
        database.run(&[BASE, note(2)]).await.unwrap();
        let altered = Migration { version: 2, sql: "INSERT INTO trace (name) VALUES ('two')" };
        let error = database.run(&[BASE, altered, note(3)]).await.unwrap_err();
        assert!(matches!(error, StoreError::AlteredMigration { version: 2 }), "{error}");
        let text = error.to_string();
        assert!(text.contains("migration 2") && text.contains("start the release"), "{text}");
        assert_eq!(database.trace().await, "12");
    }

    #[tokio::test]
    async fn a_database_of_a_later_release_is_refused_before_anything_is_applied() {
        let database = Database::new().await;
        database.run(&[BASE, note(4)]).await.unwrap();
        for known in [&[BASE, note(3)][..], &[BASE]] {
            let error = database.run(known).await.unwrap_err();
            assert!(matches!(error, StoreError::FromTheFuture { found: 4, .. }), "{error}");
            assert!(error.to_string().contains("migration 4"), "{error}");
        }
        assert_eq!(database.trace().await, "14");
    }

    #[tokio::test]
    async fn what_an_earlier_release_applied_gets_its_checksum() {
        let database = Database::new().await;
        database.run(&[BASE, note(2)]).await.unwrap();
        database.execute("DROP TABLE migration_checksum").await;
        database.run(&[BASE, note(2), note(3)]).await.unwrap();
        assert_eq!(database.trace().await, "123");
        let expected: Applied =
            [BASE, note(2), note(3)].map(|known| (known.version, Some(known.checksum()))).into_iter().collect();
        assert_eq!(database.applied().await, expected);
    }

    #[tokio::test]
    async fn several_that_start_together_apply_each_migration_once() {
        let database = Database::new().await;
        let known = [BASE, note(2), note(3)];
        let all = futures::future::join_all((0..4).map(|_| database.run(&known))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(database.trace().await, "123");
    }

    /// Databases out there were made by these texts: what is to be different goes into another migration.
    #[test]
    fn published_migrations_stay_as_they_are() {
        let checksums: Vec<_> = MIGRATIONS.iter().map(Migration::checksum).collect();
        let versions: Vec<_> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert!(versions.is_sorted() && versions.first() == Some(&1), "{versions:?}");
        let published = include_str!("../../migrations/checksums.txt");
        assert!(published.lines().eq(checksums.iter().map(String::as_str)), "{}", checksums.join("\n"));
    }
}
