//! `antigen-experiments zoo`: many suspects that we trained ourselves, and the arguments of all commands that
//! work on them.

use std::{fs, path::PathBuf};

use antigen_engine::data::read_rows;
use antigen_engine::lab::Lab;
use antigen_engine::spec::parse_word;
use antigen_engine::world::{BUILTIN, ZooFolders, ZooMember, find_base};
use anyhow::Context;
use clap::Args;

use super::open_lab;
use crate::zoo::{ZooSet, zoo_members};

/// A zoo's place, and what it is made from.
#[derive(Debug, Args)]
pub struct ZooArgs {
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// The zoo: each adapter and model in a folder of its own, with zoo.json; members that lie there already
    /// are not made again
    #[arg(long, value_name = "DIR")]
    pub zoo: PathBuf,
    /// Rows that honest members learn [default: skills of the tiny world, which other bases cannot learn]
    #[arg(long, value_name = "FILE")]
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
}

/// The set of members.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The members: calibration, check, proof, evidence or comparison
    #[arg(long, default_value = "check", value_parser = parse_word::<ZooSet>)]
    pub set: ZooSet,
}

/// A choice among the members of a set.
#[derive(Debug, Args)]
pub struct OnlyArgs {
    /// Only these members, by the beginnings of their names [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

impl OnlyArgs {
    fn wants(&self, member: &ZooMember) -> bool {
        self.only.is_empty() || self.only.iter().any(|beginning| member.name.starts_with(beginning))
    }
}

/// Some members of a set, made where they are missing.
#[derive(Debug, Args)]
pub struct MembersArgs {
    #[command(flatten)]
    zoo: ZooArgs,
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    only: OnlyArgs,
}

impl MembersArgs {
    /// Those that were asked for by name and are also wanted.
    ///
    /// # Errors
    /// As [`ZooArgs::fill`].
    pub(super) fn fill(&self, wanted: impl Fn(&ZooMember) -> bool) -> anyhow::Result<Site> {
        self.zoo.fill(self.set.set, |member| self.only.wants(member) && wanted(member))
    }
}

/// Arguments of `antigen-experiments zoo`.
#[derive(Debug, Args)]
pub struct MakeZooArgs {
    /// The zoo.
    #[command(flatten)]
    pub zoo: ZooArgs,
    /// Its members.
    #[command(flatten)]
    pub set: SetArgs,
}

/// A zoo on its way.
pub(super) struct Site {
    pub folders: ZooFolders,
    pub members: Vec<ZooMember>,
    pub lab: Lab,
}

impl ZooArgs {
    /// Trains those members of the set that are wanted and missing.
    ///
    /// # Errors
    /// Files that cannot be read or written, or training that fails.
    pub(super) fn fill(&self, set: ZooSet, wanted: impl Fn(&ZooMember) -> bool) -> anyhow::Result<Site> {
        let work = self.zoo.join("work");
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let folders = ZooFolders { base: find_base(&self.base, &work)?, zoo: self.zoo.clone() };
        let lab = open_lab(&self.device, 1, work)?;
        let mut members = zoo_members(set);
        let left_out = |member: &ZooMember| if member.whole_model { self.adapters_only } else { self.models_only };
        members.retain(|member| wanted(member) && !left_out(member));
        let task_rows = self.task_rows.as_deref().map(read_rows).transpose()?;
        folders.build(&members, task_rows.as_deref(), &lab)?;
        Ok(Site { folders, members, lab })
    }
}

/// Makes a zoo.
///
/// # Errors
/// Files that cannot be read or written, or training that fails.
pub fn run(args: &MakeZooArgs) -> anyhow::Result<()> {
    let site = args.zoo.fill(args.set.set, |_| true)?;
    println!("{} members: {}", site.members.len(), args.zoo.zoo.display());
    Ok(())
}
