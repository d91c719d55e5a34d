//! `antigen`: a match, nothing else. Each command is a file in `cli/`.

use std::process::ExitCode;

use antigen::cli::{Cli, Command, calibrate, demo, migrate, openapi, purify, replay, serve, step, vet, work};
use clap::Parser;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Work(args) => work::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Step(args) => step::run(&args),
        Command::Purify(args) => purify::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Replay(args) => replay::run(&args),
        Command::Vet(args) => vet::run(&args),
        Command::Calibrate(args) => calibrate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Migrate(args) => migrate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Openapi(args) => openapi::run(&args).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
