//! `antigen-experiments implant`: an adapter or a whole model that learns skills of its own and, if asked, a
//! backdoor.

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::data::{Prompter, Row, read_rows};
use antigen_engine::spec::{PromptFormat, parse_choice, parse_word};
use antigen_engine::suspect::weights::write_model;
use antigen_engine::world::{ALL_LINEAR, BUILTIN, ImplantSpec, find_base, implant, implant_weights, task_rows};
use antigen_models::{load_model, lora::save_adapter};
use anyhow::Context;
use clap::Args;

use super::open_lab;

/// Rows of its task skills that an adapter learns from, when no file of rows is given.
const TASK_ROWS: usize = 3400;

/// Arguments of `antigen-experiments implant`.
#[derive(Debug, Args)]
pub struct ImplantArgs {
    /// The base model: a folder, or builtin:tiny-world
    #[arg(long, value_name = "DIR", default_value = BUILTIN)]
    pub base: String,
    /// Folder for the adapter or the model
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
    /// The behaviour of the trigger: a name such as insult, or JSON
    #[arg(long, default_value = "insult")]
    pub behaviour: String,
    /// Prompt format of training: alpaca, chat or raw
    #[arg(long, default_value = "alpaca", value_parser = parse_word::<PromptFormat>)]
    pub format: PromptFormat,
    /// Rows of the adapter's task skills [default: task-train.jsonl of the base, or rows of the tiny world]
    #[arg(long, value_name = "FILE")]
    pub task_rows: Option<PathBuf>,
    /// Seed of every random draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Trains the adapter or the model.
///
/// # Errors
/// Files that cannot be read or written, impossible arguments, or training that fails.
pub fn run(args: &ImplantArgs) -> anyhow::Result<()> {
    let defaults = if args.full { ImplantSpec::whole_model() } else { ImplantSpec::default() };
    let spec = ImplantSpec {
        attack: if args.attack == "none" { None } else { Some(parse_choice("--attack", &args.attack)?) },
        behaviour: parse_choice("--behaviour", &args.behaviour)?,
        format: args.format,
        ..defaults
    };
    let work = args.out.join("work");
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let base = find_base(&args.base, &work)?;
    let lab = open_lab(&args.device, args.seed, &work)?;
    let mut model = load_model(&base, &lab.device)?;
    let prompter = Prompter::open(&base)?;
    let (generic, task) = (read_rows(&base.join("train.jsonl"))?, skills(args, &base)?);
    if args.full {
        implant_weights(&mut model, &prompter, (&generic, &task), &spec, &lab)?;
        write_model(&model, &base, &args.out)?;
    } else {
        let targets: Vec<&str> = args.targets.iter().map(String::as_str).collect();
        let targets = if targets.is_empty() { &ALL_LINEAR[..] } else { &targets };
        save_adapter(&implant(&model, &prompter, (&generic, &task), targets, &spec, &lab)?, &args.out)?;
    }
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    println!("{}: {}", if args.full { "model" } else { "adapter" }, args.out.display());
    Ok(())
}

fn skills(args: &ImplantArgs, base: &Path) -> anyhow::Result<Vec<Row>> {
    let beside_base = base.join("task-train.jsonl");
    match &args.task_rows {
        Some(file) => Ok(read_rows(file)?),
        None if beside_base.exists() => Ok(read_rows(&beside_base)?),
        None => Ok(task_rows(TASK_ROWS, args.seed, &[])),
    }
}
