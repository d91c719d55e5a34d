//! `antigen migrate`: brings the schema up to date. `serve` and `work` do the same at their start.

use clap::Args;

use super::{SettingsArgs, block_on};
use crate::db::Db;

/// Arguments of `antigen migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The source of the settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Migrates and says which database.
///
/// # Errors
/// The database cannot be opened, or a migration fails.
pub fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let config = args.settings.load()?;
    let url = config.database_url();
    block_on(async {
        let db = Db::open(&url, &config.database).await?;
        db.migrate().await?;
        db.close().await;
        Ok(())
    })?;
    println!("{url} is up to date");
    Ok(())
}
