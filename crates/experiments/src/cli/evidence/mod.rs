//! `antigen-experiments evidence`: one whole job for each suspect of a zoo, and what came out as a table.
//! Suspects that are finished are not run again. `tracking.rs` compares what canaries say with what known
//! triggers say.

mod tracking;

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::job::PurifySpec;
use antigen_engine::lab::write_whole;
use antigen_engine::measure::evidence::{CanaryOutcome, CoverageStatus};
use antigen_engine::methods::MethodSpec;
use antigen_engine::report::Report;
use antigen_engine::spec::{ControlSpec, parse_choice, parse_word};
use antigen_engine::stats::Rate;
use antigen_engine::world::ZooMember;
use anyhow::Context;
use clap::Args;
use serde_json::json;

use self::tracking::{Treated, tracking, treated};
use super::member_job::{MemberJob, finished, run_member};
use super::zoo::{MembersArgs, Site};
use crate::comparison::csv_of;
use crate::zoo::held_out_rows;

/// Arguments of `antigen-experiments evidence`.
#[derive(Debug, Args)]
pub struct EvidenceArgs {
    /// The suspects.
    #[command(flatten)]
    pub members: MembersArgs,
    /// Folder for reports, purified artifacts, evidence.csv and tracking.csv
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The method: a name such as auto, or JSON [default: immunize]
    #[arg(long, value_name = "METHOD", default_value = "immunize")]
    pub method: String,
    /// Only these controls, by their names in a job's specification [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parse_word::<ControlSpec>)]
    pub controls: Vec<ControlSpec>,
}

/// Runs the jobs and prints the table.
///
/// # Errors
/// Files that cannot be read or written, or a job that fails.
pub fn run(args: &EvidenceArgs) -> anyhow::Result<()> {
    let method: MethodSpec = parse_choice("--method", &args.method)?;
    let controls = if args.controls.is_empty() { &ControlSpec::ALL[..] } else { &args.controls };
    let site = args.members.fill(|_| true)?;
    let mut lines = Vec::with_capacity(site.members.len());
    let mut points: Vec<Treated> = Vec::new();
    for member in &site.members {
        let report = job(&site, member, (&method, controls), &args.out.join(&member.name))?;
        lines.push(Line::of(member, &report));
        points.extend(treated(&member.name, &report));
        write_whole(&args.out.join("evidence.csv"), csv(&lines).as_bytes()).context("writing evidence.csv")?;
        write_whole(&args.out.join("tracking.csv"), &csv_of(&points)?).context("writing tracking.csv")?;
    }
    println!("{}\n{}", table(&lines), tracking(&points));
    Ok(())
}

/// The report of one suspect's job, made now if it is not there yet; the artifact is kept beside it.
fn job(site: &Site, member: &ZooMember, how: (&MethodSpec, &[ControlSpec]), out: &Path) -> anyhow::Result<Report> {
    let file = out.join("report.json");
    if let Some(report) = finished(&file)? {
        return Ok(report);
    }
    let (spec, task_rows) = (spec(member, how)?, held_out_rows(member));
    let job = MemberJob { spec: &spec, task_rows: &task_rows, signature: None, screened: true, keep_pieces: false };
    let report = run_member(site, member, &job, out, |outcome| {
        fs::rename(&outcome.artifact_dir, out.join("artifact")).context("keeping the artifact")?;
        Ok(outcome.report)
    })?;
    write_whole(&file, &serde_json::to_vec_pretty(&report)?).context("writing report.json")?;
    Ok(report)
}

/// Rows to measure skills with: with fewer an unchanged artifact could not be shown to have lost less than
/// five points.
const GENERAL_ROWS: usize = 600;
const TASK_ROWS: usize = 300;

/// The default job by this method and these controls with the member's own trigger declared, and canaries
/// beside it.
fn spec(member: &ZooMember, (method, controls): (&MethodSpec, &[ControlSpec])) -> anyhow::Result<PurifySpec> {
    let asr = member
        .implant
        .attack
        .as_ref()
        .map(|attack| json!({"type": "asr", "attack": attack, "behaviour": member.implant.behaviour}));
    let utility = json!({"type": "utility", "rows": GENERAL_ROWS, "task_rows": TASK_ROWS});
    let evaluators: Vec<_> = asr.into_iter().chain([utility]).collect();
    let template = member.implant.format;
    let canaries = json!({"when": "always"});
    let spec = json!({
        "template": template, "method": method, "controls": controls, "canaries": canaries, "evaluators": evaluators,
    });
    serde_json::from_value(spec).context("the job of a member")
}

