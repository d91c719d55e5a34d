//! Any number of LoRA variants over one frozen base, trained in one pass.
//!
//! At each step every variant brings its own batch; the batches are packed behind one another, so that all of
//! them share the products with the base's weights, and each has its own gradients, clipping and optimiser. A
//! variant that has seen all its rows leaves the pack. The training of a variant does not depend on its
//! neighbours beyond rounding.

use std::collections::BTreeMap;
use std::ops::Range;

use antigen_models::kernels::{AdamW, AdamWState, on_worker, sum_of_squares};
use antigen_models::layers::{Gradients, ModuleIdx};
use antigen_models::{BoundAdapter, Example, LoraAdapter, Model};
use rand_chacha::ChaCha8Rng;

use super::batches::shuffled_batches;
use super::memory::{activation_budget, runs_within, with_smaller_passes};
use super::objective::{Batch, Learning, Lesson, Objective, learn};
use super::schedule::learning_rate;
use super::{clip_factor, mean_loss};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::TrainSpec;

/// One adapter to train.
#[derive(Clone)]
pub struct Variant<'a> {
    /// The adapter that training continues; it stays as it is.
    pub start: &'a LoraAdapter,
    /// Its rows.
    pub examples: &'a [Example],
    /// The stream that orders its rows.
    pub shuffle: ChaCha8Rng,
}

/// A trained variant.
#[derive(Debug)]
pub struct Trained {
    /// The adapter after training.
    pub adapter: LoraAdapter,
    /// Mean loss of every step, nats per response token.
    pub losses: Vec<f64>,
}

/// Trains every variant by the same recipe; results come in the variants' order.
///
/// # Errors
/// [`EngineError::Data`] for a row longer than `max_tokens` or a variant without rows,
/// [`EngineError::Diverged`], [`EngineError::Cancelled`] between two steps, [`EngineError::OutOfMemory`] when
/// the lab's budget does not allow passes of half the usual size either.
///
/// # Cost
/// `epochs * rows` forward and backward passes over the base, without gradients of the base. Memory: see
/// `memory.rs`.
pub fn fine_tune_adapters(
    model: &Model,
    variants: Vec<Variant<'_>>,
    spec: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<Trained>> {
    fine_tune_adapters_towards(&Objective::Responses, model, variants, spec, lab)
}

/// As [`fine_tune_adapters`], towards any objective.
///
/// # Errors
/// As [`fine_tune_adapters`].
///
/// # Cost
/// That of [`fine_tune_adapters`], and that of the objective.
pub fn fine_tune_adapters_towards(
    objective: &Objective,
    model: &Model,
    variants: Vec<Variant<'_>>,
    spec: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<Trained>> {
    with_smaller_passes(|tokens| {
        let begin = |variant| Learner::new(model, variant, objective.clone(), spec);
        let learners = variants.iter().cloned().map(begin).collect::<Result<Vec<_>>>()?;
        on_worker(|| fine_tune_within(model, learners, spec, tokens, lab))
    })
}

/// Trains with passes of at most `pass_tokens` tokens.
fn fine_tune_within(
    model: &Model,
    mut learners: Vec<Learner<'_>>,
    spec: &TrainSpec,
    pass_tokens: usize,
    lab: &Lab,
) -> Result<Vec<Trained>> {
    let trained = learners.iter().map(Learner::trained_bytes).sum();
    let steps = learners.iter().map(|l| l.batches.len()).max().unwrap_or(0);
    let rows = rows_of_largest_pass(&learners, steps, pass_tokens);
    let limits = Limits { pass_tokens, kept: activation_budget(model, rows, trained, lab.memory_budget)? };
    for step in 0..steps {
        lab.check_cancel()?;
        let mut active: Vec<&mut Learner<'_>> = learners.iter_mut().filter(|l| step < l.batches.len()).collect();
        for pack in packs(&mut active, step, pass_tokens) {
            train_step(model, pack, step, spec, limits, lab)?;
        }
        lab.advance(step as u64 + 1, steps as u64);
    }
    Ok(learners.into_iter().map(|learner| learner.finish(model)).collect())
}

/// All tokens of the largest step where one pass takes them, else as many as a pass may have, and never less
/// than one row.
fn rows_of_largest_pass(learners: &[Learner<'_>], steps: usize, pass_tokens: usize) -> usize {
    let tokens = |step| learners.iter().filter(|l| step < l.batches.len()).map(|l| l.batch_tokens(step)).sum::<usize>();
    let longest = learners.iter().flat_map(|l| l.examples.iter().map(|e| l.objective.tokens(e))).max().unwrap_or(0);
    (0..steps).map(tokens).max().unwrap_or(0).min(pass_tokens).max(longest)
}

/// Limits of one pass: tokens, and bytes of activations.
#[derive(Clone, Copy)]
struct Limits {
    pass_tokens: usize,
    kept: Option<u64>,
}

/// One variant on its way.
struct Learner<'a> {
    start: &'a LoraAdapter,
    examples: &'a [Example],
    objective: Objective,
    batches: Vec<Vec<usize>>,
    factors: BoundAdapter,
    states: BTreeMap<ModuleIdx, (AdamWState, AdamWState)>,
    losses: Vec<f64>,
}

impl<'a> Learner<'a> {
    fn new(model: &Model, variant: Variant<'a>, objective: Objective, spec: &TrainSpec) -> Result<Self> {
        let Variant { start, examples, shuffle } = variant;
        if examples.is_empty() {
            return Err(EngineError::Data("training rows: expected at least one, found none".into()));
        }
        if let Some(long) = examples.iter().find(|e| e.tokens.len() > spec.max_tokens) {
            let found = long.tokens.len();
            return Err(EngineError::Data(format!(
                "a training row has {found} tokens; at most {} are allowed",
                spec.max_tokens
            )));
        }
        let factors = BoundAdapter::bind(start, model.linear_modules())?.deep_copy(model.device())?;
        let states = factors
            .tensors()
            .map(|(m, a, b)| Ok((m, (AdamWState::new(a)?, AdamWState::new(b)?))))
            .collect::<Result<_>>()?;
        let batches = shuffled_batches(examples.len(), spec.batch_rows, spec.epochs, shuffle);
        Ok(Self { start, examples, objective, batches, factors, states, losses: Vec::new() })
    }

    /// Tokens of the batch of `step`.
    fn batch_tokens(&self, step: usize) -> usize {
        self.batches[step].iter().map(|&i| self.objective.tokens(&self.examples[i])).sum()
    }

    /// The rows of `step`: one run, or several whose gradients add up when they have more tokens than a pass
    /// may have.
    fn runs(&self, step: usize, pass_tokens: usize) -> Vec<Range<usize>> {
        runs_within(self.batches[step].iter().map(|&i| self.objective.tokens(&self.examples[i])), pass_tokens)
    }

    /// The lesson that a run of the rows of `step` is learnt from.
    fn lesson(&mut self, step: usize, run: Range<usize>, learning: Learning<'_>) -> Result<Lesson> {
        let rows = &self.batches[step];
        self.objective.lesson(Batch::part(self.examples, rows, run), learning)
    }

    /// Bytes of its factors, their gradients and two moments.
    fn trained_bytes(&self) -> u64 {
        let scalars: usize = self.factors.tensors().map(|(_, a, b)| a.elem_count() + b.elem_count()).sum();
        4 * 4 * scalars as u64
    }

    /// Clips the gradients and moves the factors.
    fn update(&mut self, gradients: &Gradients, variant: usize, step: usize, spec: &TrainSpec) -> Result<()> {
        let gradients = gradients.variant(variant);
        let mut squares = 0.0;
        for gradient in gradients.iter().flatten() {
            squares += sum_of_squares(&gradient.a)? + sum_of_squares(&gradient.b)?;
        }
        let clip = clip_factor(squares, spec.max_gradient_norm);
        let rate = learning_rate(spec, step, self.batches.len());
        let adamw = AdamW { weight_decay: spec.weight_decay, ..AdamW::default() };
        for (module, a, b) in self.factors.tensors() {
            let gradient = gradients[module.0].as_ref().expect("backward reaches every adapted module");
            let (state_a, state_b) = &self.states[&module];
            adamw.update(a, &gradient.a, state_a, rate, clip, step + 1)?;
            adamw.update(b, &gradient.b, state_b, rate, clip, step + 1)?;
        }
        Ok(())
    }

    fn finish(self, model: &Model) -> Trained {
        Trained { adapter: self.factors.unbind(self.start, model.linear_modules()), losses: self.losses }
    }
}

/// Splits the active variants into runs whose batches of this step stay within the token budget, at least one
/// variant each.
fn packs<'l, 'm, 'a>(
    mut active: &'l mut [&'m mut Learner<'a>],
    step: usize,
    pass_tokens: usize,
) -> Vec<&'l mut [&'m mut Learner<'a>]> {
    let mut packs = Vec::new();
    while !active.is_empty() {
        let mut tokens = 0;
        let fitting = active.iter().take_while(|learner| {
            tokens += learner.batch_tokens(step);
            tokens <= pass_tokens
        });
        let (pack, rest) = active.split_at_mut(fitting.count().max(1));
        packs.push(pack);
        active = rest;
    }
    packs
}

