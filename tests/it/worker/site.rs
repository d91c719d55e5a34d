//! A data directory of its own for each test: real SQLite, real files, settings with short times.

use std::{collections::BTreeMap, path::Path, time::Duration};

use antigen::{
    artifacts::{ArtifactStore, open_store},
    config::{BUILTIN_TINY_WORLD, Config},
    db::{self, ArtifactOrigin, ArtifactType, Claim, Db, EventKind, JobId, JobRow, NewArtifact, NewJob},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough to outlive a test, for leases that are not to run out.
pub const LONG: Duration = Duration::from_secs(600);
/// For leases that have run out by the next statement, and retries that follow at once.
pub const NONE: Duration = Duration::ZERO;

pub struct Site {
    pub config: Config,
    pub db: Db,
    pub store: ArtifactStore,
    dir: TempDir,
}

impl Site {
    pub async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        // Far longer than a busy machine delays a renewal; a test that wants a lease to run out shortens it.
        config.worker.lease_ms = 20_000;
        config.worker.renew_ms = 200;
        config.worker.poll_ms = 50;
        config.worker.reconcile_ms = 200;
        config.worker.retry_delay_ms = 10;
        config.worker.stop_grace_ms = 8_000;
        let db = Db::open(&config.database_url(), &config.database).await.unwrap();
        db.migrate().await.unwrap();
        let store = open_store(&config).unwrap();
        Self { config, db, store, dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A job on an artifact of one small file, which is no adapter.
    pub async fn job(&self) -> JobRow {
        let file = self.dir.path().join("file");
        std::fs::write(&file, "not an adapter").unwrap();
        let files = vec![self.store.put_file(&file, "adapter_config.json").await.unwrap()];
        let artifact =
            NewArtifact { kind: ArtifactType::Adapter, origin: ArtifactOrigin::Uploaded, facts: Value::Null, files };
        self.job_with_spec(artifact, BUILTIN_TINY_WORLD, json!({})).await
    }

    pub async fn job_with_spec(&self, artifact: NewArtifact, base: &str, spec: Value) -> JobRow {
        let artifact_id = db::insert_artifact(&self.db, &artifact).await.unwrap();
        let new = NewJob {
            artifact_id,
            task_rows_id: None,
            given_signature_id: None,
            base: base.to_owned(),
            spec,
            labels: BTreeMap::new(),
            max_attempts: self.config.worker.max_attempts,
        };
        db::insert_job(&self.db, &new).await.unwrap()
    }

    pub async fn claim(&self, lease: Duration) -> Option<Claim> {
        db::claim_next_step(&self.db, "test", lease, NONE).await.unwrap()
    }

    pub async fn find(&self, job: JobId) -> JobRow {
        db::find_job(&self.db, job).await.unwrap().unwrap()
    }

    pub async fn events(&self, job: JobId) -> Vec<EventKind> {
        db::list_events(&self.db, job, 0, 1000).await.unwrap().into_iter().map(|event| event.kind).collect()
    }

    /// Waits until the job satisfies `condition`; fails after a minute.
    pub async fn wait_for(&self, job: JobId, what: &str, condition: impl Fn(&JobRow) -> bool) -> JobRow {
        for _ in 0..1200 {
            let row = self.find(job).await;
            if condition(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the job is not {what}: {:?}, events {:?}", self.find(job).await, self.events(job).await);
    }
}
