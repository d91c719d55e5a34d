//! `antigen openapi`: prints the description of the API, as it is committed in `openapi/openapi.json`.

use std::io::Write;

use clap::Args;

/// Arguments of `antigen openapi`.
#[derive(Debug, Args)]
pub struct OpenapiArgs {}

/// Prints the document to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn run(_: &OpenapiArgs) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(crate::openapi::document().as_bytes())?)
}
