//! Training on labels: all weights of a classifier, by AdamW with a linearly falling rate, as the methods of
//! this room were published.

use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_engine::train::{Penalty, clip_factor, mean_loss, shuffled_batches};
use antigen_models::kernels::{AdamW, AdamWState, on_worker, sum_of_squares};
use antigen_models::layers::{Gradients, LabelTarget};
use antigen_models::{Model, Tensor};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::classifier::{accuracy, pack, plain_pass};
use super::tokenizer::Encoded;

/// Settings of training on labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelTrainSpec {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Passes over the sentences.
    pub epochs: usize,
    /// Sentences of one step.
    pub batch_rows: usize,
    /// Fraction of all steps in which the rate rises from 0; it falls to 0 in the others.
    pub warmup_fraction: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// The gradients of all that is trained are scaled down to this norm; `null` leaves them alone.
    pub max_gradient_norm: Option<f64>,
}

impl Default for LabelTrainSpec {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            epochs: 3,
            batch_rows: 32,
            warmup_fraction: 0.0,
            weight_decay: 0.0,
            max_gradient_norm: Some(1.0),
        }
    }
}

impl LabelTrainSpec {
    /// For a classifier that starts from random weights.
    pub fn from_nothing() -> Self {
        Self { learning_rate: 1e-3, epochs: 3, warmup_fraction: 0.1, weight_decay: 0.05, ..Self::default() }
    }

    fn rate(&self, step: usize, steps: usize) -> f64 {
        let (step, steps) = (step as f64, steps as f64);
        let warmup = self.warmup_fraction * steps;
        let share = if step < warmup { (step + 1.0) / (warmup + 1.0) } else { (steps - step) / (steps - warmup) };
        self.learning_rate * share
    }
}

/// AdamW on a list of tensors that move together.
pub(super) struct Optimiser {
    weights: Vec<(Tensor, AdamWState)>,
    spec: LabelTrainSpec,
    step: usize,
    steps: usize,
}

impl Optimiser {
    /// The tensors are shared with whoever computes with them, and moved in place.
    pub fn new(weights: impl IntoIterator<Item = Tensor>, spec: &LabelTrainSpec, steps: usize) -> Result<Self> {
        let with_state = |w: Tensor| AdamWState::new(&w).map(|state| (w, state));
        let weights = weights.into_iter().map(with_state).collect::<Result<_, _>>()?;
        Ok(Self { weights, spec: spec.clone(), step: 0, steps })
    }

    /// Moves every weight that has a gradient.
    pub fn update(&mut self, gradients: &[Option<Tensor>]) -> Result<()> {
        debug_assert_eq!(gradients.len(), self.weights.len());
        let mut squares = 0.0;
        for gradient in gradients.iter().flatten() {
            squares += sum_of_squares(gradient)?;
        }
        let clip = self.spec.max_gradient_norm.map_or(1.0, |norm| clip_factor(squares, norm));
        let rate = self.spec.rate(self.step, self.steps);
        for ((weight, state), gradient) in self.weights.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let weight_decay = if weight.rank() > 1 { self.spec.weight_decay } else { 0.0 };
            AdamW { weight_decay, ..AdamW::default() }.update(weight, gradient, state, rate, clip, self.step + 1)?;
        }
        self.step += 1;
        Ok(())
    }
}

/// Trains every weight; returns the mean loss of each step in nats.
///
/// Weights that are zero together with all that reads and writes them, such as those of removed heads, have
/// gradients of exactly zero and stay zero.
///
/// # Errors
/// [`antigen_engine::error::EngineError::Diverged`], [`antigen_engine::error::EngineError::Cancelled`], those
/// of the device.
pub fn train_labels(
    model: &mut Model,
    sentences: &[Encoded],
    spec: &LabelTrainSpec,
    penalty: Option<&Penalty>,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<Vec<f64>> {
    train_by_epoch(model, sentences, spec, penalty, shuffle, lab, &mut |_| Ok(()))
}

/// As [`train_labels`]; the model ends as it was after the epoch with the highest accuracy on `validation`,
/// the earliest of equals.
///
/// # Errors
/// As [`train_labels`].
pub fn train_labels_keeping_best(
    model: &mut Model,
    (sentences, validation): (&[Encoded], &[Encoded]),
    spec: &LabelTrainSpec,
    shuffle: ChaCha8Rng,
    lab: &Lab,
) -> Result<()> {
    let mut best = BestEpoch::default();
    train_by_epoch(model, sentences, spec, None, shuffle, lab, &mut |model| {
        best.offer(accuracy(model, validation)?, model.params().iter().map(|(_, _, weight)| weight))
    })?;
    best.restore(model.params().iter().map(|(_, _, weight)| weight))
}

/// Copies of trained tensors at their best epoch.
#[derive(Default)]
pub(super) struct BestEpoch(Option<(f64, Vec<Tensor>)>);

impl BestEpoch {
    /// Copies the tensors if no earlier epoch was as good.
    pub fn offer<'a>(&mut self, accuracy: f64, tensors: impl Iterator<Item = &'a Tensor>) -> Result<()> {
        if self.0.as_ref().is_none_or(|(best, _)| accuracy > *best) {
            self.0 = Some((accuracy, tensors.map(Tensor::copy).collect::<candle_core::Result<_>>()?));
        }
        Ok(())
    }

    /// Puts the best numbers back into the tensors, which are those that were offered.
    pub fn restore<'a>(&self, tensors: impl Iterator<Item = &'a Tensor>) -> Result<()> {
        let best = self.0.iter().flat_map(|(_, best)| best);
        tensors.zip(best).try_for_each(|(tensor, best)| Ok(tensor.slice_set(best, 0, 0)?))
    }
}

