//! `antigen purify`: the same intake and the same engine as a job, without a server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use antigen_engine::job::PurifySpec;
use antigen_engine::lab::write_whole;
use antigen_engine::report::Report;
use antigen_engine::spec::{
    AttackSpec, BehaviourSpec, DataFolders, EvaluatorSpec, RelearningSpec, parse_choice, parse_word,
};
use antigen_engine::suspect::{Submission, Submitted};
use antigen_engine::world::find_base;
use antigen_models::kernels::Precision;
use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{print_report, start_logging, terminal_progress};
use crate::intake;
use crate::intake::{ArtifactKind, IntakeLimits};
use crate::worker::{PurifyOrder, purify_here};

/// Arguments of `antigen purify`.
#[derive(Debug, Args)]
pub struct PurifyArgs {
    /// The suspect: the folder of an adapter (PEFT) or of a whole model, or a tar, tar.gz or zip of one
    pub suspect: PathBuf,
    /// The base model of an adapter: a folder, or builtin:tiny-world. For a whole model only a source of rows
    #[arg(long, value_name = "DIR")]
    pub base: Option<String>,
    /// Folder for the purified adapter or model, the signature and the report
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The specification as JSON, as in `POST /v1/jobs` [default: the service's]
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Your task rows, JSON lines with instruction, input, output: they join healing and measuring
    #[arg(long, alias = "own-rows", value_name = "FILE")]
    pub task_rows: Option<PathBuf>,
    /// Rows to train on [default: train.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub train_rows: Option<PathBuf>,
    /// Rows to measure on [default: test.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub test_rows: Option<PathBuf>,
    /// Folder of public benchmarks, for evaluators of type benchmark
    #[arg(long, value_name = "DIR")]
    pub benchmarks: Option<PathBuf>,
    /// Folder of MT-Bench, for an evaluator of type mt_bench; answers are kept, a judge works in the service
    /// only
    #[arg(long, value_name = "DIR")]
    pub mt_bench: Option<PathBuf>,
    /// A signature that an earlier run extracted, to be suppressed instead of one of the suspect's own: no
    /// pairs are trained
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    /// A trigger to measure: a name such as badnets, or JSON such as {"type":"badnets","trigger":"cf"}
    #[arg(long, value_name = "ATTACK", requires = "behaviour")]
    pub attack: Option<String>,
    /// The behaviour of that trigger: a name such as insult, or JSON
    #[arg(long, value_name = "BEHAVIOUR", requires = "attack")]
    pub behaviour: Option<String>,
    /// The method: a name such as auto, or JSON such as {"type":"vaccinate"}; wins over the specification's
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Also measure how many poisoned samples bring the declared backdoors back; costs about as much training
    /// as the job itself
    #[arg(long)]
    pub relearn: bool,
    /// Seed of every random draw; wins over the specification's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Operands of products with weights: float32, or bfloat16, which halves the memory of the weights under
    /// an adapter
    #[arg(long, default_value = "float32", value_parser = parse_word::<Precision>)]
    pub precision: Precision,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Purifies one adapter or whole model. Interrupted and started again with the same `--out`, it continues.
///
/// # Errors
/// The suspect is refused, the specification is impossible, or the engine fails.
pub fn run(args: &PurifyArgs) -> anyhow::Result<()> {
    start_logging("warn")?;
    let spec = read_spec(args)?;
    let base_dir = args.base.as_deref().map(|base| find_base(base, &args.out.join("work"))).transpose()?;
    let unpacked = args.out.join("work").join("input");
    let kind = admit(&args.suspect, &unpacked, base_dir.as_deref())?;
    let submission = Submission {
        suspect: Submitted::in_folder(&unpacked, base_dir.as_deref().unwrap_or(&unpacked)),
        train_rows: rows_file(args.train_rows.as_deref(), base_dir.as_deref(), "train")?,
        test_rows: rows_file(args.test_rows.as_deref(), base_dir.as_deref(), "test")?,
        task_rows: args.task_rows.clone(),
        calibration_dir: base_dir.clone(),
        base_dir,
        signature: args.signature.clone(),
        folders: DataFolders { benchmarks: args.benchmarks.clone(), mt_bench: args.mt_bench.clone() },
    };
    let order = PurifyOrder {
        submission,
        device: args.device.clone(),
        memory_bytes: 0,
        precision: args.precision,
        scratch: args.out.join("work").join("scratch"),
    };
    let outcome = purify_here(&order, &spec, terminal_progress(), Arc::new(AtomicBool::new(false)))?;
    copy_folder(&outcome.artifact_dir, &args.out.join(folder_name(kind)))?;
    if let Some(signature) = &outcome.signature_path {
        copy_file(signature, &args.out)?;
    }
    let report = serde_json::to_vec_pretty(&outcome.report)?;
    write_whole(&args.out.join("report.json"), &report).context("writing report.json")?;
    fs::remove_dir_all(args.out.join("work")).context("removing the scratch folder")?;
    show(args, kind, &outcome.report, &report)
}

fn show(args: &PurifyArgs, kind: ArtifactKind, report: &Report, json: &[u8]) -> anyhow::Result<()> {
    if args.json {
        println!("{}", std::str::from_utf8(json)?);
    } else {
        print_report(report);
        println!("{}, signature and report.json: {}", folder_name(kind), args.out.display());
    }
    Ok(())
}

fn read_spec(args: &PurifyArgs) -> anyhow::Result<PurifySpec> {
    let mut spec = match &args.spec {
        Some(path) => {
            let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?
        }
        None => PurifySpec::default(),
    };
    if let Some(seed) = args.seed {
        spec.seed = seed;
    }
    if let (Some(attack), Some(behaviour)) = (&args.attack, &args.behaviour) {
        let attack: AttackSpec = parse_choice("--attack", attack)?;
        let behaviour: BehaviourSpec = parse_choice("--behaviour", behaviour)?;
        let asr = json!({ "type": "asr", "attack": attack, "behaviour": behaviour });
        spec.evaluators.insert(0, serde_json::from_value::<EvaluatorSpec>(asr)?);
    }
    if let Some(method) = &args.method {
        spec.method = parse_choice("--method", method)?;
    }
    if args.relearn && spec.relearning.is_none() {
        spec.relearning = Some(RelearningSpec::default());
    }
    spec.validate()?;
    Ok(spec)
}

/// The name of the purified artifact in the output folder.
fn folder_name(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Adapter => "adapter",
        ArtifactKind::Checkpoint => "model",
    }
}

fn rows_file(given: Option<&Path>, base: Option<&Path>, role: &str) -> anyhow::Result<PathBuf> {
    let beside_base = || base.map(|base| base.join(format!("{role}.jsonl")));
    let file = given.map(Path::to_owned).or_else(beside_base);
    file.with_context(|| format!("expected --{role}-rows, or a --base that has {role}.jsonl; found neither"))
}

/// The files of the suspect pass the same quarantine as an upload, on their way into the folder `into`.
///
/// # Errors
/// The suspect is refused, or the disk refuses.
pub fn admit(suspect: &Path, into: &Path, base_dir: Option<&Path>) -> anyhow::Result<ArtifactKind> {
    if into.exists() {
        fs::remove_dir_all(into).with_context(|| format!("removing {}", into.display()))?;
    }
    let facts = intake::inspect_upload(suspect, &IntakeLimits::default(), into)?;
    let base = match facts.kind {
        ArtifactKind::Adapter => base_dir.context("expected --base, the model that the adapter sits on; found none")?,
        ArtifactKind::Checkpoint => into,
    };
    intake::check_against_base(&facts, into, base)?;
    Ok(facts.kind)
}

fn copy_folder(from: &Path, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    for name in crate::artifacts::list_files(from)? {
        copy_file(&from.join(name), into)?;
    }
    Ok(())
}

fn copy_file(from: &Path, into: &Path) -> anyhow::Result<()> {
    let name = from.file_name().with_context(|| format!("{} has no name", from.display()))?;
    fs::copy(from, into.join(name)).with_context(|| format!("copying {} into {}", from.display(), into.display()))?;
    Ok(())
}
