//! `antigen lab compare`: every method on the same suspects with the same rows and the same questions. Each purification is a whole job
//! whose report is kept; started again, only missing ones are run. What is made of the reports is in `crate::comparison`.

use std::{path::PathBuf, time::Instant};

use antigen_engine::{
    data::{Row, RowUse},
    report::{Measurement, Report},
    spec::{PurifySpec, SubjectKind},
    world::ZooMember,
};
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::member_job::{MemberJob, finished, run_member};
use super::zoo::{OnlyArgs, SetArgs, Site, ZooArgs, fill};
use crate::{
    comparison::{Cell, csv_of, draw, table},
    worker::write_whole,
};

/// Arguments of `antigen lab compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub zoo: ZooArgs,
    #[command(flatten)]
    pub set: SetArgs,
    /// Where reports, compare.csv, compare.md and compare.svg go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only these methods, by their names in the table of methods [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<String>,
    #[command(flatten)]
    pub only: OnlyArgs,
    /// How many seeds: 1 to this number
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Own rows that heal in every job
    #[arg(long, default_value_t = 200)]
    pub heal_own_rows: usize,
}

/// What is run on every suspect: a name, the method, and the controls that stand for a method of their own.
struct Entry {
    name: &'static str,
    method: Value,
    controls: &'static [&'static str],
}

/// The methods of the comparison for one kind of suspect. One job of `immunize` makes all of its suppressions from one signature, the
/// published share of channels among them.
fn entries(kind: SubjectKind) -> Vec<Entry> {
    let channels = kind.published_channels();
    let entry = |name, method, controls| Entry { name, method, controls };
    let subspace = |rank: usize| json!({"type": "subspace", "rank": rank});
    vec![
        entry("fine_tune", json!({"type": "fine_tune"}), &["adapter_dropped"]),
        entry("counterexamples", json!({"type": "fine_tune", "counterexamples": 200}), &[]),
        entry(
            "immunize",
            json!({"type": "immunize", "suppress": [subspace(1), subspace(2), channels]}),
            &["random_channels", "random_subspace", "without_healing"],
        ),
        entry("soft_triggers", json!({"type": "soft_triggers"}), &[]),
        entry("vaccinate", json!({"type": "vaccinate"}), &[]),
        entry("crow", json!({"type": "crow"}), &["plain_fine_tuning"]),
        entry("magnitude_prune", json!({"type": "magnitude_prune"}), &[]),
        entry(
            "magnitude_prune-weights",
            json!({"type": "magnitude_prune", "structure": "weights", "healed": false}),
            &[],
        ),
        entry("wanda", json!({"type": "wanda"}), &[]),
        entry("fine_prune", json!({"type": "fine_prune"}), &[]),
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
pub fn run_comparison(args: &CompareArgs) -> anyhow::Result<()> {
    check_names(&args.methods)?;
    let site = fill(&args.zoo, args.set.set()?, |member| args.only.wants(member) && member.is_poisoned())?;
    let mut cells: Vec<Cell> = Vec::new();
    for seed in 1..=args.seeds {
        for member in &site.members {
            let wanted = |entry: &Entry| args.methods.is_empty() || args.methods.iter().any(|name| name == entry.name);
            for entry in entries(member.kind()).iter().filter(|entry| wanted(entry)) {
                let Some(made) = job(&site, member, entry, seed, args)? else { continue };
                cells.extend(cells_of(member, seed, &made));
                write_whole(&args.out.join("compare.csv"), &csv_of(&cells)?).context("writing compare.csv")?;
            }
        }
    }
    let text = table(&cells);
    write_whole(&args.out.join("compare.md"), text.as_bytes()).context("writing compare.md")?;
    write_whole(&args.out.join("compare.svg"), draw(&cells).as_bytes()).context("writing compare.svg")?;
    print!("{text}");
    Ok(())
}

fn check_names(names: &[String]) -> anyhow::Result<()> {
    let known: Vec<&str> = entries(SubjectKind::Adapter).iter().map(|entry| entry.name).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => anyhow::bail!("--methods: expected some of {}, found {unknown}", known.join(", ")),
        None => Ok(()),
    }
}

/// A finished job: its report, and how long it took on this machine.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    seconds: f64,
    report: Report,
}

