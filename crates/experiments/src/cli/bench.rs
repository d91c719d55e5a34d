//! `antigen-experiments bench`: measures speed and memory, as a command rather than a timed test.
//!
//! Every measurement runs in a child process of its own, so that its peak memory is its own. With `--peer`
//! the children of another implementation take turns with ours: on a machine with other work only ratios
//! within one run mean anything.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use antigen_engine::lab::{Lab, Silent};
use antigen_engine::spec::parse_word;
use antigen_models::{kernels::Precision, open_device};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::evaluation;
use super::evaluation::EvaluationArgs;
use crate::bench::{RowLengths, Shape, Speed, Work, measure, measure_job};

/// Arguments of `antigen-experiments bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The measurement.
    #[command(subcommand)]
    pub what: What,
}

/// The measurements.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Speed and memory of full training, LoRA, an adapter job and generation on the tiny and the bench shape
    Train(TrainArgs),
    /// Speed and memory of one adapter job with short rows on a larger shape
    Job(JobArgs),
    /// The time that measuring takes, before and after
    Evaluation(EvaluationArgs),
    /// One measurement in this process; started by `train`.
    #[command(hide = true)]
    One(OneArgs),
}

/// Arguments of `antigen-experiments bench train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Seconds of each measurement, about
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Measure only these shapes
    #[arg(long = "shape", value_enum, default_values_t = [Shape::Tiny, Shape::Bench])]
    pub shapes: Vec<Shape>,
    /// Measure only this work
    #[arg(long = "work", value_enum, default_values_t = Work::ALL)]
    pub works: Vec<Work>,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Operands of products of matrices: float32 or bfloat16
    #[arg(long, default_value = "float32", value_parser = parse_word::<Precision>)]
    pub precision: Precision,
    /// JSON lines with `instruction`, `input` and `output`: the adapter job's rows have their lengths
    #[arg(long, value_name = "FILE")]
    pub rows: Option<PathBuf>,
    /// Command of another implementation, run as `COMMAND WORK --config SHAPE --seconds S`; prints one JSON
    /// object
    #[arg(long, value_name = "COMMAND")]
    pub peer: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `antigen-experiments bench job`.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The model
    #[arg(long, value_enum, default_value_t = Shape::Llama1b)]
    pub shape: Shape,
    /// Pairs of variants
    #[arg(long, default_value_t = 2)]
    pub pairs: usize,
    /// Rows of a clean variant; a poisoned one has twice as many
    #[arg(long, default_value_t = 20)]
    pub rows: usize,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print one JSON object instead of a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `antigen-experiments bench one`.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The work
    #[arg(long, value_enum)]
    pub work: Work,
    /// The model
    #[arg(long, value_enum)]
    pub shape: Shape,
    /// About how long
    #[arg(long)]
    pub seconds: f64,
    /// See `bench train`
    #[arg(long)]
    pub device: String,
    /// See `bench train`
    #[arg(long, value_parser = parse_word::<Precision>)]
    pub precision: Precision,
    /// See `bench train`
    #[arg(long)]
    pub rows: Option<PathBuf>,
}

fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| Some(word.as_str()?.to_owned())).expect("these types are words")
}

/// Measures and prints.
///
/// # Errors
/// Those of training, or that a child process failed.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Train(args) => train(args),
        What::Job(args) => job(args),
        What::One(args) => one(args),
        What::Evaluation(args) => evaluation::run(args),
    }
}

fn one(args: &OneArgs) -> anyhow::Result<()> {
    let lengths = args.rows.as_deref().map_or_else(|| Ok(RowLengths::short()), read_lengths)?;
    let speed = measure(args.shape, args.work, args.precision, args.seconds, &lengths, &silent(&args.device)?)?;
    println!("{}", serde_json::to_string(&speed)?);
    Ok(())
}

fn job(args: &JobArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.pairs > 0 && args.rows > 0, "--pairs and --rows: expected at least 1");
    let JobArgs { pairs, rows, .. } = *args;
    let lab = silent(&args.device)?;
    let speed = measure_job(args.shape, pairs, rows, &RowLengths::short(), &lab).context("training")?;
    if args.json {
        println!("{}", json!({ "pairs": pairs, "rows": rows, "measurement": speed }));
    } else {
        println!("{pairs} pairs of {rows} and {} rows: {}", 2 * rows, describe(&speed));
    }
    Ok(())
}

fn silent(device: &str) -> anyhow::Result<Lab> {
    Ok(Lab::new(open_device(device)?, 0, std::env::temp_dir(), Arc::new(Silent), Arc::default()))
}

fn read_lengths(path: &Path) -> anyhow::Result<RowLengths> {
    let lines = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    RowLengths::parse(&lines).with_context(|| format!("reading {}", path.display()))
}

/// All measurements of one shape and work.
#[derive(Debug, Default, Serialize)]
struct Compared {
    ours: Vec<Speed>,
    peer: Vec<PeerSpeed>,
}

