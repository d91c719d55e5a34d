//! Speed of the work that a purification consists of, on fixed shapes with random weights and tokens: other
//! implementations are compared by it.
//!
//! `shapes.rs` has shapes and work, `job.rs` makes the rows of an adapter job. Every measurement belongs into
//! a process of its own, so that the peak memory it reports is its own.

mod job;
mod shapes;

use std::time::Instant;

use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_engine::spec::TrainSpec;
use antigen_engine::train::{Variant, fine_tune_adapters, train_weights};
use antigen_models::kernels::{Precision, products};
use antigen_models::{Example, GenerateOptions, LoraAdapter, Model, generate_greedy};
use serde::{Deserialize, Serialize};

pub use job::{RowLengths, job_variants};
pub use shapes::{Shape, Work};

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Speed {
    /// The shape.
    pub shape: Shape,
    /// The work.
    pub work: Work,
    /// Labelled tokens (full, LoRA), tokens of rows without padding (adapter job) or new tokens (generation)
    /// per second.
    pub tokens_per_second: f64,
    /// Tokens counted.
    pub tokens: usize,
    /// Seconds they took.
    pub seconds: f64,
    /// Seconds of processor time that they took, all threads together.
    pub processor_seconds: f64,
    /// Share of `seconds` that the working thread spent in products of two matrices; the products inside
    /// attention, which run on all threads at once, are not among them, and neither is what a GPU computes.
    pub gemm_share: f64,
    /// Floating-point operations a second of those products while they ran, in 10^9.
    pub gemm_gflops: f64,
    /// Largest resident memory of this process so far, in MiB.
    pub peak_mib: u64,
}

/// Rows of one optimiser step, as the peers take them.
const BATCH_ROWS: usize = 8;
/// Sequences generated at a time.
const GENERATED_ROWS: usize = 50;
/// Tokens of a prompt, and new tokens after it.
const GENERATED_TOKENS: (usize, usize) = (64, 32);
/// Pairs of an adapter job; the poisoned variant of a pair has twice the rows of the clean one.
const PAIRS: usize = 6;

/// Works for about `seconds` on the lab's device after a short untimed run, and reports the speed. `lengths`
/// gives the rows of an adapter job.
///
/// # Errors
/// Those of training; never the input's fault.
pub fn measure(
    shape: Shape,
    work: Work,
    precision: Precision,
    seconds: f64,
    lengths: &RowLengths,
    lab: &Lab,
) -> Result<Speed> {
    let mut model = shapes::random_model(shape, &lab.device)?;
    match work {
        Work::Full => model.params_mut().set_precision(precision),
        Work::Lora | Work::AdapterJob | Work::Generate => model.freeze(precision)?,
    }
    let mut run = |size| timed(&mut model, shape, work, size, lengths, lab);
    run(1)?;
    let short = run(1)?;
    let speed = run(((seconds / short.seconds).round() as usize).max(1))?;
    Ok(speed)
}

/// Does `size` units of the work: optimiser steps, or batches of prompts.
fn timed(model: &mut Model, shape: Shape, work: Work, size: usize, lengths: &RowLengths, lab: &Lab) -> Result<Speed> {
    let order = |name: &str| lab.rng(&format!("bench/order/{name}"));
    let spec = TrainSpec { epochs: 1, batch_rows: BATCH_ROWS, learning_rate: 1e-4, ..TrainSpec::default() };
    match work {
        Work::Full => {
            let examples = shapes::labelled_examples(shape, size * BATCH_ROWS);
            clocked(shape, work, input_tokens(&examples), lab, || {
                train_weights(model, &examples, &spec, order("full"), lab).map(|_| ())
            })
        }
        Work::Lora => {
            let examples = shapes::labelled_examples(shape, size * BATCH_ROWS);
            let start = shapes::fresh_adapter(model, 16)?;
            let variants = vec![Variant { start: &start, examples: &examples, shuffle: order("lora") }];
            clocked(shape, work, input_tokens(&examples), lab, || {
                fine_tune_adapters(model, variants, &spec, lab).map(|_| ())
            })
        }
        Work::AdapterJob => {
            let start = shapes::fresh_adapter(model, 8)?;
            let rows = job_variants(lengths, PAIRS, size * BATCH_ROWS, shape.vocabulary());
            let tokens = rows.iter().flatten().map(|e| e.tokens.len()).sum();
            clocked(shape, work, tokens, lab, || train_job(model, &start, &rows, &spec, lab))
        }
        Work::Generate => {
            let (prompt, new) = GENERATED_TOKENS;
            let prompts = shapes::random_prompts(shape, size * GENERATED_ROWS, prompt);
            let options = GenerateOptions { max_new_tokens: new, stop: vec![], batch_rows: GENERATED_ROWS };
            clocked(shape, work, prompts.len() * new, lab, || {
                Ok(generate_greedy(model, None, &prompts, &options).map(|_| ())?)
            })
        }
    }
}

/// Trains `pairs` pairs of an adapter job for one epoch of `rows` and `2 * rows` rows, and reports the speed.
///
/// # Errors
/// Those of training.
pub fn measure_job(shape: Shape, pairs: usize, rows: usize, lengths: &RowLengths, lab: &Lab) -> Result<Speed> {
    let model = shapes::random_model(shape, &lab.device)?;
    let start = shapes::fresh_adapter(&model, 8)?;
    let rows = job_variants(lengths, pairs, rows, shape.vocabulary());
    let spec = TrainSpec { epochs: 1, batch_rows: BATCH_ROWS, ..TrainSpec::default() };
    let tokens = rows.iter().flatten().map(|e| e.tokens.len()).sum();
    clocked(shape, Work::AdapterJob, tokens, lab, || train_job(&model, &start, &rows, &spec, lab))
}

fn train_job(model: &Model, start: &LoraAdapter, rows: &[Vec<Example>], spec: &TrainSpec, lab: &Lab) -> Result<()> {
    let variants = rows.iter().enumerate().map(|(i, examples)| Variant {
        start,
        examples,
        shuffle: lab.rng(&format!("bench/order/{i}")),
    });
    fine_tune_adapters(model, variants.collect(), spec, lab).map(|_| ())
}

fn clocked(shape: Shape, work: Work, tokens: usize, lab: &Lab, run: impl FnOnce() -> Result<()>) -> Result<Speed> {
    products::reset_clock();
    let (start, processor) = (Instant::now(), processor_seconds());
    run()?;
    lab.device.synchronize()?; // a GPU may still be at work
    let (seconds, processor_seconds) = (start.elapsed().as_secs_f64(), processor_seconds() - processor);
    let (gemm_seconds, gemm_operations) = products::read_clock();
    Ok(Speed {
        shape,
        work,
        tokens_per_second: tokens as f64 / seconds,
        tokens,
        seconds,
        processor_seconds,
        gemm_share: gemm_seconds / seconds,
        gemm_gflops: gemm_operations / gemm_seconds.max(1e-9) / 1e9,
        peak_mib: peak_mib(),
    })
}

/// Every token but a sequence's last is an input with a label.
fn input_tokens(examples: &[Example]) -> usize {
    examples.iter().map(|e| e.tokens.len() - 1).sum()
}

/// Largest resident memory of this process so far, in MiB; 0 where the system does not tell.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Processor time of this process so far, all threads together; 0 where the system does not tell.
fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // the unit of /proc on every Linux
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| after_name.split_whitespace().nth(field).and_then(|f| f.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}