/// The job of one suspect, method and seed, run now if it was not yet; nothing where the method does not take such suspects.
fn job(site: &Site, member: &ZooMember, entry: &Entry, seed: u64, args: &CompareArgs) -> anyhow::Result<Option<Made>> {
    let folder = args.out.join(&member.name);
    let file = folder.join(format!("{}-{seed}.json", entry.name));
    if let Some(made) = finished(&file)? {
        return Ok(Some(made));
    }
    let Some(spec) = spec(member, entry, seed)? else { return Ok(None) };
    let own_rows = own_rows_of(member, args.heal_own_rows);
    let begun = Instant::now();
    let job = MemberJob { spec: &spec, own_rows: &own_rows, screened: false };
    let report = run_member(site, member, &job, &folder, |outcome| Ok(outcome.report)).context(entry.name)?;
    let made = Made { seconds: begun.elapsed().as_secs_f64(), report };
    write_whole(&file, &serde_json::to_vec(&made)?).context("writing a report")?;
    Ok(Some(made))
}

/// The member's held-out rows with no more than so many to heal with.
fn own_rows_of(member: &ZooMember, heal: usize) -> Vec<Row> {
    let (measuring, healing): (Vec<_>, Vec<_>) =
        member.held_out_rows().into_iter().partition(|row| row.usage == Some(RowUse::Measure));
    measuring.into_iter().chain(healing.into_iter().take(heal)).collect()
}

/// The job: the known trigger declared, no screen and no canaries, which would not change what is compared.
fn spec(member: &ZooMember, entry: &Entry, seed: u64) -> anyhow::Result<Option<PurifySpec>> {
    let asr = json!({"type": "asr", "attack": member.implant.attack, "behaviour": member.implant.behaviour});
    let spec: PurifySpec = serde_json::from_value(json!({
        "seed": seed, "template": member.implant.format, "purify": "always", "canaries": {"when": "never"},
        "method": entry.method, "controls": entry.controls,
        "evaluators": [asr, {"type": "utility", "rows": 300, "own_rows": 300, "self_distilled": false}],
    }))
    .with_context(|| format!("the job of {}", entry.name))?;
    // Refused for this kind of suspect, for a reason: the comparison has no such cell.
    Ok(spec.check_for(member.kind()).is_ok().then_some(spec))
}

/// The cells of one job: each candidate, each control.
fn cells_of(member: &ZooMember, seed: u64, made: &Made) -> Vec<Cell> {
    let report = &made.report;
    let candidates = report.candidates.iter().map(|candidate| (candidate.name.as_str(), false, &candidate.measurement));
    let controls = report.controls.iter().map(|control| (control.name.as_str(), true, &control.measurement));
    let cell = |(model, control, after)| cell(member, seed, (model, control), after, made);
    candidates.chain(controls).filter_map(cell).collect()
}

fn cell(
    member: &ZooMember,
    seed: u64,
    (model, control): (&str, bool),
    after: &Measurement,
    made: &Made,
) -> Option<Cell> {
    let before = &made.report.before;
    let skill = |measured: &Measurement, group| measured.exact_match(group).map_or(f64::NAN, |rate| rate.rate);
    let (was, is) = (before.worst_asr()?, after.worst_asr()?);
    Some(Cell {
        suspect: member.name.clone(),
        kind: if member.whole_model { "model" } else { "adapter" }.into(),
        attack: member.implant.attack.as_ref()?.name().into(),
        behaviour: member.implant.behaviour.name().into(),
        method: made.report.recipe.spec.method.name().into(),
        model: model.into(),
        control,
        seed,
        asr_before: was.rate,
        asr: is.rate,
        asr_high: is.high,
        general_before: skill(before, "general"),
        general: skill(after, "general"),
        own_extended_before: skill(before, "own_extended"),
        own_extended: skill(after, "own_extended"),
        own_new_before: skill(before, "own_new"),
        own_new: skill(after, "own_new"),
        job_seconds: made.seconds.round(),
    })
}

#[cfg(test)]
mod tests {
    use antigen_engine::spec::MethodSpec;

    use super::*;

    #[test]
    fn every_method_of_the_comparison_can_be_asked_for_and_has_a_name_of_its_own() {
        for kind in [SubjectKind::Adapter, SubjectKind::Checkpoint] {
            let names: std::collections::HashSet<_> = entries(kind).iter().map(|entry| entry.name).collect();
            assert_eq!(names.len(), entries(kind).len());
            for entry in entries(kind) {
                let method: MethodSpec = serde_json::from_value(entry.method).unwrap();
                assert!(PurifySpec { method, ..PurifySpec::default() }.validate().is_ok(), "{}", entry.name);
            }
        }
        assert!(check_names(&["oracle".into()]).is_err());
    }

    #[test]
    fn every_method_but_auto_is_in_the_comparison() {
        let compared: Vec<_> =
            entries(SubjectKind::Adapter).into_iter().map(|entry| entry.method["type"].clone()).collect();
        for method in MethodSpec::defaults().iter().filter(|method| method.name() != "auto") {
            assert!(compared.iter().any(|name| name == method.name()), "{}", method.name());
        }
    }
}
