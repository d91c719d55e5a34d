//! `antigen-experiments world`: the tiny world's base, trained from nothing.

use std::{fs, path::PathBuf};

use antigen_engine::spec::parse_word;
use antigen_engine::world::{WorldFamily, WorldSpec, build_world};
use anyhow::Context;
use clap::Args;

use super::open_lab;

/// Arguments of `antigen-experiments world`.
#[derive(Debug, Args)]
pub struct WorldArgs {
    /// Folder for the base
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Family of the base's layers: llama or qwen2
    #[arg(long, default_value = "llama", value_parser = parse_word::<WorldFamily>)]
    pub family: WorldFamily,
    /// Seed of rows, weights and order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Trains the base.
///
/// # Errors
/// Files that cannot be written, or training that fails.
pub fn run(args: &WorldArgs) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let lab = open_lab(&args.device, args.seed, args.out.join("work"))?;
    build_world(&args.out, &WorldSpec { seed: args.seed, family: args.family, ..WorldSpec::default() }, &lab)?;
    println!("base: {}", args.out.display());
    Ok(())
}