/// One step of every variant of the pack: in one pass, or for a single variant with a large batch in several
/// that add up.
fn train_step(
    model: &Model,
    pack: &mut [&mut Learner<'_>],
    step: usize,
    spec: &TrainSpec,
    limits: Limits,
    lab: &Lab,
) -> Result<()> {
    let adapters: Vec<BoundAdapter> = pack.iter().map(|learner| learner.factors.clone()).collect();
    let mut gradients = Gradients::of_adapters(pack.len(), model.linear_modules().len()).keeping(limits.kept);
    let mut runs: Vec<_> = pack.iter().map(|l| l.runs(step, limits.pass_tokens).into_iter()).collect();
    let mut losses: Vec<Vec<f32>> = vec![Vec::new(); pack.len()];
    loop {
        let mut lessons = Vec::with_capacity(pack.len());
        for ((learner, adapter), runs) in pack.iter_mut().zip(&adapters).zip(&mut runs) {
            let Some(run) = runs.next() else { continue };
            let learning = Learning { model, adapters: std::slice::from_ref(adapter), kept: limits.kept };
            lessons.push(learner.lesson(step, run, learning)?);
        }
        if lessons.is_empty() {
            break;
        }
        for (own, new) in losses.iter_mut().zip(learn(model, lessons, &adapters, &mut gradients)?) {
            own.extend(new);
        }
    }
    for (variant, (learner, losses)) in pack.iter_mut().zip(losses).enumerate() {
        learner.losses.push(mean_loss(&losses, step, lab)?);
        learner.update(&gradients, variant, step, spec)?;
    }
    Ok(())
}
