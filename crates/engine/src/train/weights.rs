//! All weights of a model, trained in place.

use antigen_models::kernels::{AdamW, AdamWState, on_worker, sum_of_squares};
use antigen_models::layers::{GradientGroup, Gradients};
use antigen_models::{Example, Model, Tensor};
use rand_chacha::ChaCha8Rng;

use super::batches::shuffled_batches;
use super::kept_out::{KeptOut, Projection};
use super::memory::{activation_budget, runs_within};
use super::objective::{Batch, Learning, Objective, learn};
use super::penalty::Penalty;
use super::schedule::learning_rate;
use super::{clip_factor, mean_loss};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::TrainSpec;

/// Trains every weight of `model` on `examples`; returns the mean loss of every step, nats per response
/// token. Weight decay touches matrices only, not the scales of norms.
///
/// The optimiser moves each block as soon as backward has left it, so that all gradients never exist at once.
/// The norm of all gradients is then unknown; instead each group (a block; embedding, final norm and head
/// together) is scaled down to its share `max_gradient_norm * sqrt(scalars of the group / scalars of all)`:
/// shares whose squares add up to the whole.
///
/// # Errors
/// [`EngineError::Diverged`], which leaves the weights spoilt; [`EngineError::Cancelled`] between two steps;
/// [`EngineError::OutOfMemory`] when the lab's budget allows neither whole batches nor halves of them.
///
/// # Cost
/// Memory for two moments of all weights beside the weights themselves, and for the gradients of one block,
/// the embedding and the head; of all weights where batches are taken in halves, because their gradients add
/// up.
pub fn train_weights(
    model: &mut Model,
    examples: &[Example],
    spec: &TrainSpec,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<Vec<f64>> {
    train_weights_towards(&Objective::Responses, &[], model, examples, spec, shuffle, lab)
}

/// As [`train_weights`], towards any objective; after every step each weight loses the part that it got back
/// in the directions that are kept out.
///
/// # Errors
/// As [`train_weights`].
pub fn train_weights_towards(
    objective: &Objective,
    kept_out: &[KeptOut],
    model: &mut Model,
    examples: &[Example],
    spec: &TrainSpec,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<Vec<f64>> {
    let batches = shuffled_batches(examples.len(), spec.batch_rows, spec.epochs, shuffle);
    let projections = kept_out.iter().filter_map(|kept| kept.bind(model).transpose()).collect::<Result<Vec<_>>>()?;
    on_worker(|| train_in_steps(objective.clone(), &projections, model, examples, spec, &batches, lab))
}

fn train_in_steps(
    mut objective: Objective,
    projections: &[Projection],
    model: &Model,
    examples: &[Example],
    spec: &TrainSpec,
    batches: &[Vec<usize>],
    lab: &Lab,
) -> Result<Vec<f64>> {
    let tokens = |i: &usize| objective.tokens(&examples[*i]);
    let (batch_tokens, kept) = plan(model, batches, tokens, lab)?;
    let runs: Vec<_> = batches.iter().map(|batch| runs_within(batch.iter().map(tokens), batch_tokens)).collect();
    let mut optimiser = Optimiser::new(model, objective.penalty(), spec, batches.len())?;
    let mut gradients = Gradients::streamed(model.params(), move |group| optimiser.update(group)).keeping(kept);
    let mut losses = Vec::with_capacity(batches.len());
    let learning = Learning { model, adapters: &[], kept };
    for (step, (rows, runs)) in batches.iter().zip(runs).enumerate() {
        lab.check_cancel()?;
        let mut batch_losses = Vec::new();
        gradients.add_up(runs.len());
        for run in runs {
            let lesson = objective.lesson(Batch::part(examples, rows, run), learning)?;
            batch_losses.extend(learn(model, vec![lesson], &[], &mut gradients)?.concat());
        }
        projections.iter().try_for_each(Projection::apply)?;
        losses.push(mean_loss(&batch_losses, step, lab)?);
        lab.advance(step as u64 + 1, batches.len() as u64);
    }
    Ok(losses)
}

/// Tokens of a pass and bytes of activations it may keep: whole batches, or halves of the largest where
/// memory is short.
fn plan(
    model: &Model,
    batches: &[Vec<usize>],
    tokens: impl Fn(&usize) -> usize + Copy,
    lab: &Lab,
) -> Result<(usize, Option<u64>)> {
    let largest = batches.iter().map(|batch| batch.iter().map(tokens).sum()).max().unwrap_or(0);
    let longest = batches.iter().flatten().map(tokens).max().unwrap_or(0);
    let scalars = model.params().count_scalars() as u64;
    let outside_blocks: usize =
        model.params().iter().filter(|(_, _, w)| w.rank() == 2).map(|(_, _, w)| w.elem_count()).max().unwrap_or(0);
    let block = scalars / model.config().layers() as u64;
    match activation_budget(model, largest, 4 * (2 * scalars + 2 * outside_blocks as u64 + block), lab.memory_budget) {
        Err(EngineError::OutOfMemory { estimate, budget }) => {
            tracing::warn!(estimate, budget, "out of memory: taking batches in halves");
            let half = largest.div_ceil(2).max(longest);
            Ok((half, activation_budget(model, half, 4 * 3 * scalars, lab.memory_budget)?))
        }
        kept => Ok((largest, kept?)),
    }
}

/// AdamW on every weight, group by group.
struct Optimiser {
    /// The model's own tensors, by parameter, shared with it.
    weights: Vec<(Tensor, AdamWState)>,
    scalars: usize,
    penalty: Option<Penalty>,
    spec: TrainSpec,
    step: usize,
    steps: usize,
}

impl Optimiser {
    fn new(model: &Model, penalty: Option<&Penalty>, spec: &TrainSpec, steps: usize) -> Result<Self> {
        let weights = model.params().iter().map(|(_, _, w)| Ok((w.clone(), AdamWState::new(w)?)));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let (scalars, penalty) = (model.params().count_scalars(), penalty.cloned());
        Ok(Self { weights, scalars, penalty, spec: spec.clone(), step: 0, steps })
    }

    /// Adds the penalty, clips the group and moves its weights; the last group ends the step.
    fn update(&mut self, mut group: GradientGroup) -> antigen_models::error::Result<()> {
        if let Some(penalty) = &self.penalty {
            for (id, gradient) in &mut group.gradients {
                penalty.add_to(gradient, *id, &self.weights[id.0].0)?;
            }
        }
        let rate = learning_rate(&self.spec, self.step, self.steps);
        let (mut squares, mut scalars) = (0.0, 0);
        for (_, gradient) in &group.gradients {
            squares += sum_of_squares(gradient)?;
            scalars += gradient.elem_count();
        }
        let share = (scalars as f64 / self.scalars as f64).sqrt();
        let clip = clip_factor(squares, self.spec.max_gradient_norm * share);
        for (id, gradient) in &group.gradients {
            let (weight, state) = &self.weights[id.0];
            let weight_decay = if weight.rank() > 1 { self.spec.weight_decay } else { 0.0 };
            let adamw = AdamW { weight_decay, ..AdamW::default() };
            adamw.update(weight, gradient, state, rate, clip, self.step + 1)?;
        }
        self.step += usize::from(group.last);
        Ok(())
    }
}
