//! `antigen-experiments`: a match, nothing else. Each command is a file in `cli/`.

use std::process::ExitCode;

use antigen_experiments::cli::{
    Cli, Command, ablate, attacks, bench, classifiers, compare, evidence, implant, methods, roc, start_logging, sweep,
    world, zoo,
};
use clap::Parser;

fn main() -> ExitCode {
    start_logging();
    let outcome = match Cli::parse().command {
        Command::World(args) => world::run(&args),
        Command::Implant(args) => implant::run(&args),
        Command::Zoo(args) => zoo::run(&args),
        Command::Roc(args) => roc::run(&args),
        Command::Evidence(args) => evidence::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Ablate(args) => ablate::run(&args),
        Command::Methods(args) => methods::run(&args),
        Command::Attacks(args) => attacks::run(&args),
        Command::Classifiers(args) => classifiers::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