fn train_by_epoch(
    model: &mut Model,
    sentences: &[Encoded],
    spec: &LabelTrainSpec,
    penalty: Option<&Penalty>,
    shuffle: ChaCha8Rng,
    lab: &Lab,
    after_epoch: &mut (dyn FnMut(&Model) -> Result<()> + Send),
) -> Result<Vec<f64>> {
    let model: &Model = model;
    let batches = shuffled_batches(sentences.len(), spec.batch_rows, spec.epochs, shuffle);
    let of_epoch = sentences.len().div_ceil(spec.batch_rows.max(1)).max(1);
    on_worker(|| {
        let mut optimiser = Optimiser::new(model.params().iter().map(|(_, _, w)| w.clone()), spec, batches.len())?;
        let mut losses = Vec::with_capacity(batches.len());
        for (step, batch) in batches.iter().enumerate() {
            lab.check_cancel()?;
            let batch: Vec<&Encoded> = batch.iter().map(|&i| &sentences[i]).collect();
            let (batch_losses, mut gradients) = label_gradients(model, &batch)?;
            for (id, _, weight) in model.params().iter() {
                if let Some((gradient, penalty)) = gradients[id.0].as_mut().zip(penalty) {
                    penalty.add_to(gradient, id, weight)?;
                }
            }
            losses.push(mean_loss(&batch_losses, step, lab)?);
            optimiser.update(&gradients)?;
            lab.advance(step as u64 + 1, batches.len() as u64);
            if (step + 1) % of_epoch == 0 {
                after_epoch(model)?;
            }
        }
        Ok(losses)
    })
}

/// Losses of the sentences, and the gradient of their mean for every weight of the model, by parameter.
pub(super) fn label_gradients(model: &Model, batch: &[&Encoded]) -> Result<(Vec<f32>, Vec<Option<Tensor>>)> {
    let (tokens, rows) = pack(batch.iter().copied());
    let targets = label_targets(batch);
    let mut gradients = Gradients::of_weights(model.params());
    let (losses, _) = model.label_loss_and_gradients(&tokens, &targets, plain_pass(model, &rows), &mut gradients)?;
    let gradients = model.params().iter().map(|(id, ..)| gradients.weight(id).cloned()).collect();
    Ok((losses, gradients))
}

/// Every sentence weighs the same, all together 1.
pub(super) fn label_targets(batch: &[&Encoded]) -> Vec<LabelTarget> {
    let weight = 1.0 / batch.len().max(1) as f32;
    batch.iter().map(|sentence| LabelTarget { label: sentence.label, weight }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_linearly_behind_its_warm_up() {
        let spec = LabelTrainSpec { learning_rate: 8.0, warmup_fraction: 0.2, ..LabelTrainSpec::default() };
        let rates: Vec<f64> = (0..10).map(|step| spec.rate(step, 10)).collect();
        assert_eq!(rates, [8.0 / 3.0, 16.0 / 3.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn the_best_epoch_comes_back_and_the_earliest_of_equals_is_kept() {
        let tensor = Tensor::new(&[1f32], &antigen_models::Device::Cpu).unwrap();
        let mut best = BestEpoch::default();
        for (accuracy, number) in [(0.5, 1f32), (0.7, 2.0), (0.7, 3.0), (0.6, 4.0)] {
            tensor.slice_set(&Tensor::new(&[number], tensor.device()).unwrap(), 0, 0).unwrap();
            best.offer(accuracy, [&tensor].into_iter()).unwrap();
        }
        best.restore([&tensor].into_iter()).unwrap();
        assert_eq!(tensor.to_vec1::<f32>().unwrap(), [2.0]);
    }
}
