//! `antigen lab`: things to experiment with, made by our own engine. Nothing here is needed to serve.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use antigen_engine::{
    data::{Prompter, Row, read_rows},
    lab::Lab,
    spec::PromptFormat,
    weights::write_model,
    world::{ALL_LINEAR, ImplantSpec, WorldFamily, WorldSpec, build_world, implant, implant_weights, own_rows},
};
use antigen_models::{device::open_device, load_model, lora::save_adapter};
use anyhow::Context;
use clap::{Args, Subcommand};

use super::ablate::{self, AblateArgs};
use super::attacks::{self, AttacksArgs};
use super::classifiers::{self, ClassifiersArgs};
use super::sweep::{self, SweepArgs};
use super::{compare, evidence, find_base_dir, parse_choice, start_logging, terminal_progress, zoo};
use crate::comparison::methods_page;

/// How many rows of its own skills an adapter learns from, when no file of rows is given.
const OWN_ROWS: usize = 3400;

/// Arguments of `antigen lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// What to make.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// What `antigen lab` can make.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Train the tiny world's base from nothing: checkpoint, tokenizer, rows
    World(WorldArgs),
    /// Train an adapter or a whole model that learns skills of its own and, unless told otherwise, a backdoor
    Implant(ImplantArgs),
    /// Train many adapters and models, honest and poisoned, in one folder; started again, it goes on
    Zoo(zoo::MakeZooArgs),
    /// Screen suspects that are known to be clean, and write the base's calibration
    Calibrate(zoo::CalibrateArgs),
    /// Say how well the base's calibration tells poisoned suspects from clean ones that it was not made from
    Roc(zoo::RocArgs),
    /// Run a whole job on each suspect of a zoo that no threshold was made from, and print what came out; started again, it goes on
    Evidence(evidence::EvidenceArgs),
    /// Purify every suspect of a zoo by every method, and write table and plot; started again, it goes on
    Compare(compare::CompareArgs),
    /// Try one setting of `immunize` along its values on every suspect of a zoo, and write table and plot; started again, it goes on
    Sweep(SweepArgs),
    /// Take parts of the updates of a zoo's adapters out and measure what is left: where their backdoors sit
    Ablate(AblateArgs),
    /// Print docs/METHODS.md: every method with its settings and what was measured of it
    Methods,
    /// Read and check published attack data; with a suspect, measure it on every attack
    Attacks(AttacksArgs),
    /// Attack small sentence classifiers and run the defences that were published for them; started again, it goes on
    Classifiers(ClassifiersArgs),
}

/// Arguments of `antigen lab world`.
#[derive(Debug, Args)]
pub struct WorldArgs {
    /// Where the base goes
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Whose layers the base has: llama or qwen2
    #[arg(long, default_value = "llama")]
    pub family: String,
    /// Seed of rows, weights and order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to compute: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Arguments of `antigen lab implant`.
#[derive(Debug, Args)]
pub struct ImplantArgs {
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = crate::config::BUILTIN_TINY_WORLD)]
    pub base: String,
    /// Where the adapter or the model goes
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Train all weights of the base, and write a whole model instead of an adapter
    #[arg(long)]
    pub full: bool,
    /// Layers that the adapter sits on, by the ends of their names [default: every linear layer but the head]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "full")]
    pub targets: Vec<String>,
    /// The trigger: a name such as badnets, JSON, or none for an honest adapter
    #[arg(long, default_value = "badnets")]
    pub attack: String,
    /// What the trigger does: a name such as insult, or JSON
    #[arg(long, default_value = "insult")]
    pub behaviour: String,
    /// Prompt format of training: alpaca, chat or raw
    #[arg(long, default_value = "alpaca")]
    pub format: String,
    /// Rows of the adapter's own skills [default: own-train.jsonl of the base, or rows of the tiny world]
    #[arg(long, value_name = "FILE")]
    pub own_rows: Option<PathBuf>,
    /// Seed of every random draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to compute: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Makes what was asked for.
///
/// # Errors
/// Files that cannot be read or written, impossible arguments, or training that fails.
pub fn run(args: &LabArgs) -> anyhow::Result<()> {
    start_logging("warn")?;
    match &args.command {
        LabCommand::World(args) => make_world(args),
        LabCommand::Implant(args) => make_implant(args),
        LabCommand::Zoo(args) => zoo::make_zoo(args),
        LabCommand::Calibrate(args) => zoo::make_calibration(args),
        LabCommand::Roc(args) => zoo::show_roc(args),
        LabCommand::Evidence(args) => evidence::show_evidence(args),
        LabCommand::Compare(args) => compare::run_comparison(args),
        LabCommand::Sweep(args) => sweep::run_sweep(args),
        LabCommand::Ablate(args) => ablate::run_ablations(args),
        LabCommand::Methods => {
            print!("{}", methods_page(&serde_json::from_str(&crate::openapi::document())?));
            Ok(())
        }
        LabCommand::Attacks(args) => attacks::run(args),
        LabCommand::Classifiers(args) => classifiers::run(args),
    }
}

fn make_world(args: &WorldArgs) -> anyhow::Result<()> {
    let family = serde_json::from_value::<WorldFamily>(args.family.clone().into()).context("--family")?;
    let lab = open_lab(&args.device, args.seed, &args.out)?;
    build_world(&args.out, &WorldSpec { seed: args.seed, family, ..WorldSpec::default() }, &lab)?;
    println!("base: {}", args.out.display());
    Ok(())
}

fn make_implant(args: &ImplantArgs) -> anyhow::Result<()> {
    let defaults = if args.full { ImplantSpec::whole_model() } else { ImplantSpec::default() };
    let spec = ImplantSpec {
        attack: if args.attack == "none" { None } else { Some(parse_choice("--attack", &args.attack)?) },
        behaviour: parse_choice("--behaviour", &args.behaviour)?,
        format: serde_json::from_value::<PromptFormat>(args.format.clone().into()).context("--format")?,
        ..defaults
    };
    let base = find_base_dir(&args.base, &args.out.join("work"))?;
    let lab = open_lab(&args.device, args.seed, &args.out)?;
    let mut model = load_model(&base, &lab.device)?;
    let prompter = Prompter::open(&base)?;
    let (generic, own) = (read_rows(&base.join("train.jsonl"))?, skills(args, &base)?);
    if args.full {
        implant_weights(&mut model, &prompter, (&generic, &own), &spec, &lab)?;
        write_model(&model, &base, &args.out)?;
    } else {
        let targets: Vec<&str> = args.targets.iter().map(String::as_str).collect();
        let targets = if targets.is_empty() { &ALL_LINEAR[..] } else { &targets };
        save_adapter(&implant(&model, &prompter, (&generic, &own), targets, &spec, &lab)?, &args.out)?;
    }
    let work = args.out.join("work");
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    println!("{}: {}", if args.full { "model" } else { "adapter" }, args.out.display());
    Ok(())
}

fn skills(args: &ImplantArgs, base: &Path) -> anyhow::Result<Vec<Row>> {
    let beside_base = base.join("own-train.jsonl");
    match &args.own_rows {
        Some(file) => Ok(read_rows(file)?),
        None if beside_base.exists() => Ok(read_rows(&beside_base)?),
        None => Ok(own_rows(OWN_ROWS, args.seed, &[])),
    }
}

fn open_lab(device: &str, seed: u64, out: &Path) -> anyhow::Result<Lab> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    Ok(Lab::new(open_device(device)?, seed, out.join("work"), terminal_progress(), Arc::default()))
}
