//! `antigen-experiments sweep`: one setting of a method along its values, on every suspect of a zoo (Figure 2
//! and Tables 4, 9, 10 and 11 of arXiv 2603.13461; the strategies of `prune_heads`; soft triggers). Each
//! value is a whole job whose report is kept; jobs on one suspect share the pairs that they have in common.
//! `axes.rs` has the settings and their values.

mod axes;

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::world::ZooMember;
use anyhow::Context;
use clap::Args;

pub use self::axes::Axis;
use self::axes::{own_signature, signatures_of_others};
use super::treatments::{Runs, RunsArgs, cells_of, signature_file, treat, write_results};
use super::zoo::{MembersArgs, Site};
use crate::comparison::Cell;

/// Arguments of `antigen-experiments sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The setting
    #[arg(value_enum)]
    pub axis: Axis,
    /// The suspects.
    #[command(flatten)]
    pub members: MembersArgs,
    /// Folder for reports and the axis's csv, md and svg
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The runs.
    #[command(flatten)]
    pub runs: RunsArgs,
}

/// Runs what is missing, and writes and prints what came out.
///
/// # Errors
/// Files that cannot be read or written, or a job that fails.
pub fn run(args: &SweepArgs) -> anyhow::Result<()> {
    let site = args.members.fill(ZooMember::is_poisoned)?;
    let name = args.axis.name();
    let mut placed: Vec<(usize, Cell)> = Vec::new();
    for seed in args.runs.seeds() {
        let runs = args.runs.of_seed(seed, true);
        let donors = match args.axis {
            Axis::Transfer => extract_signatures(&site, runs, &args.out)?,
            _ => Vec::new(),
        };
        for member in &site.members {
            let folder = args.out.join(&member.name);
            let treatments = args.axis.treatments(member).into_iter().chain(signatures_of_others(member, &donors));
            for (place, treatment) in treatments.enumerate() {
                let Some(made) = treat(&site, member, &treatment, runs, &folder)? else { continue };
                let named = |cell: Cell| Cell { model: format!("{}, {}", treatment.name, cell.model), ..cell };
                placed.extend(cells_of(member, seed, &made).into_iter().map(|cell| (place, named(cell))));
            }
            let work = folder.join("work");
            if work.exists() {
                fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
            }
        }
    }
    // Suspects take turns within a value.
    placed.sort_by_key(|(place, _)| *place);
    write_results(&args.out, &name, &placed.into_iter().map(|(_, cell)| cell).collect::<Vec<_>>())
}

/// The members that have a signature, each with its file.
fn extract_signatures(site: &Site, runs: Runs, out: &Path) -> anyhow::Result<Vec<(ZooMember, PathBuf)>> {
    let extract = |member: &ZooMember| {
        let (own, folder) = (own_signature(member.kind()), out.join(&member.name));
        treat(site, member, &own, runs, &folder)?;
        let file = signature_file(&folder, &own.name, runs.seed);
        Ok(file.exists().then(|| (member.clone(), file)))
    };
    site.members.iter().map(extract).filter_map(anyhow::Result::transpose).collect()
}
