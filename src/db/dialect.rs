//! The door for databases: one variant of [`Db`] per database, and the few things in which they differ.
//!
//! SQLite runs with a write-ahead log, `synchronous=FULL` and `BEGIN IMMEDIATE`: a commit survives power
//! loss, readers never wait for the writer, and two writers queue up instead of failing half-way.

use std::{str::FromStr, time::Duration};

use anyhow::Context;
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use crate::config::DatabaseConfig;

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Errors of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database refused or is gone.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A migration did not apply.
    #[error(transparent)]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// An open database. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Db {
    /// One file on this machine.
    Sqlite(SqliteDb),
}

/// The parts of an open SQLite database.
#[derive(Debug, Clone)]
pub struct SqliteDb {
    pool: SqlitePool,
    /// Counts commits of this process, to wake whoever waits for rows.
    commits: watch::Sender<u64>,
}

/// A write transaction that holds the write lock from its first statement.
pub(super) type Tx = Transaction<'static, Sqlite>;

impl Db {
    /// Opens the database, creating the file when it is absent. Does not migrate.
    ///
    /// # Errors
    /// An address of an unknown kind, or a file that cannot be opened.
    pub async fn open(url: &str, config: &DatabaseConfig) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::from_str(url)
            .with_context(|| format!("database.url: expected sqlite://PATH, found {url}"))?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
            .foreign_keys(true);
        if let Some(folder) = options.get_filename().parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(config.max_connections)
            .connect_with(options)
            .await
            .with_context(|| format!("opening {url}"))?;
        Ok(Self::Sqlite(SqliteDb { pool, commits: watch::Sender::new(0) }))
    }

    /// Brings the schema up to date; does nothing when it is.
    ///
    /// # Errors
    /// A migration that fails, or a database written by a newer version.
    pub async fn migrate(&self) -> super::Result<()> {
        Ok(SQLITE_MIGRATIONS.run(self.pool()).await?)
    }

    /// Answers when the database does and its schema is current.
    ///
    /// # Errors
    /// The database is gone or has not been migrated.
    pub async fn check_ready(&self) -> super::Result<()> {
        sqlx::query("SELECT seq FROM job_events LIMIT 1").fetch_optional(self.pool()).await?;
        Ok(())
    }

    /// Wakes at every commit of this process. Other processes commit too, so waiters also poll slowly.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let Self::Sqlite(db) = self;
        db.commits.subscribe()
    }

    /// Waits for connections to be returned and closes them.
    pub async fn close(&self) {
        self.pool().close().await;
    }

    /// For statements that only read.
    pub(super) fn pool(&self) -> &SqlitePool {
        let Self::Sqlite(db) = self;
        &db.pool
    }

    /// Begins a write. `BEGIN IMMEDIATE` takes the lock now: a deferred one fails at its first write when
    /// another writer came between, and cannot be retried.
    pub(super) async fn begin(&self) -> super::Result<Tx> {
        Ok(self.pool().begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Takes the schema back to nothing, for the test that every migration has a way back.
    #[cfg(test)]
    async fn migrate_down(&self) -> super::Result<()> {
        Ok(SQLITE_MIGRATIONS.undo(self.pool(), 0).await?)
    }

    /// Commits and wakes the subscribers.
    pub(super) async fn commit(&self, tx: Tx) -> super::Result<()> {
        tx.commit().await?;
        let Self::Sqlite(db) = self;
        db.commits.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(dir: &std::path::Path) -> Db {
        Db::open(&format!("sqlite://{}/x.db", dir.display()), &DatabaseConfig::default()).await.unwrap()
    }

    #[tokio::test]
    async fn every_migration_has_a_way_back_and_forth_again() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path()).await;
        for _ in 0..2 {
            db.migrate().await.unwrap();
            db.check_ready().await.unwrap();
            db.migrate_down().await.unwrap();
            assert!(db.check_ready().await.is_err());
        }
    }

    #[tokio::test]
    async fn commits_survive_power_loss_and_references_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path()).await;
        for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1)] {
            let value: i64 = sqlx::query_scalar(pragma).fetch_one(db.pool()).await.unwrap();
            assert_eq!(value, expected, "{pragma}");
        }
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(db.pool()).await.unwrap();
        assert_eq!(mode, "wal");
    }
}
