//! `antigen openapi`: prints the description of the API, as it is committed in `openapi/openapi.json`, or the
//! JSON schema of the report, as in `openapi/report-2.schema.json`.

use std::io::Write;

use clap::Args;

/// Arguments of `antigen openapi`.
#[derive(Debug, Args)]
pub struct OpenapiArgs {
    /// Print the JSON schema of the report instead
    #[arg(long)]
    pub report_schema: bool,
}

/// Prints the document to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &OpenapiArgs) -> anyhow::Result<()> {
    let text = if args.report_schema { crate::openapi::report_schema() } else { crate::openapi::document() };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