/// The speed that another implementation printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PeerSpeed {
    #[serde(alias = "tokens_per_s", alias = "useful_tokens_per_s", alias = "new_tokens_per_s")]
    tokens_per_second: f64,
    #[serde(alias = "peak_rss_mib")]
    peak_mib: u64,
}

impl Compared {
    /// Our tokens a second over the peer's, the median over the rounds: two neighbours in time share the
    /// machine's mood.
    fn ratio(&self) -> Option<f64> {
        let pairs = self.ours.iter().zip(&self.peer);
        let mut ratios: Vec<f64> = pairs.map(|(a, b)| a.tokens_per_second / b.tokens_per_second).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }

    fn peak(&self) -> Option<f64> {
        let ours = self.ours.iter().map(|s| s.peak_mib).max()? as f64;
        Some(ours / self.peer.iter().map(|s| s.peak_mib).max()? as f64)
    }
}

fn train(args: &TrainArgs) -> anyhow::Result<()> {
    anyhow::ensure!((0.1..=3600.0).contains(&args.seconds), "--seconds: expected 0.1 to 3600, found {}", args.seconds);
    anyhow::ensure!((1..=100).contains(&args.rounds), "--rounds: expected 1 to 100, found {}", args.rounds);
    args.rows.as_deref().map(read_lengths).transpose()?;
    let mut results: BTreeMap<(Shape, Work), Compared> = BTreeMap::new();
    for _ in 0..args.rounds {
        for &shape in &args.shapes {
            for &work in &args.works {
                if work == Work::AdapterJob && args.rows.is_none() {
                    eprintln!("adapter_job: not measured; give the rows whose lengths it takes with --rows FILE");
                    continue;
                }
                let compared = results.entry((shape, work)).or_default();
                compared.ours.push(measure_ours(args, shape, work)?);
                if let Some(peer) = &args.peer {
                    compared.peer.push(measure_peer(peer, args.seconds, shape, work)?);
                }
                if !args.json {
                    print_line(compared);
                }
            }
        }
    }
    if args.json {
        println!("{}", report(args, &results));
    }
    Ok(())
}

fn measure_ours(args: &TrainArgs, shape: Shape, work: Work) -> anyhow::Result<Speed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "one", "--work", &word(&work), "--shape", &word(&shape)]);
    command.args(["--seconds", &args.seconds.to_string(), "--device", &args.device]);
    command.args(["--precision", &word(&args.precision)]);
    if let Some(rows) = &args.rows {
        command.arg("--rows").arg(rows);
    }
    last_line(command)
}

fn measure_peer(peer: &str, seconds: f64, shape: Shape, work: Work) -> anyhow::Result<PeerSpeed> {
    let mut words = peer.split_whitespace();
    let mut command = Command::new(words.next().context("--peer: expected a command, found nothing")?);
    command.args(words).args([&word(&work), "--config", &word(&shape), "--seconds", &seconds.to_string()]);
    last_line(command)
}

/// Runs the command and reads the last line of its output as JSON.
fn last_line<T: DeserializeOwned>(mut command: Command) -> anyhow::Result<T> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        anyhow::bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{command:?}: expected a JSON object, found `{line}`"))
}

fn describe(speed: &Speed) -> String {
    format!(
        "{:.0} tokens/s ({} tokens in {:.1} s), products {:.0} % of the time at {:.0} GFLOP/s, peak {} MiB",
        speed.tokens_per_second,
        speed.tokens,
        speed.seconds,
        100.0 * speed.gemm_share,
        speed.gemm_gflops,
        speed.peak_mib
    )
}

fn print_line(compared: &Compared) {
    let Some(speed) = compared.ours.last() else { return };
    println!("{:?} {:?}: {}", speed.shape, speed.work, describe(speed));
    if let (Some(peer), Some(ratio), Some(peak)) = (compared.peer.last(), compared.ratio(), compared.peak()) {
        let PeerSpeed { tokens_per_second, peak_mib } = peer;
        println!("  peer: {tokens_per_second:.0} tokens/s, peak {peak_mib} MiB; ratio {ratio:.2}, memory {peak:.2}");
    }
}

fn report(args: &TrainArgs, results: &BTreeMap<(Shape, Work), Compared>) -> Value {
    let (mut ratios, mut peaks, mut shares, mut all) = (json!({}), json!({}), json!({}), json!({}));
    for ((shape, work), compared) in results {
        let (shape, work) = (word(shape), word(work));
        ratios[&shape][&work] = json!(compared.ratio());
        peaks[&shape][&work] = json!({
            "ours_mib": compared.ours.iter().map(|s| s.peak_mib).max(),
            "peer_mib": compared.peer.iter().map(|s| s.peak_mib).max(),
        });
        shares[&shape][&work] = json!(compared.ours.last().map(|s| s.gemm_share));
        all[&shape][&work] = json!(compared);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    json!({
        "threads": threads, "optimised": !cfg!(debug_assertions), "device": args.device,
        "precision": word(&args.precision), "ratios": ratios, "peaks": peaks,
        "gemm_share": shares, "measurements": all,
    })
}
