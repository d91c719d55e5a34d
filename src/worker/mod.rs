//! The queue's other side: claims steps, runs each in a child process, records how it ends.
//!
//! Any process here may die at any instant. What makes that harmless: the claim is a row with a lease and a
//! fence (`db::steps`), the work lies in content-addressed pieces in the job's folder (`folder.rs`), only the
//! holder of the folder's lock writes there (`step.rs`), and the result becomes visible in one fenced
//! transaction (`claimed.rs`). `roll.rs` only makes a restart faster. Read `claimed.rs` first.

mod child;
mod claimed;
mod folder;
mod lease;
mod progress;
mod protocol;
mod purifier;
mod reconcile;
mod roll;
mod step;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use folder::WorkFolder;
pub use protocol::{Made, StepLine, StepOrder};
pub use purifier::{PurifyOrder, ReplayOrder, materialise_builtin, purify_here, replay_here};
pub use reconcile::reconcile;
pub use step::run_step;

use crate::artifacts::ArtifactStore;
use crate::config::Config;
use crate::db;
use crate::db::{Claim, Db};

/// The things that every part of a worker needs.
#[derive(Debug)]
pub struct Workplace {
    /// The settings.
    pub config: Config,
    /// The queue.
    pub db: Db,
    /// The store of artifacts.
    pub store: ArtifactStore,
    /// The program that runs a step: this one.
    pub program: PathBuf,
    /// The name under which leases are held.
    pub owner: String,
    _presence: roll::Presence,
}

impl Workplace {
    /// A worker of this process.
    ///
    /// # Errors
    /// The operating system does not name the running program, or the data directory cannot be written.
    pub fn new(config: Config, db: Db, store: ArtifactStore) -> std::io::Result<Self> {
        let owner = format!("{}-{}", std::process::id(), db::Timestamp::now());
        let presence = roll::Presence::enter(&config.roll_dir(), &owner)?;
        Ok(Self { config, db, store, program: child::this_program()?, owner, _presence: presence })
    }
}

/// Works until `shutdown`, then stops its children, gives their steps back and returns.
pub async fn run_worker(place: Arc<Workplace>, shutdown: CancellationToken) {
    let sweeps = tokio::spawn(reconcile::keep_reconciled(Arc::clone(&place), shutdown.clone()));
    let slots = Arc::new(Semaphore::new(place.config.worker.concurrency as usize));
    let mut changes = place.db.subscribe();
    let mut running = JoinSet::new();
    while !shutdown.is_cancelled() {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
            () = shutdown.cancelled() => break,
        };
        changes.mark_unchanged();
        if let Some(claim) = claim_next(&place).await {
            let (place, shutdown) = (Arc::clone(&place), shutdown.clone());
            running.spawn(async move {
                run_claim(&place, &claim, &shutdown).await;
                drop(slot);
            });
            continue;
        }
        drop(slot);
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(place.config.worker.poll_ms)) => {}
            () = shutdown.cancelled() => {}
        }
    }
    while running.join_next().await.is_some() {}
    let _ = sweeps.await;
}

async fn claim_next(place: &Workplace) -> Option<Claim> {
    let worker = &place.config.worker;
    let lease = Duration::from_millis(worker.lease_ms);
    match db::claim_next_step(&place.db, &place.owner, lease, worker.retry_delay(2)).await {
        Ok(claim) => claim,
        Err(error) => {
            tracing::error!(%error, "no step could be claimed");
            None
        }
    }
}

async fn run_claim(place: &Arc<Workplace>, claim: &Claim, shutdown: &CancellationToken) {
    if let Err(error) = claimed::work_on(place, claim, shutdown).await {
        let error = format!("{error:#}");
        tracing::error!(job = %claim.job, step = ?claim.kind, error, "the step is left to its lease");
    }
}
