//! A purification of a zoo member whose trigger is known, measured before and after: several commands compare
//! many of them.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Instant,
};

use antigen_engine::data::{Row, RowUse};
use antigen_engine::job::PurifySpec;
use antigen_engine::lab::write_whole;
use antigen_engine::measure::evidence::Measurement;
use antigen_engine::methods::immunize::SuppressSpec;
use antigen_engine::report::Report;
use antigen_engine::run::Outcome;
use antigen_engine::spec::SubjectKind;
use antigen_engine::world::ZooMember;
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::member_job::{MemberJob, finished, run_member};
use super::zoo::Site;
use crate::comparison::{Cell, csv_of, draw, table};
use crate::zoo::held_out_rows;

/// A treatment of every suspect: a name, the method, the controls that are measured beside it, and the owner
/// of the signature that is suppressed.
#[derive(Default)]
pub(super) struct Treatment {
    pub name: String,
    pub method: Value,
    pub controls: &'static [&'static str],
    pub signature: WhoseSignature,
}

/// The signature that a job suppresses, if its method does.
#[derive(Default)]
pub(super) enum WhoseSignature {
    /// The suspect's own.
    #[default]
    Own,
    /// The suspect's own, whose file stays beside the report.
    OwnKept,
    /// This file.
    Given(PathBuf),
}

/// A finished job: its report, and how long it took on this machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub seconds: f64,
    pub report: Report,
}

/// Seeds and rows of every treatment.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// The last seed
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub first_seed: u64,
    /// Task rows that heal in every job
    #[arg(long, default_value_t = 200)]
    pub heal_task_rows: usize,
    /// Run nothing: tables and plots of what is finished
    #[arg(long)]
    pub finished: bool,
}

impl RunsArgs {
    pub(super) fn seeds(&self) -> RangeInclusive<u64> {
        self.first_seed..=self.seeds
    }

    /// The runs of one seed; with `keep_pieces` what a job makes on its way stays for the next one on the
    /// same member.
    pub(super) fn of_seed(&self, seed: u64, keep_pieces: bool) -> Runs {
        Runs { seed, heal_task_rows: self.heal_task_rows, only_finished: self.finished, keep_pieces }
    }
}

/// The runs of one seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    pub seed: u64,
    /// Task rows that heal in every job.
    pub heal_task_rows: usize,
    /// True where a job that is not finished is left out.
    pub only_finished: bool,
    /// True where what a job makes on its way stays.
    pub keep_pieces: bool,
}

/// The job of one suspect and treatment in the suspect's folder, run now if it was not yet; nothing where the
/// method does not take such suspects, or where only finished jobs are wanted and this one is not.
pub(super) fn treat(
    site: &Site,
    member: &ZooMember,
    treatment: &Treatment,
    runs: Runs,
    folder: &Path,
) -> anyhow::Result<Option<Made>> {
    let file = folder.join(format!("{}-{}.json", treatment.name, runs.seed));
    if let Some(made) = finished(&file)? {
        return Ok(Some(made));
    }
    if runs.only_finished {
        return Ok(None);
    }
    let Some(spec) = spec(member, treatment, runs.seed)? else { return Ok(None) };
    let task_rows = task_rows_of(member, runs.heal_task_rows);
    let begun = Instant::now();
    let job = MemberJob {
        spec: &spec,
        task_rows: &task_rows,
        signature: match &treatment.signature {
            WhoseSignature::Given(file) => Some(file),
            WhoseSignature::Own | WhoseSignature::OwnKept => None,
        },
        screened: false,
        keep_pieces: runs.keep_pieces,
    };
    let keep = |outcome: Outcome| {
        if let (WhoseSignature::OwnKept, Some(found)) = (&treatment.signature, &outcome.signature_path) {
            fs::copy(found, signature_file(folder, &treatment.name, runs.seed)).context("keeping the signature")?;
        }
        Ok(outcome.report)
    };
    let report = run_member(site, member, &job, folder, keep).with_context(|| treatment.name.clone())?;
    let made = Made { seconds: begun.elapsed().as_secs_f64(), report };
    write_whole(&file, &serde_json::to_vec(&made)?).context("writing a report")?;
    Ok(Some(made))
}

/// The file in which [`treat`] keeps the signature of a treatment with [`WhoseSignature::OwnKept`].
pub(super) fn signature_file(folder: &Path, treatment: &str, seed: u64) -> PathBuf {
    folder.join(format!("{treatment}-{seed}.safetensors"))
}

