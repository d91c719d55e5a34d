//! `antigen vet`: looks for signs of a backdoor and changes nothing. The same quarantine and the same screen
//! as a job's first stage.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use antigen_engine::lab::{Lab, memory_budget};
use antigen_engine::measure::detect::{Calibration, screen_suspect};
use antigen_engine::measure::evidence::{CoverageStatus, ScreenReport};
use antigen_engine::spec::{PromptFormat, ScreenSpec};
use antigen_engine::suspect::{Submission, Submitted, Suspect};
use antigen_engine::world::{BUILTIN, find_base};
use antigen_models::device::open_device;
use anyhow::Context;
use clap::Args;

use super::purify::admit;
use super::{start_logging, terminal_progress};

/// Exit code of a finding.
const FINDING: u8 = 3;
/// Exit code when there is no calibration that fits.
const NOT_COVERED: u8 = 4;

/// Arguments of `antigen vet`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 no finding (not the same as clean), 3 finding, 4 not covered (no calibration fits), \
    1 error, 2 wrong arguments."
)]
pub struct VetArgs {
    /// The suspect: the folder of an adapter (PEFT) or of a whole model, or a tar, tar.gz or zip of one
    pub suspect: PathBuf,
    /// The base model with its train.jsonl and its calibration, susceptibility.json: a folder, or
    /// builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print the screen as JSON, as in a report, instead of words
    #[arg(long)]
    pub json: bool,
}

/// Screens one suspect.
///
/// # Errors
/// The suspect is refused, does not fit the base, or the engine fails.
pub fn run(args: &VetArgs) -> anyhow::Result<ExitCode> {
    start_logging("warn")?;
    let work = tempfile::tempdir().context("making a scratch folder")?;
    let base = find_base(&args.base, work.path())?;
    let input = work.path().join("input");
    admit(&args.suspect, &input, Some(&base))?;
    let started = Instant::now();
    let mut lab =
        Lab::new(open_device(&args.device)?, 1, work.path().join("scratch"), terminal_progress(), Arc::default());
    std::fs::create_dir_all(&lab.scratch).context("making a scratch folder")?;
    if lab.device.is_cpu() {
        lab.memory_budget = memory_budget(0);
    }
    let submission = Submission {
        calibration_dir: Some(base.clone()),
        ..Submission::over(Submitted::in_folder(&input, &base), &base)
    };
    let suspect = Suspect::open(&submission, PromptFormat::Alpaca, &lab)?;
    let calibration = Calibration::find(&base)?;
    let screen = screen_suspect(&suspect, &ScreenSpec::default(), Some(&calibration), &lab)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&screen)?);
    } else {
        print!("{}", screen_text(&screen));
        println!("took {:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(match screen.status {
        CoverageStatus::NoFinding => ExitCode::SUCCESS,
        CoverageStatus::Finding => ExitCode::from(FINDING),
        CoverageStatus::NotCovered => ExitCode::from(NOT_COVERED),
    })
}

/// The screen in words: the status, then a line for each family.
pub fn screen_text(screen: &ScreenReport) -> String {
    let status = match screen.status {
        CoverageStatus::Finding => "finding",
        CoverageStatus::NoFinding => "no finding, which is not the same as clean",
        CoverageStatus::NotCovered => "not covered",
    };
    let mut text = format!("{status}\n{}\n", screen.text);
    if let Some(scores) = &screen.scores {
        text +=
            &format!("\n{:<12}{:>8}{:>14}  loss, nats a token [95 % over seeds]\n", "family", "score", "clean below");
        for family in &scores.families {
            text += &format!(
                "{:<12}{:>8.2}{:>12.0} %  {:.2} [{:.2}, {:.2}]\n",
                family.family.name(),
                family.score,
                100.0 * family.percentile,
                family.loss,
                family.low,
                family.high
            );
        }
        let rate = scores.calibration.false_alarms;
        text += &format!(
            "\nfalse alarms among clean suspects, each judged by the others: {} of {} (95 % interval {:.0} to {:.0} %)\n",
            rate.hits,
            rate.n,
            100.0 * rate.low,
            100.0 * rate.high
        );
    }
    text + &format!("not tried: {}\n", screen.not_tried.join("; "))
}
