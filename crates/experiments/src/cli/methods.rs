//! `antigen-experiments methods`: docs/METHODS.md, or the measured part of it as the service shows it.

use std::io::Write;

use clap::Args;

use crate::comparison::{measured_json, methods_page};

/// Arguments of `antigen-experiments methods`.
#[derive(Debug, Args)]
pub struct MethodsArgs {
    /// Print docs/results/methods.json instead: the measured numbers that `GET /v1/methods` shows
    #[arg(long)]
    pub json: bool,
}

/// Prints the page or the numbers.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &MethodsArgs) -> anyhow::Result<()> {
    let text = if args.json { measured_json() } else { methods_page() };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
