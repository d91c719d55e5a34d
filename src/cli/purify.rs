//! `antigen purify`: the same intake and the same engine as a job, without a server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use antigen_engine::{
    report::Report,
    spec::{AttackSpec, BehaviourSpec, EvaluatorSpec, PurifySpec},
};
use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{find_base_dir, parse_choice, print_report, start_logging, terminal_progress};
use crate::{
    intake::{self, IntakeLimits},
    worker::{PurifyOrder, purify_here, write_whole},
};

/// Arguments of `antigen purify`.
#[derive(Debug, Args)]
pub struct PurifyArgs {
    /// The suspicious adapter: a PEFT folder, or a tar, tar.gz or zip of one
    pub adapter: PathBuf,
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR")]
    pub base: String,
    /// Where the purified adapter, the signature and the report go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The specification as JSON, as in `POST /v1/jobs` [default: the service's]
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Your own rows, JSON lines with instruction, input, output: they join healing and measuring
    #[arg(long, value_name = "FILE")]
    pub own_rows: Option<PathBuf>,
    /// Rows to train on [default: train.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub train_rows: Option<PathBuf>,
    /// Rows to measure on [default: test.jsonl of the base]
    #[arg(long, value_name = "FILE")]
    pub test_rows: Option<PathBuf>,
    /// A trigger to measure: a name such as badnets, or JSON such as {"type":"badnets","trigger":"cf"}
    #[arg(long, value_name = "ATTACK", requires = "behaviour")]
    pub attack: Option<String>,
    /// What that trigger does: a name such as insult, or JSON
    #[arg(long, value_name = "BEHAVIOUR", requires = "attack")]
    pub behaviour: Option<String>,
    /// Seed of every random draw; wins over the specification's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Purifies one adapter. Interrupted and started again with the same `--out`, it continues.
///
/// # Errors
/// The adapter is refused, the specification is impossible, or the engine fails.
pub fn run(args: &PurifyArgs) -> anyhow::Result<()> {
    start_logging("warn")?;
    let spec = read_spec(args)?;
    let base_dir = find_base_dir(&args.base, &args.out.join("work"))?;
    let unpacked = args.out.join("work").join("input");
    admit(&args.adapter, &unpacked, &base_dir)?;
    let order = PurifyOrder {
        adapter_dir: unpacked,
        train_rows: args.train_rows.clone().unwrap_or_else(|| base_dir.join("train.jsonl")),
        test_rows: args.test_rows.clone().unwrap_or_else(|| base_dir.join("test.jsonl")),
        own_rows: args.own_rows.clone(),
        base_dir,
        device: args.device.clone(),
        memory_bytes: 0,
        scratch: args.out.join("work").join("scratch"),
    };
    let outcome = purify_here(&order, &spec, terminal_progress(), Arc::new(AtomicBool::new(false)))?;
    copy_folder(&outcome.artifact_dir, &args.out.join("adapter"))?;
    if let Some(signature) = &outcome.signature_path {
        copy_file(signature, &args.out)?;
    }
    let report = serde_json::to_vec_pretty(&outcome.report)?;
    write_whole(&args.out.join("report.json"), &report).context("writing report.json")?;
    fs::remove_dir_all(args.out.join("work")).context("removing the scratch folder")?;
    show(args, &outcome.report, &report)
}

fn show(args: &PurifyArgs, report: &Report, json: &[u8]) -> anyhow::Result<()> {
    if args.json {
        println!("{}", std::str::from_utf8(json)?);
    } else {
        print_report(report);
        println!("adapter, signature and report.json: {}", args.out.display());
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
    spec.validate()?;
    Ok(spec)
}

/// The files of the adapter pass the same quarantine as an upload.
fn admit(adapter: &Path, into: &Path, base_dir: &Path) -> anyhow::Result<()> {
    if into.exists() {
        fs::remove_dir_all(into).with_context(|| format!("removing {}", into.display()))?;
    }
    let facts = intake::inspect_upload(adapter, &IntakeLimits::default(), into)?;
    intake::check_against_base(&facts, into, base_dir)?;
    Ok(())
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
