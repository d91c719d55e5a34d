//! `antigen bench`: measures speed, as a command rather than a timed test.

use antigen_engine::{
    bench::{Shape, Speed, Work, measure_training},
    lab::Lab,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

/// Arguments of `antigen bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Training speed, adapter and full, on the tiny and the bench shape
    Train(TrainArgs),
}

/// Arguments of `antigen bench train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Seconds of each of the four measurements
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
///
/// # Errors
/// What training says.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let What::Train(args) = &args.what;
    anyhow::ensure!((0.1..=3600.0).contains(&args.seconds), "--seconds: expected 0.1 to 3600, found {}", args.seconds);
    let lab = Lab::silent(0, std::env::temp_dir());
    let mut speeds = Vec::new();
    for shape in [Shape::Tiny, Shape::Bench] {
        for work in [Work::Full, Work::Adapter] {
            let speed = measure_training(shape, work, args.seconds, &lab).context("training")?;
            if !args.json {
                print_line(&speed);
            }
            speeds.push(speed);
        }
    }
    if args.json {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        println!("{}", json!({ "threads": threads, "optimised": !cfg!(debug_assertions), "measurements": speeds }));
    }
    Ok(())
}

fn print_line(speed: &Speed) {
    let Speed { shape, work, tokens_per_second, steps, seconds } = speed;
    println!("{shape:?} {work:?}: {tokens_per_second:.0} tokens/s ({steps} steps in {seconds:.1} s)");
}
