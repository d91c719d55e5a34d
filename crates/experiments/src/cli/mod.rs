//! The command line: one file per command. `main.rs` matches, these act.

pub mod ablate;
pub mod attacks;
pub mod bench;
pub mod classifiers;
pub mod compare;
mod evaluation;
pub mod evidence;
pub mod implant;
mod member_job;
pub mod methods;
pub mod roc;
pub mod sweep;
mod treatments;
pub mod world;
pub mod zoo;

use std::{io::IsTerminal, path::PathBuf, sync::Arc};

use antigen_engine::lab::{Lab, Lines};
use antigen_models::device::open_device;
use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

/// Experiments with suspects that we trained ourselves; nothing here is needed to serve.
#[derive(Debug, Parser)]
#[command(name = "antigen-experiments", version, propagate_version = true)]
pub struct Cli {
    /// The experiment.
    #[command(subcommand)]
    pub command: Command,
}

/// The experiments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the tiny world's base from nothing: checkpoint, tokenizer, rows
    World(world::WorldArgs),
    /// Train an adapter or a whole model that learns skills of its own and, unless told otherwise, a backdoor
    Implant(implant::ImplantArgs),
    /// Train many adapters and models, honest and poisoned, in one folder; started again, it goes on
    Zoo(zoo::MakeZooArgs),
    /// Say how well the base's calibration tells poisoned suspects from clean ones that it was not made from
    Roc(roc::RocArgs),
    /// Run a whole job on each suspect of a zoo that no threshold was made from, and print what came out;
    /// started again, it goes on
    Evidence(evidence::EvidenceArgs),
    /// Purify every suspect of a zoo by every method, and write table and plot; started again, it goes on
    Compare(compare::CompareArgs),
    /// Try one setting of a method along its values on every suspect of a zoo, and write table and plot;
    /// started again, it goes on
    Sweep(sweep::SweepArgs),
    /// Take parts of the updates of a zoo's suspects out and measure what is left: where their backdoors sit
    Ablate(ablate::AblateArgs),
    /// Print docs/METHODS.md: every method with its settings and what was measured of it
    Methods(methods::MethodsArgs),
    /// Read and check published attack data; with a suspect, measure it on every attack
    Attacks(attacks::AttacksArgs),
    /// Attack small sentence classifiers and run the defences that were published for them; started again, it
    /// goes on
    Classifiers(classifiers::ClassifiersArgs),
    /// Measure speed and memory
    Bench(bench::BenchArgs),
}

/// Starts logging warnings to standard error; standard output belongs to results.
pub fn start_logging() {
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(std::io::stderr);
    subscriber.with_ansi(std::io::stderr().is_terminal()).init();
}

/// A workplace that reports to standard error.
fn open_lab(device: &str, seed: u64, scratch: impl Into<PathBuf>) -> anyhow::Result<Lab> {
    Ok(Lab::new(open_device(device)?, seed, scratch, Arc::new(Lines::default()), Arc::default()))
}
