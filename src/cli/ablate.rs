//! `antigen lab ablate`: where the backdoors of a zoo sit: in which parts of an adapter's update (Table 1 of arXiv 2603.13461), in which
//! attention heads of a whole model. What is finished is kept, member by member.

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::{
    ablate::{Ablation, measure_ablations, measure_without_each_head},
    data::split_own_rows,
    evaluators::Probes,
    heads::HeadIdx,
    lab::Lab,
    report::Measurement,
    spec::EvaluatorSpec,
    suspect::Suspect,
    world::ZooMember,
};
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::member_job::{finished, submission};
use super::treatments::{MLP, cell, evaluators, own_rows_of, write_results};
use super::zoo::{MembersArgs, Site};
use crate::{comparison::Cell, worker::write_whole};

/// Arguments of `antigen lab ablate`.
#[derive(Debug, Args)]
pub struct AblateArgs {
    #[command(flatten)]
    pub members: MembersArgs,
    /// Where measurements, ablate.csv, ablate.md and ablate.svg go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What was measured after one ablation.
#[derive(Debug, Serialize, Deserialize)]
struct Ablated {
    name: String,
    measurement: Measurement,
}

/// Measures what is missing, and writes and prints the table.
///
/// # Errors
/// Files that cannot be read or written, or generation that fails.
pub fn run_ablations(args: &AblateArgs) -> anyhow::Result<()> {
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

/// What the attacker trained, in a word: it decides where a backdoor can be.
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
    let own = own_rows_of(member, 0);
    let submission = submission(site, member, &own, folder)?;
    let mut lab = site.lab.with_seed(1);
    lab.scratch = folder.join("work");
    let suspect = Suspect::open(&submission, member.implant.format, &lab)?;
    let specs: Vec<EvaluatorSpec> = serde_json::from_value(evaluators(member, 100, 100))?;
    let probes = Probes::build(&specs, &suspect, &split_own_rows(&own, 0, &lab), &lab)?;
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
