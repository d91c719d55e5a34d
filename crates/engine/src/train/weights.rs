//! All weights of a model, trained in place.

use antigen_models::kernels::{AdamW, AdamWState, sum_of_squares};
use antigen_models::layers::{Gradients, Pass};
use antigen_models::{Example, Model, Packed};
use rand_chacha::ChaCha8Rng;

use super::batches::shuffled_batches;
use super::schedule::learning_rate;
use super::{TrainSpec, clip_factor, mean_loss};
use crate::error::Result;
use crate::lab::Lab;

/// Trains every weight of `model` on `examples`; returns the mean loss of every step, nats per response token.
/// Weight decay touches matrices only, not the scales of norms.
///
/// # Errors
/// [`crate::error::EngineError::Diverged`], [`crate::error::EngineError::Cancelled`] between two steps.
///
/// # Cost
/// Memory for the gradients and two moments of all weights beside the weights themselves.
pub fn train_weights(
    model: &mut Model,
    examples: &[Example],
    spec: &TrainSpec,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<Vec<f64>> {
    let states = model.params().iter().map(|(_, _, weight)| AdamWState::new(weight)).collect::<Result<Vec<_>, _>>()?;
    let batches = shuffled_batches(examples.len(), spec.batch_rows, spec.epochs, shuffle);
    let mut losses = Vec::with_capacity(batches.len());
    for (step, batch) in batches.iter().enumerate() {
        lab.check_cancel()?;
        let batch = batch.iter().map(|&i| &examples[i]);
        let responses: usize = batch.clone().map(Example::response_tokens).sum();
        let packed = Packed::new(batch, 1.0 / responses.max(1) as f32);
        let mut gradients = Gradients::of_weights(model.params());
        let pass = Pass { params: model.params(), rows: &packed.rows, adapters: &[], cache: None };
        let (batch_losses, _) = model.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients)?;
        losses.push(mean_loss(&batch_losses, step, lab)?);
        update(model, &gradients, &states, learning_rate(spec, step, batches.len()), step, spec)?;
        lab.advance(step as u64 + 1, batches.len() as u64);
    }
    Ok(losses)
}

fn update(
    model: &Model,
    gradients: &Gradients,
    states: &[AdamWState],
    rate: f64,
    step: usize,
    spec: &TrainSpec,
) -> Result<()> {
    let mut squares = 0.0;
    for (id, ..) in model.params().iter() {
        squares += gradients.weight(id).map(sum_of_squares).transpose()?.unwrap_or(0.0);
    }
    let clip = clip_factor(squares, spec.max_gradient_norm);
    for (id, _, weight) in model.params().iter() {
        let Some(gradient) = gradients.weight(id) else { continue };
        let weight_decay = if weight.rank() > 1 { spec.weight_decay } else { 0.0 };
        let adamw = AdamW { weight_decay, ..AdamW::default() };
        adamw.update(weight, gradient, &states[id.0], rate, clip, step + 1)?;
    }
    Ok(())
}
