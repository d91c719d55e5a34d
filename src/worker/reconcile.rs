//! Puts right what a dead process left: leases that ran out, uploads that never came, jobs that nobody
//! started, folders and blobs that nobody names.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::folder::list_work_folders;
use super::{Workplace, roll};
use crate::db;
use crate::db::Timestamp;

/// Sweeps every `worker.reconcile_ms` until `shutdown`. A sweep that fails is logged and tried again.
pub async fn keep_reconciled(place: Arc<Workplace>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(place.config.worker.reconcile_ms.max(1)));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = reconcile(&place).await {
            tracing::error!(error = format!("{error:#}"), "sweep failed");
        }
    }
}

/// One sweep.
///
/// # Errors
/// The database, the store or the disk refuses.
pub async fn reconcile(place: &Workplace) -> anyhow::Result<()> {
    let worker = &place.config.worker;
    for owner in roll::list_dead(&place.config.roll_dir())? {
        db::end_leases_of(&place.db, &owner).await?;
        roll::strike(&place.config.roll_dir(), &owner)?;
    }
    let reaped = db::reap_expired_leases(&place.db, worker.retry_delay(2)).await?;
    if reaped > 0 {
        tracing::warn!(reaped, "steps of dead workers, or leases that had run out");
    }
    let now = Timestamp::now();
    db::expire_jobs(&place.db, now.before(Duration::from_secs(worker.queue_ttl_s))).await?;
    sweep_staging(place, now).await?;
    sweep_work_folders(place).await?;
    sweep_blobs(place).await
}

async fn sweep_staging(place: &Workplace, now: Timestamp) -> anyhow::Result<()> {
    let ttl = Duration::from_secs(place.config.artifacts.staging_ttl_s);
    db::expire_uploads(&place.db, now.before(ttl)).await?;
    for upload in place.store.staging().list()? {
        let waiting = db::find_upload(&place.db, upload).await?.is_some_and(|row| !row.state.is_final());
        if !waiting {
            place.store.staging().remove(upload)?;
        }
    }
    Ok(())
}

async fn sweep_work_folders(place: &Workplace) -> anyhow::Result<()> {
    for (job, folder) in list_work_folders(&place.config.work_dir())? {
        // An orphan may still be inside; it leaves by itself and the next sweep removes the folder.
        if !db::job_is_open(&place.db, job).await? && !folder.is_locked() {
            folder.remove()?;
        }
    }
    Ok(())
}

async fn sweep_blobs(place: &Workplace) -> anyhow::Result<()> {
    for sha256 in place.store.list_old_blobs().await? {
        if !db::blob_is_used(&place.db, &sha256).await? {
            place.store.delete_blob(&sha256).await?;
        }
    }
    Ok(())
}
