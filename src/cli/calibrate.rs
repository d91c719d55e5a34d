//! `antigen calibrate`: the screen's yardstick for a base, made from suspects that are known to be clean.

use std::{fs, path::PathBuf, sync::Arc};

use antigen_engine::data::read_rows;
use antigen_engine::lab::Lab;
use antigen_engine::measure::detect::{CALIBRATION_FILE, Calibration, calibrate};
use antigen_engine::world::{BUILTIN, ZooFolders, ZooMember, calibration_members, find_base};
use antigen_models::device::open_device;
use anyhow::Context;
use clap::Args;

use super::{start_logging, terminal_progress};

/// Arguments of `antigen calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// Folder for the suspects, each in one of its own; those that lie there already are not made again
    #[arg(long, value_name = "DIR")]
    pub zoo: PathBuf,
    /// Rows that they learn [default: skills of the tiny world, which other bases cannot learn]
    #[arg(long, alias = "own-rows", value_name = "FILE")]
    pub task_rows: Option<PathBuf>,
    /// Leave out whole models
    #[arg(long)]
    pub adapters_only: bool,
    /// Leave out adapters
    #[arg(long, conflicts_with = "adapters_only")]
    pub models_only: bool,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// File for the calibration [default: susceptibility.json beside the base]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Makes a calibration, and the suspects that it needs. With one kind of suspect left out, the calibration
/// that the base has keeps that kind.
///
/// # Errors
/// Files that cannot be read or written, or training that fails.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    start_logging("warn")?;
    let work = args.zoo.join("work");
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let folders = ZooFolders { base: find_base(&args.base, &work)?, zoo: args.zoo.clone() };
    let lab = Lab::new(open_device(&args.device)?, 1, work, terminal_progress(), Arc::default());
    let left_out = |member: &ZooMember| if member.whole_model { args.adapters_only } else { args.models_only };
    let members: Vec<_> = calibration_members().into_iter().filter(|member| !left_out(member)).collect();
    let task_rows = args.task_rows.as_deref().map(read_rows).transpose()?;
    folders.build(&members, task_rows.as_deref(), &lab)?;
    let calibration = calibrate(&folders, &members, &lab)?.or_groups_of(Calibration::find(&folders.base)?);
    let out = args.out.clone().unwrap_or_else(|| folders.base.join(CALIBRATION_FILE));
    calibration.write(&out)?;
    println!("calibration: {}", out.display());
    Ok(())
}
