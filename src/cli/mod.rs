//! The command line: one file per command. `main.rs` matches, these act.

pub mod calibrate;
pub mod demo;
pub mod migrate;
pub mod openapi;
pub mod purify;
pub mod replay;
pub mod serve;
pub mod step;
mod summary;
mod telemetry;
mod terminal;
pub mod vet;
pub mod work;

use std::{future::Future, path::PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

pub use summary::print_report;
pub use telemetry::start_logging;
pub use terminal::terminal_progress;

use crate::config::Config;

/// Vets language models for backdoors and returns purified artifacts with their evidence.
#[derive(Debug, Parser)]
#[command(name = "antigen", version, propagate_version = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `antigen`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API and work on jobs, in one process.
    Serve(serve::ServeArgs),
    /// Work on jobs without serving the API.
    Work(work::WorkArgs),
    /// Run one step of a job; started by a worker.
    #[command(hide = true)]
    Step(step::StepArgs),
    /// Purify an adapter or a whole model without a server.
    Purify(purify::PurifyArgs),
    /// Measure again what a report says, and compare every rate.
    Replay(replay::ReplayArgs),
    /// Look for signs of a backdoor in an adapter or a whole model, in seconds, and change nothing.
    Vet(vet::VetArgs),
    /// Screen suspects that are known to be clean, and write the base's calibration.
    Calibrate(calibrate::CalibrateArgs),
    /// Show the whole journey: implant a backdoor, submit it to a server, print what came back.
    Demo(demo::DemoArgs),
    /// Bring the database's schema up to date.
    Migrate(migrate::MigrateArgs),
    /// Print the OpenAPI description of the API.
    Openapi(openapi::OpenapiArgs),
}

/// The source of the settings.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings file [default: antigen.toml, when there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory; wins over every other setting
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl SettingsArgs {
    /// Reads the settings and starts logging by them.
    ///
    /// # Errors
    /// A setting that is unknown or impossible.
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref()).context("reading the settings")?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        start_logging(&config.log)?;
        Ok(config)
    }
}

/// Runs asynchronous work on a runtime of its own.
///
/// # Errors
/// Those of the work, or that no runtime can be made.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(work)
}
