//! `antigen-experiments bench evaluation`: the time that measuring takes, before and after: attack success in
//! all formats with and without the trigger, and utility.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use antigen_engine::data::TaskRows;
use antigen_engine::lab::{Lab, Silent};
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::spec::{EvaluatorSpec, PromptFormat};
use antigen_engine::suspect::weights::Weights;
use antigen_engine::suspect::{Submission, Submitted, Suspect};
use antigen_engine::world::{ALL_LINEAR, BUILTIN, find_base};
use antigen_models::{Device, LoraAdapter, PeftConfig, load_model, open_device, save_adapter};
use anyhow::Context;
use clap::Args;
use serde_json::json;

/// Arguments of `antigen-experiments bench evaluation`.
#[derive(Debug, Args)]
pub struct EvaluationArgs {
    /// The suspect [default: a fresh adapter of rank 16 on every linear layer]
    #[arg(long, value_name = "DIR")]
    pub suspect: Option<PathBuf>,
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// Held-out rows of each evaluator
    #[arg(long, default_value_t = 200)]
    pub rows: usize,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures the suspect and, as what comes after, its base.
///
/// # Errors
/// A suspect that does not open, or generation that fails.
pub fn run(args: &EvaluationArgs) -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("making a scratch folder")?;
    let device = open_device(&args.device)?;
    let submission = submission(args, work.path(), &device)?;
    let lab = Lab::new(device, 1, work.path().join("scratch"), Arc::new(Silent), Arc::default());
    std::fs::create_dir_all(&lab.scratch)?;
    let suspect = Suspect::open(&submission, PromptFormat::Alpaca, &lab)?;
    let asr = json!({"type": "asr", "attack": {"type": "badnets"}, "behaviour": {"type": "insult"}, "rows": args.rows});
    let utility = json!({"type": "utility", "rows": args.rows, "self_distilled": false});
    let seconds = [
        ("attack success", measure(serde_json::from_value(asr)?, &suspect, &lab)?),
        ("utility", measure(serde_json::from_value(utility)?, &suspect, &lab)?),
    ];
    if args.json {
        let each =
            |(name, (before, after)): &(&str, (f64, f64))| json!({"what": name, "before_s": before, "after_s": after});
        println!("{}", json!({ "rows": args.rows, "seconds": seconds.iter().map(each).collect::<Vec<_>>() }));
        return Ok(());
    }
    for (name, (before, after)) in seconds {
        let together = before + after;
        println!("{name:<16} {} rows: {before:.1} s before, {after:.1} s after, {together:.1} s together", args.rows);
    }
    Ok(())
}

/// The suspect that was named, or a fresh adapter over the base.
fn submission(args: &EvaluationArgs, work: &Path, device: &Device) -> anyhow::Result<Submission> {
    let base = find_base(&args.base, work)?;
    let suspect_dir = match &args.suspect {
        Some(dir) => dir.clone(),
        None => {
            let model = load_model(&base, device)?;
            let config = PeftConfig::new(16, 32, &ALL_LINEAR, "base");
            let dir = work.join("suspect");
            std::fs::create_dir_all(&dir)?;
            save_adapter(&LoraAdapter::fresh(config, model.config(), &mut || 0.01)?, &dir)?;
            dir
        }
    };
    Ok(Submission::over(Submitted::in_folder(&suspect_dir, &base), &base))
}

/// Seconds for the suspect and for its base.
fn measure(spec: EvaluatorSpec, suspect: &Suspect, lab: &Lab) -> anyhow::Result<(f64, f64)> {
    let start = Instant::now();
    let probes = Probes::build(&[spec], suspect, &TaskRows::default(), lab)?;
    evaluate_all(&probes, suspect, &suspect.weights(), lab)?;
    let before = start.elapsed().as_secs_f64();
    evaluate_all(&probes, suspect, &Weights::Base, lab)?;
    Ok((before, start.elapsed().as_secs_f64() - before))
}
