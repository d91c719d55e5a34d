//! `antigen serve`: the API and a worker in one process, on SQLite and local files, without configuration.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::work::{open_workplace, stop_signal};
use super::{SettingsArgs, block_on};
use crate::app::App;
use crate::config::Config;
use crate::db;
use crate::router::build_router;
use crate::worker::run_worker;

/// Longest time that open connections (event streams above all) may hold up the end.
const DRAIN: Duration = Duration::from_secs(3);

/// Arguments of `antigen serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The source of the settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<SocketAddr>,
}

/// Serves until it is told to stop. The first line on standard output is the address.
///
/// # Errors
/// Another server has the data directory, the port is taken, or database or store cannot be opened.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let mut config = args.settings.load()?;
    if let Some(bind) = args.bind {
        config.server.bind = bind;
    }
    let _only_server = lock_data_dir(&config.data_dir)?;
    block_on(async {
        let shutdown = stop_signal()?;
        serve(config, shutdown, |address| println!("listening on http://{address}")).await
    })
}

/// Serves until `shutdown`; `ready` is told the address once the port is open.
///
/// # Errors
/// The port is taken, or database or store cannot be opened.
pub async fn serve(config: Config, shutdown: CancellationToken, ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(config.server.bind).await.with_context(|| format!("listening on {}", config.server.bind))?;
    let place = Arc::new(open_workplace(config).await?);
    db::release_interrupted_uploads(&place.db).await?;
    let app = App::new(place.config.clone(), place.db.clone(), place.store.clone());
    let worker = tokio::spawn(run_worker(Arc::clone(&place), shutdown.clone()));
    ready(listener.local_addr()?);
    let server = axum::serve(listener, build_router(app)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = async { server.await } => ended.context("serving")?,
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
    }
    shutdown.cancel();
    worker.await.context("the worker")?;
    place.db.close().await;
    Ok(())
}

/// One server per data directory: a second one would take the first one's running uploads for abandoned.
fn lock_data_dir(data_dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data_dir).with_context(|| format!("creating {}", data_dir.display()))?;
    let file = File::create(data_dir.join("serve.lock")).context("creating serve.lock")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another `antigen serve` uses the data directory {}", data_dir.display())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context("locking serve.lock"),
    }
}
