//! `antigen step`: one step of a job in this process. A worker starts it and talks to it over pipes; see
//! `worker/step.rs`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::start_logging;
use crate::worker::{WorkFolder, run_step};

/// Arguments of `antigen step`.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Work folder with the order
    #[arg(long)]
    pub dir: PathBuf,
}

/// Runs the step. Its worker hands the log filter down in `ANTIGEN_LOG`.
///
/// # Errors
/// The log filter cannot be read.
pub fn run(args: &StepArgs) -> anyhow::Result<ExitCode> {
    start_logging(&std::env::var("ANTIGEN_LOG").unwrap_or_else(|_| "info".to_owned()))?;
    Ok(run_step(&WorkFolder::at(&args.dir)))
}
