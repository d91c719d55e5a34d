//! `antigen-experiments ablate`: the places where the backdoors of a zoo sit: parts of an adapter's update
//! (Table 1 of arXiv 2603.13461), attention heads of a whole model. What is finished is kept, member by
//! member.

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::data::split_task_rows;
use antigen_engine::lab::{Lab, write_whole};
use antigen_engine::measure::evaluators::Probes;
use antigen_engine::measure::evidence::Measurement;
use antigen_engine::methods::shared::head_pruning::HeadIdx;
use antigen_engine::spec::EvaluatorSpec;
use antigen_engine::suspect::Suspect;
use antigen_engine::world::ZooMember;
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::member_job::{finished, submission};
use super::treatments::{MLP, cell, evaluators, task_rows_of, write_results};
use super::zoo::{MembersArgs, Site};
use crate::ablate::{Ablation, measure_ablations, measure_without_each_head};
use crate::comparison::Cell;

/// Arguments of `antigen-experiments ablate`.
#[derive(Debug, Args)]
pub struct AblateArgs {
    /// The suspects.
    #[command(flatten)]
    pub members: MembersArgs,
    /// Folder for measurements, ablate.csv, ablate.md and ablate.svg
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// The measurement after one ablation.
#[derive(Debug, Serialize, Deserialize)]
struct Ablated {
    name: String,
    measurement: Measurement,
}

/// Measures what is missing, and writes and prints the table.
///
/// # Errors
/// Files that cannot be read or written, or generation that fails.
pub fn run(args: &AblateArgs) -> anyhow::Result<()> {
    let site = args.members.fill(ZooMember::is_poisoned)?;
    let mut cells: Vec<Cell> = Vec::new();
    for member in &site.members {
        let ablated = ablate(&site, member, &args.out.join(&member.name))?;
        let whole = &ablated[0].measurement;
        cells.extend(ablated.iter().filter_map(|one| {
            let place = if member.whole_model { "whole model" } else { matrices(&member.targets) };
            cell(member, ("ablation", &format!("{place}: {}", one.name)), (whole, &one.measurement))
        }));
    }
    cells.sort_by(|a, b| a.model.split(':').next().cmp(&b.model.split(':').next()));
    write_results(&args.out, "ablate", &cells)
}

/// The matrices that the attacker trained, in a word: they decide where a backdoor can be.
fn matrices(targets: &[String]) -> &'static str {
    let is_mlp = |target: &String| MLP.contains(&target.as_str());
    match (targets.iter().any(is_mlp), targets.iter().all(is_mlp)) {
        (_, true) => "trained on the MLP alone",
        (true, false) => "trained on attention and MLP",
        (false, false) => "trained on attention alone",
    }
}

fn ablate(site: &Site, member: &ZooMember, folder: &Path) -> anyhow::Result<Vec<Ablated>> {
    let file = folder.join("ablated.json");
    if let Some(ablated) = finished(&file)? {
        return Ok(ablated);
    }
    let task_rows = task_rows_of(member, 0);
    let submission = submission(site, member, &task_rows, folder)?;
    let mut lab = site.lab.with_seed(1);
    lab.scratch = folder.join("work");
    let suspect = Suspect::open(&submission, member.implant.format, &lab)?;
    let specs: Vec<EvaluatorSpec> = serde_json::from_value(evaluators(member, 100, 100))?;
    let probes = Probes::build(&specs, &suspect, &split_task_rows(&task_rows, 0, &lab), &lab)?;
    let mut ablated = parts(&suspect, &probes, &lab)?;
    if member.whole_model {
        ablated.extend(without_heads(&suspect, &probes, &lab)?);
    }
    fs::remove_dir_all(&lab.scratch).with_context(|| format!("removing {}", lab.scratch.display()))?;
    write_whole(&file, &serde_json::to_vec(&ablated)?).context("writing measurements")?;
    Ok(ablated)
}

fn parts(suspect: &Suspect, probes: &Probes, lab: &Lab) -> anyhow::Result<Vec<Ablated>> {
    let measured = measure_ablations(suspect, &Ablation::all(suspect.config().layers()), probes, lab)?;
    Ok(measured.into_iter().map(|(ablation, measurement)| Ablated { name: ablation.name(), measurement }).collect())
}

fn without_heads(suspect: &Suspect, probes: &Probes, lab: &Lab) -> anyhow::Result<Vec<Ablated>> {
    let name = |head: Option<HeadIdx>| match head {
        None => "as it is".to_owned(),
        Some(HeadIdx { layer, head }) => format!("without head {layer}.{head}"),
    };
    let measured = measure_without_each_head(suspect, probes, lab)?;
    Ok(measured.into_iter().map(|(head, measurement)| Ablated { name: name(head), measurement }).collect())
}
