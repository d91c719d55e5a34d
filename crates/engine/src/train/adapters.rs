//! Any number of LoRA variants over one frozen base, trained in one pass.
//!
//! At each step every variant brings its own batch; the batches are packed behind one another, so that all of them share the
//! products with the base's weights, and each has its own gradients, clipping and optimiser. A variant that has seen all its
//! rows leaves the pack. What a variant learns does not depend on its neighbours beyond rounding.

use std::collections::BTreeMap;

use antigen_models::kernels::{AdamW, AdamWState, sum_of_squares};
use antigen_models::layers::{Gradients, ModuleIdx, Pass};
use antigen_models::{BoundAdapter, Example, LoraAdapter, Model, Packed};
use rand_chacha::ChaCha8Rng;

use super::batches::shuffled_batches;
use super::schedule::learning_rate;
use super::{TrainSpec, clip_factor, mean_loss};
use crate::error::{EngineError, Result};
use crate::lab::Lab;

/// Tokens of one pass. Four thousand keep the matrix products of a small base busy; more only cost memory.
const TOKENS_PER_PASS: usize = 4096;

/// One adapter to train.
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
/// [`EngineError::Data`] for a row longer than `max_tokens` or a variant without rows, [`EngineError::Diverged`],
/// [`EngineError::Cancelled`] between two steps.
///
/// # Cost
/// `epochs * rows` forward and backward passes over the base, without gradients of the base.
pub fn fine_tune_adapters(
    model: &Model,
    variants: Vec<Variant<'_>>,
    spec: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<Trained>> {
    let mut learners = variants.into_iter().map(|v| Learner::new(model, v, spec)).collect::<Result<Vec<_>>>()?;
    let steps = learners.iter().map(|l| l.batches.len()).max().unwrap_or(0);
    for step in 0..steps {
        lab.check_cancel()?;
        let mut active: Vec<&mut Learner<'_>> = learners.iter_mut().filter(|l| step < l.batches.len()).collect();
        for pack in packs(&mut active, step) {
            train_step(model, pack, step, spec, lab)?;
        }
        lab.advance(step as u64 + 1, steps as u64);
    }
    Ok(learners.into_iter().map(|learner| learner.finish(model)).collect())
}

/// One variant on its way.
struct Learner<'a> {
    start: &'a LoraAdapter,
    examples: &'a [Example],
    batches: Vec<Vec<usize>>,
    factors: BoundAdapter,
    states: BTreeMap<ModuleIdx, (AdamWState, AdamWState)>,
    losses: Vec<f64>,
}

impl<'a> Learner<'a> {
    fn new(model: &Model, variant: Variant<'a>, spec: &TrainSpec) -> Result<Self> {
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
        Ok(Self { start, examples, batches, factors, states, losses: Vec::new() })
    }

    /// Tokens of the batch of `step`.
    fn batch_tokens(&self, step: usize) -> usize {
        self.batches[step].iter().map(|&i| self.examples[i].tokens.len()).sum()
    }

    /// The batch of `step`, its loss averaged over its response tokens.
    fn pack(&self, step: usize) -> Packed {
        let batch = self.batches[step].iter().map(|&i| &self.examples[i]);
        let responses: usize = batch.clone().map(Example::response_tokens).sum();
        Packed::new(batch, 1.0 / responses.max(1) as f32)
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

/// Splits the active variants into runs whose batches of this step stay within the token budget, at least one variant each.
fn packs<'l, 'm, 'a>(mut active: &'l mut [&'m mut Learner<'a>], step: usize) -> Vec<&'l mut [&'m mut Learner<'a>]> {
    let mut packs = Vec::new();
    while !active.is_empty() {
        let mut tokens = 0;
        let fitting = active.iter().take_while(|learner| {
            tokens += learner.batch_tokens(step);
            tokens <= TOKENS_PER_PASS
        });
        let (pack, rest) = active.split_at_mut(fitting.count().max(1));
        packs.push(pack);
        active = rest;
    }
    packs
}

fn train_step(model: &Model, pack: &mut [&mut Learner<'_>], step: usize, spec: &TrainSpec, lab: &Lab) -> Result<()> {
    let mut packed = Packed::default();
    let mut target_counts = Vec::with_capacity(pack.len());
    for learner in pack.iter() {
        let batch = learner.pack(step);
        target_counts.push(batch.targets.len());
        packed.append_group(batch);
    }
    let adapters: Vec<BoundAdapter> = pack.iter().map(|learner| learner.factors.clone()).collect();
    let pass = Pass { params: model.params(), rows: &packed.rows, adapters: &adapters, cache: None };
    let mut gradients = Gradients::of_adapters(pack.len(), model.linear_modules().len());
    let (losses, _) = model.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients)?;
    let mut losses = losses.as_slice();
    for (variant, (learner, count)) in pack.iter_mut().zip(target_counts).enumerate() {
        let (own, rest) = losses.split_at(count);
        losses = rest;
        learner.losses.push(mean_loss(own, step, lab)?);
        learner.update(&gradients, variant, step, spec)?;
    }
    Ok(())
}
