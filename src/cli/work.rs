//! `antigen work`: a worker without the API, beside a server on the same machine and data directory.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{SettingsArgs, block_on};
use crate::artifacts::open_store;
use crate::config::Config;
use crate::db::Db;
use crate::worker::{Workplace, materialise_builtin, run_worker};

/// Arguments of `antigen work`.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// The source of the settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Works until it is told to stop.
///
/// # Errors
/// The database or the store cannot be opened.
pub fn run(args: &WorkArgs) -> anyhow::Result<()> {
    let config = args.settings.load()?;
    block_on(async {
        let place = Arc::new(open_workplace(config).await?);
        let shutdown = stop_signal()?;
        tracing::info!(owner = place.owner, "working");
        run_worker(place, shutdown).await;
        Ok(())
    })
}

/// Opens what a worker needs, with the schema up to date and the built-in base in place.
pub(super) async fn open_workplace(config: Config) -> anyhow::Result<Workplace> {
    let db = Db::open(&config.database_url(), &config.database).await?;
    db.migrate().await.context("migrating the database")?;
    let store = open_store(&config).context("opening the artifact store")?;
    let bases_dir = config.bases_dir();
    let written = tokio::task::spawn_blocking(move || materialise_builtin(&bases_dir)).await?;
    written.context("writing the built-in base")?;
    Workplace::new(config, db, store).context("entering the roll of workers")
}

/// Cancelled at Ctrl-C or SIGTERM.
pub(super) fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(token)
}
