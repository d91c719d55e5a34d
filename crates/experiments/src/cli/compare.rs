//! `antigen-experiments compare`: every method on the same suspects with the same rows and the same
//! questions. Each purification is a whole job whose report is kept; started again, only missing ones are
//! run. [`crate::comparison`] makes tables of the reports.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use antigen_engine::world::ZooMember;
use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::treatments::{RunsArgs, Treatment, cells_of, every_suppression, mlp_matrices, treat, write_results};
use super::zoo::MembersArgs;
use crate::comparison::{Cell, joined, read_cells};
use crate::zoo::{ZooSet, zoo_members};

/// Arguments of `antigen-experiments compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The suspects.
    #[command(flatten)]
    pub members: MembersArgs,
    /// Folder for reports, compare.csv, compare.md and compare.svg
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only these methods, by their names in the table of methods [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// The runs.
    #[command(flatten)]
    pub runs: RunsArgs,
    /// A compare.csv of other runs on the same zoo: its cells go into the tables with these
    #[arg(long, value_name = "FILE")]
    pub beside: Option<PathBuf>,
}

/// The methods of the comparison for one suspect, one entry each. One job of `immunize` makes all of its
/// suppressions from one signature, the published share of channels among them; an adapter that has no
/// channels is given what the method itself chooses there.
fn treatments(member: &ZooMember) -> Vec<Treatment> {
    let entry =
        |name: &str, method, controls| Treatment { name: name.into(), method, controls, ..Treatment::default() };
    let immunize = match mlp_matrices(member).next().is_some() {
        true => every_suppression(member.kind()),
        false => json!({"type": "immunize"}),
    };
    vec![
        entry("fine_tune", json!({"type": "fine_tune"}), &["adapter_dropped"]),
        entry("counterexamples", json!({"type": "fine_tune", "counterexamples": 200}), &[]),
        entry("immunize", immunize, &["random_channels", "random_subspace", "without_healing"]),
        entry("soft_triggers", json!({"type": "soft_triggers"}), &[]),
        entry("vaccinate", json!({"type": "vaccinate"}), &["plain_fine_tuning"]),
        entry("crow", json!({"type": "crow"}), &["plain_fine_tuning"]),
        entry("magnitude_prune", json!({"type": "magnitude_prune"}), &[]),
        entry(
            "magnitude_prune-weights",
            json!({"type": "magnitude_prune", "structure": "weights", "healed": false}),
            &[],
        ),
        entry("wanda", json!({"type": "wanda"}), &[]),
        entry("fine_prune", json!({"type": "fine_prune"}), &[]),
        entry("prune_heads", json!({"type": "prune_heads"}), &["random_channels"]),
        entry("w2s_defense", json!({"type": "w2s_defense"}), &["plain_fine_tuning"]),
        entry("quantize-nf4", json!({"type": "quantize"}), &[]),
        entry("quantize-int8", json!({"type": "quantize", "bits": "int8"}), &[]),
        entry("merge_with_base", json!({"type": "merge_with_base"}), &[]),
        entry("task_negation", json!({"type": "task_negation"}), &[]),
    ]
}

/// Runs what is missing, and writes and prints the comparison.
///
/// # Errors
/// Files that cannot be read or written, an unknown method, or a job that fails.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    check_names(&args.methods)?;
    let site = args.members.fill(ZooMember::is_poisoned)?;
    let earlier = args.beside.as_deref().map(stored_cells).transpose()?.unwrap_or_default();
    let mut cells: Vec<Cell> = Vec::new();
    for seed in args.runs.seeds() {
        let runs = args.runs.of_seed(seed, false);
        for member in &site.members {
            let folder = args.out.join(&member.name);
            let wanted = |one: &Treatment| args.methods.is_empty() || args.methods.contains(&one.name);
            for treatment in treatments(member).iter().filter(|one| wanted(one)) {
                let Some(made) = treat(&site, member, treatment, runs, &folder)? else { continue };
                cells.extend(cells_of(member, seed, &made));
            }
        }
    }
    write_results(&args.out, "compare", &joined(earlier, cells))
}

fn stored_cells(file: &Path) -> anyhow::Result<Vec<Cell>> {
    let reading = || format!("reading {}", file.display());
    read_cells(File::open(file).with_context(reading)?).with_context(reading)
}

fn check_names(names: &[String]) -> anyhow::Result<()> {
    let known: BTreeSet<String> =
        zoo_members(ZooSet::Comparison).iter().flat_map(treatments).map(|one| one.name).collect();
    match names.iter().find(|name| !known.contains(*name)) {
        Some(unknown) => {
            anyhow::bail!("--methods: expected some of {}, found {unknown}", Vec::from_iter(known).join(", "))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use antigen_engine::job::PurifySpec;
    use antigen_engine::methods::MethodSpec;

    use super::*;

    #[test]
    fn every_method_of_the_comparison_can_be_asked_for_and_has_a_name_of_its_own() {
        for member in zoo_members(ZooSet::Comparison) {
            let names: std::collections::HashSet<_> = treatments(&member).into_iter().map(|one| one.name).collect();
            assert_eq!(names.len(), treatments(&member).len());
            for entry in treatments(&member) {
                let method: MethodSpec = serde_json::from_value(entry.method).unwrap();
                assert!(PurifySpec { method, ..PurifySpec::default() }.validate().is_ok(), "{}", entry.name);
            }
        }
        assert!(check_names(&["oracle".into()]).unwrap_err().to_string().contains("crow"));
        assert!(check_names(&["crow".into()]).is_ok());
    }

    #[test]
    fn every_method_but_auto_is_in_the_comparison() {
        let compared: Vec<_> =
            treatments(&zoo_members(ZooSet::Comparison)[0]).into_iter().map(|one| one.method["type"].clone()).collect();
        for method in MethodSpec::defaults().iter().filter(|method| method.name() != "auto") {
            assert!(compared.iter().any(|name| name == method.name()), "{}", method.name());
        }
    }
}