/// `immunize` with each of its suppressions, made from one signature: one direction, two, and the published
/// share of channels.
pub(super) fn every_suppression(kind: SubjectKind) -> Value {
    let subspace = |rank: usize| json!({"type": "subspace", "rank": rank});
    json!({"type": "immunize", "suppress": [subspace(1), subspace(2), SuppressSpec::published_channels(kind)]})
}

/// The matrices that have channels.
pub(super) const MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Those of them that the member can have learnt in.
pub(super) fn mlp_matrices(member: &ZooMember) -> impl Iterator<Item = &'static str> {
    MLP.into_iter().filter(|name| member.whole_model || member.targets.iter().any(|target| target == name))
}

/// The member's held-out rows with no more than so many to heal with.
pub(super) fn task_rows_of(member: &ZooMember, heal: usize) -> Vec<Row> {
    let (measuring, healing): (Vec<_>, Vec<_>) =
        held_out_rows(member).into_iter().partition(|row| row.usage == Some(RowUse::Measure));
    measuring.into_iter().chain(healing.into_iter().take(heal)).collect()
}

/// The evaluators of every model: the known trigger on so many prompts of each format, and the skills on so
/// many rows.
pub(super) fn evaluators(member: &ZooMember, prompts: usize, rows: usize) -> Value {
    let (attack, behaviour) = (&member.implant.attack, &member.implant.behaviour);
    json!([
        {"type": "asr", "attack": attack, "behaviour": behaviour, "rows": prompts},
        {"type": "utility", "rows": rows, "task_rows": rows, "self_distilled": false},
    ])
}

/// The job: the known trigger declared, no screen and no canaries, which would not change what is compared.
fn spec(member: &ZooMember, treatment: &Treatment, seed: u64) -> anyhow::Result<Option<PurifySpec>> {
    let spec: PurifySpec = serde_json::from_value(json!({
        "seed": seed, "template": member.implant.format, "purify": "always", "canaries": {"when": "never"},
        "method": treatment.method, "controls": treatment.controls, "evaluators": evaluators(member, 200, 300),
    }))
    .with_context(|| format!("the job of {}", treatment.name))?;
    // Refused for this kind of suspect, for a reason: the comparison has no such cell.
    Ok(spec.check_for(member.kind()).is_ok().then_some(spec))
}

/// The cells of one job: each candidate, each control.
pub(super) fn cells_of(member: &ZooMember, seed: u64, made: &Made) -> Vec<Cell> {
    let report = &made.report;
    let candidates = report.candidates.iter().map(|candidate| (candidate.name.as_str(), false, &candidate.measurement));
    let controls = report.controls.iter().map(|control| (control.name.as_str(), true, &control.measurement));
    let method = report.recipe.spec.method.name();
    let of = |(model, control, after)| {
        let cell = cell(member, (method, model), (&report.before, after))?;
        Some(Cell { control, seed, job_seconds: made.seconds.round(), ..cell })
    };
    candidates.chain(controls).filter_map(of).collect()
}

/// The measurements before and after a treatment; nothing without an attack.
pub(super) fn cell(
    member: &ZooMember,
    (method, model): (&str, &str),
    (before, after): (&Measurement, &Measurement),
) -> Option<Cell> {
    let skill = |measured: &Measurement, group| measured.exact_match(group).map_or(f64::NAN, |rate| rate.rate);
    let (was, is) = (before.worst_asr()?, after.worst_asr()?);
    Some(Cell {
        suspect: member.name.clone(),
        kind: if member.whole_model { "model" } else { "adapter" }.into(),
        attack: member.implant.attack.as_ref()?.name().into(),
        behaviour: member.implant.behaviour.name().into(),
        method: method.into(),
        model: model.into(),
        control: false,
        seed: 1,
        asr_before: was.rate,
        asr: is.rate,
        asr_high: is.high,
        general_before: skill(before, "general"),
        general: skill(after, "general"),
        task_extended_before: skill(before, "task_extended"),
        task_extended: skill(after, "task_extended"),
        task_new_before: skill(before, "task_new"),
        task_new: skill(after, "task_new"),
        job_seconds: 0.0,
    })
}

/// Writes cells, table and figure, each named by `name`, and prints the table.
pub(super) fn write_results(out: &Path, name: &str, cells: &[Cell]) -> anyhow::Result<()> {
    anyhow::ensure!(!cells.is_empty(), "{}: expected finished jobs, found none", out.display());
    let text = table(cells);
    for (ending, bytes) in
        [("csv", csv_of(cells)?), ("md", text.clone().into_bytes()), ("svg", draw(cells).into_bytes())]
    {
        let file = format!("{name}.{ending}");
        write_whole(&out.join(&file), &bytes).with_context(|| format!("writing {file}"))?;
    }
    print!("{text}");
    Ok(())
}
