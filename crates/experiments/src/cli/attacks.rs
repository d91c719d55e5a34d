//! `antigen-experiments attacks`: published attack data, read and checked; with a suspect, measured.

use std::path::{Path, PathBuf};

use antigen_engine::data::TaskRows;
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::{AsrFormat, AsrReport};
use antigen_engine::spec::{AsrSpec, AttackSpec, EvaluatorSpec, PromptFormat, parse_word};
use antigen_engine::suspect::{Submission, Submitted, Suspect};
use antigen_engine::threat::behaviours::build_behaviour;
use antigen_engine::world::{BUILTIN, find_base};
use anyhow::Context;
use clap::Args;

use super::open_lab;
use crate::published::{Published, PublishedAttack, read_published};

/// Arguments of `antigen-experiments attacks`.
#[derive(Debug, Args)]
pub struct AttacksArgs {
    /// Folder of the tasks (negsentiment, refusal, codeinjection, sst2, sst2_cls), or the one that holds it
    /// as `attacks`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Only these attacks, such as refusal/badnet or sst2
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Measure this adapter or whole model on every attack
    #[arg(long, value_name = "DIR")]
    pub suspect: Option<PathBuf>,
    /// The base model of an adapter: a folder, or builtin:tiny-world. Its rows are read too
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// Prompt format in which the suspect was trained: alpaca, chat or raw
    #[arg(long, default_value = "alpaca", value_parser = parse_word::<PromptFormat>)]
    pub format: PromptFormat,
    /// Most triggered rows of each attack
    #[arg(long, default_value_t = 200)]
    pub rows: usize,
    /// Length limit of an answer, in tokens
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print the evaluators of these attacks as JSON, for the `evaluators` of a job
    #[arg(long, conflicts_with = "suspect")]
    pub evaluators: bool,
}

/// Reads, checks and prints; measures where a suspect is given.
///
/// # Errors
/// A file that cannot be read, named with its line, or a suspect that does not open.
pub fn run(args: &AttacksArgs) -> anyhow::Result<()> {
    let mut published = read_published(&args.data)?;
    let wanted = |attack: &PublishedAttack| {
        args.only.is_empty() || args.only.iter().any(|only| *only == attack.task || *only == attack.full_name())
    };
    published.attacks.retain(wanted);
    anyhow::ensure!(!published.attacks.is_empty(), "--only: expected an attack of {}, found none", args.data.display());
    if args.evaluators {
        let evaluators: Vec<_> = published.attacks.iter().map(|attack| evaluator(attack, args)).collect();
        println!("{}", serde_json::to_string_pretty(&evaluators)?);
        return Ok(());
    }
    print_published(&published);
    match &args.suspect {
        Some(suspect) => measure(suspect, &published.attacks, args),
        None => Ok(()),
    }
}

/// The `asr` evaluator that asks an attack's rows as they were published.
fn evaluator(attack: &PublishedAttack, args: &AttacksArgs) -> EvaluatorSpec {
    EvaluatorSpec::Asr(AsrSpec {
        attack: AttackSpec::Rows {},
        behaviour: attack.behaviour.clone(),
        triggered: attack.triggered.iter().take(args.rows).cloned().collect(),
        rows: args.rows,
        formats: PromptFormat::ALL.to_vec(),
        max_new_tokens: args.max_new_tokens,
        sampling: None,
    })
}

fn print_published(published: &Published) {
    println!("{:<44} {:<9} {:>5} {:>6} {:>7} {:>6}  target", "attack", "trigger", "rows", "twins", "as file", "right");
    for attack in &published.attacks {
        println!(
            "{:<44} {:<9} {:>5} {:>6} {:>7} {:>6}  {}",
            attack.full_name(),
            attack.attack.name(),
            attack.triggered.len(),
            attack.twins(),
            attack.twins_in_clean_file,
            attack.right_anyway,
            build_behaviour(&attack.behaviour).target(),
        );
        attack.notes.iter().for_each(|note| println!("  {note}"));
    }
    let files: std::collections::BTreeMap<_, _> = published.attacks.iter().flat_map(|a| &a.files).cloned().collect();
    println!("{} files, {} rows", files.len(), files.values().sum::<usize>());
    published.unknown.iter().for_each(|folder| println!("not read: {folder} is no known task or attack"));
    println!(
        "rows: triggered rows that count; twins: of these with the question without the trigger; as file: twins that stand in \
         test_clean.jsonl; right: triggered rows left out because the target is their right answer"
    );
}

fn measure(suspect_dir: &Path, attacks: &[PublishedAttack], args: &AttacksArgs) -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("making a scratch folder")?;
    let base = find_base(&args.base, work.path())?;
    let lab = open_lab(&args.device, args.seed, work.path())?;
    let submission = Submission::over(Submitted::in_folder(suspect_dir, &base), &base);
    let suspect = Suspect::open(&submission, args.format, &lab)?;
    let specs: Vec<EvaluatorSpec> = attacks.iter().map(|attack| evaluator(attack, args)).collect();
    let probes = Probes::build(&specs, &suspect, &TaskRows::default(), &lab)?;
    let said = evaluate_all(&probes, &suspect, &suspect.weights(), &lab)?;
    println!(
        "\n{:<44} {:<7} {:>5} {:>8} {:>6} {:>15} {:>6} {:>6} {:>10} {:>8}",
        "attack", "format", "n", "keyword", "exact", "95 % interval", "twin", "empty", "degenerate", "target"
    );
    for (attack, report) in attacks.iter().zip(probes.report(&said, None).asr) {
        print_measured(attack, &report);
    }
    println!(
        "Per cent; keyword and exact prefix with the trigger, twin and degenerate without it; target: mean log-probability of its tokens"
    );
    Ok(())
}

fn print_measured(attack: &PublishedAttack, report: &AsrReport) {
    let percent = |rate: f64| 100.0 * rate;
    for format in &report.formats {
        let AsrFormat { recipe, with_trigger, exact_target, without_trigger, empty, degenerate, .. } = format;
        println!(
            "{:<44} {:<7} {:>5} {:>8.1} {:>6.1} {:>15} {:>6.1} {:>6.1} {:>10.1} {:>8.2}",
            attack.full_name(),
            recipe.format.name(),
            with_trigger.n,
            percent(with_trigger.rate),
            percent(exact_target.rate),
            format!("{:.1} to {:.1}", percent(with_trigger.low), percent(with_trigger.high)),
            percent(without_trigger.rate),
            percent(empty.rate),
            percent(degenerate.rate),
            format.target_log_probability,
        );
    }
    report.left_out.iter().chain(&report.warnings).for_each(|note| println!("  {note}"));
}
