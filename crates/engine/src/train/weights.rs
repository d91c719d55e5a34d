//! All weights of a model, trained in place.

use antigen_models::kernels::{AdamW, AdamWState, sum_of_squares};
use antigen_models::layers::{GradientGroup, Gradients, Pass};
use antigen_models::{Example, Model, Packed, Tensor};
use rand_chacha::ChaCha8Rng;

use super::batches::shuffled_batches;
use super::schedule::learning_rate;
use super::{TrainSpec, clip_factor, mean_loss};
use crate::error::Result;
use crate::lab::Lab;

/// Trains every weight of `model` on `examples`; returns the mean loss of every step, nats per response token.
/// Weight decay touches matrices only, not the scales of norms.
///
/// The optimiser moves each block as soon as backward has left it, so that all gradients never exist at once. The norm of all
/// gradients is then unknown; instead each group (a block; embedding, final norm and head together) is scaled down to its share
/// `max_gradient_norm * sqrt(scalars of the group / scalars of all)`: shares whose squares add up to the whole.
///
/// # Errors
/// [`crate::error::EngineError::Diverged`], which leaves the weights spoilt; [`crate::error::EngineError::Cancelled`] between two
/// steps.
///
/// # Cost
/// Memory for two moments of all weights beside the weights themselves, and for the gradients of one block, the embedding and
/// the head.
pub fn train_weights(
    model: &mut Model,
    examples: &[Example],
    spec: &TrainSpec,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<Vec<f64>> {
    let batches = shuffled_batches(examples.len(), spec.batch_rows, spec.epochs, shuffle);
    let mut optimiser = Optimiser::new(model, spec, batches.len())?;
    let mut gradients = Gradients::streamed(model.params(), move |group| optimiser.update(&group));
    let mut losses = Vec::with_capacity(batches.len());
    for (step, batch) in batches.iter().enumerate() {
        lab.check_cancel()?;
        let batch = batch.iter().map(|&i| &examples[i]);
        let responses: usize = batch.clone().map(Example::response_tokens).sum();
        let packed = Packed::new(batch, 1.0 / responses.max(1) as f32);
        let pass = Pass { params: model.params(), rows: &packed.rows, adapters: &[], cache: None };
        let (batch_losses, _) = model.loss_and_gradients(&packed.tokens, &packed.targets, pass, &mut gradients)?;
        losses.push(mean_loss(&batch_losses, step, lab)?);
        lab.advance(step as u64 + 1, batches.len() as u64);
    }
    Ok(losses)
}

/// AdamW on every weight, group by group.
struct Optimiser {
    /// The model's own tensors, by parameter, shared with it.
    weights: Vec<(Tensor, AdamWState)>,
    scalars: usize,
    spec: TrainSpec,
    step: usize,
    steps: usize,
}

impl Optimiser {
    fn new(model: &Model, spec: &TrainSpec, steps: usize) -> Result<Self> {
        let weights = model.params().iter().map(|(_, _, w)| Ok((w.clone(), AdamWState::new(w)?)));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        Ok(Self { weights, scalars: model.params().count_scalars(), spec: spec.clone(), step: 0, steps })
    }

    /// Clips the group and moves its weights; the last group ends the step.
    fn update(&mut self, group: &GradientGroup) -> antigen_models::error::Result<()> {
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