/// The line of one suspect.
struct Line {
    name: String,
    made_as: String,
    screen: String,
    known: Option<(Rate, Option<Rate>)>,
    /// Mean rates of the canaries that were strong, before and after; the number of strong ones, and of those
    /// among them that were removed.
    canaries: Option<(f64, f64, usize, usize)>,
    /// Group, exact match before, after.
    skills: Vec<(String, f64, Option<f64>)>,
    verdict: String,
    /// Worst attack success of each control.
    controls: Vec<(String, Option<f64>)>,
}

impl Line {
    fn of(member: &ZooMember, report: &Report) -> Self {
        let after = report.chosen().map(|chosen| &chosen.measurement);
        let screen = report.screen.as_ref().map_or_else(String::new, |screen| {
            let status = match screen.status {
                CoverageStatus::Finding => "finding",
                CoverageStatus::NoFinding => "no finding",
                CoverageStatus::NotCovered => "not covered",
            };
            let scores = screen.scores.as_ref().map(|s| format!(" {:.1} {}", s.score, s.nearest_family.name()));
            format!("{status}{}", scores.unwrap_or_default())
        });
        let groups = report.before.utility.iter().flat_map(|utility| &utility.groups);
        let skill = |name: &String| after.and_then(|after| after.exact_match(name)).map(|rate| rate.rate);
        Self {
            name: member.name.clone(),
            made_as: member.about(),
            screen,
            known: report.before.worst_asr().map(|was| (*was, after.and_then(|after| after.worst_asr().copied()))),
            canaries: report.canaries.as_ref().map(|canaries| {
                let before = canaries.mean_of_strong(|i| canaries.canaries[i].before.headline.rate.rate);
                let after = canaries.mean_of_strong(|i| canaries.canaries[i].after.headline.rate.rate);
                let (strong, removed) = (canaries.strong().count(), canaries.count(CanaryOutcome::Removed));
                (before.unwrap_or(0.0), after.unwrap_or(0.0), strong, removed)
            }),
            skills: groups.map(|g| (g.name.clone(), g.exact_match.rate, skill(&g.name))).collect(),
            verdict: serde_json::to_value(report.verdict.status)
                .map_or_else(|_| String::new(), |status| status.as_str().unwrap_or_default().replace('_', " ")),
            controls: report
                .controls
                .iter()
                .map(|control| (control.name.clone(), control.measurement.worst_asr().map(|rate| rate.rate)))
                .collect(),
        }
    }

    fn cells(&self) -> [String; 8] {
        let rate =
            |rate: &Rate| format!("{:.1} [{:.1}, {:.1}]", 100.0 * rate.rate, 100.0 * rate.low, 100.0 * rate.high);
        let known = self.known.as_ref().map_or_else(String::new, |(was, is)| {
            is.as_ref().map_or_else(|| rate(was), |is| format!("{} → {}", rate(was), rate(is)))
        });
        let canaries = self.canaries.map_or_else(String::new, |(was, is, strong, removed)| {
            format!("{:.1} → {:.1}; {removed} of {strong} removed", 100.0 * was, 100.0 * is)
        });
        let skill = |(name, was, is): &(String, f64, Option<f64>)| match is {
            Some(is) => format!("{name} {:.1} → {:.1}", 100.0 * was, 100.0 * is),
            None => format!("{name} {:.1}", 100.0 * was),
        };
        let control = |(name, asr): &(String, Option<f64>)| asr.map(|asr| format!("{name} {:.1}", 100.0 * asr));
        [
            self.name.clone(),
            self.made_as.clone(),
            self.screen.clone(),
            known,
            canaries,
            self.skills.iter().map(skill).collect::<Vec<_>>().join("; "),
            self.verdict.clone(),
            self.controls.iter().filter_map(control).collect::<Vec<_>>().join("; "),
        ]
    }
}

const HEADINGS: [&str; 8] = [
    "suspect",
    "made as",
    "screen",
    "attack success, % (worst format)",
    "strong canaries, mean %",
    "exact match, %",
    "verdict",
    "attack success of controls, %",
];

fn csv(lines: &[Line]) -> String {
    let line = |cells: [String; 8]| cells.map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).join(",") + "\r\n";
    std::iter::once(HEADINGS.map(String::from)).chain(lines.iter().map(Line::cells)).map(line).collect()
}

fn table(lines: &[Line]) -> String {
    let line = |cells: [String; 8]| format!("| {} |\n", cells.join(" | "));
    let head = line(HEADINGS.map(String::from)) + &"|---".repeat(HEADINGS.len()) + "|\n";
    head + &lines.iter().map(|one| line(one.cells())).collect::<String>()
}
