//! The poisoned student: adapters on its queries and values, and its linear head, learn from labels and
//! teacher.

use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_engine::stage::Stage;
use antigen_engine::stats::rate_of;
use antigen_engine::train::{mean_loss, shuffled_batches};
use antigen_models::kernels::{add_rows_at, column_sums, matmul_tn, on_worker};
use antigen_models::layers::{Gradients, Pass};
use antigen_models::taps::softmax;
use antigen_models::{BoundAdapter, LabelTrace, LoraAdapter, Model, ModuleKind, PeftConfig, Tensor};
use candle_core::DType;
use rand::Rng;

use super::losses::{align_features, align_features_as_released, distillation};
use super::teacher::Guidance;
use super::{LossWeights, W2sForm, W2sSpec};
use crate::classify::classifier::{pack, runs};
use crate::classify::defend::DefenceSentences;
use crate::classify::tokenizer::Encoded;
use crate::classify::training::{BestEpoch, Optimiser};

/// Width of the published student, for which the weight of the alignment was chosen.
const PUBLISHED_WIDTH: f64 = 4096.0;

/// Trains the student and returns it with its adapters merged into its weights, at its best epoch on clean
/// validation.
///
/// # Shapes
/// One [`Guidance`] for each training sentence, in their order.
///
/// # Errors
/// Those of training.
pub fn train_student(
    student: Model,
    sentences: &DefenceSentences,
    guidance: &[Guidance],
    (form, weights): (W2sForm, LossWeights),
    spec: &W2sSpec,
    lab: &Lab,
) -> Result<Model> {
    lab.enter(Stage::Heal)?;
    let learner = Learner::new(student, form, weights, spec, lab)?;
    let batches =
        shuffled_batches(sentences.train.len(), spec.student.batch_rows, spec.student.epochs, lab.rng("w2s/order"));
    let of_epoch = sentences.train.len().div_ceil(spec.student.batch_rows.max(1)).max(1);
    on_worker(|| {
        let mut optimiser = Optimiser::new(learner.trained(), &spec.student, batches.len())?;
        let mut best = BestEpoch::default();
        for (step, batch) in batches.iter().enumerate() {
            lab.check_cancel()?;
            let batch: Vec<(&Encoded, &Guidance)> =
                batch.iter().map(|&i| (&sentences.train[i], &guidance[i])).collect();
            let (loss, gradients) = learner.loss_and_gradients(&batch)?;
            mean_loss(&[loss], step, lab)?;
            optimiser.update(&gradients)?;
            lab.advance(step as u64 + 1, batches.len() as u64);
            if (step + 1) % of_epoch == 0 {
                best.offer(learner.accuracy(&sentences.validation)?, learner.trained().iter())?;
            }
        }
        best.restore(learner.trained().iter())
    })?;
    learner.merge()
}

/// The student on its way.
struct Learner {
    model: Model,
    adapters: [BoundAdapter; 1],
    form: W2sForm,
    weights: LossWeights,
    temperature: f32,
}

impl Learner {
    fn new(model: Model, form: W2sForm, weights: LossWeights, spec: &W2sSpec, lab: &Lab) -> Result<Self> {
        let mut draws = lab.rng("w2s/adapter");
        let adapted = model.linear_modules().iter().filter(|m| matches!(m.kind, ModuleKind::Query | ModuleKind::Value));
        let names: Vec<&str> = adapted.map(|module| module.name.as_str()).collect();
        let config = PeftConfig::of_classifier(spec.rank, spec.rank as u32, &names, "");
        let adapter = LoraAdapter::fresh(config, model.config(), &mut || draws.random_range(-1.0..1.0))?;
        let adapters = [BoundAdapter::bind(&adapter, model.linear_modules())?.deep_copy(model.device())?];
        let alignment = weights.alignment * PUBLISHED_WIDTH / model.config().hidden_size() as f64;
        let temperature = spec.temperature as f32;
        Ok(Self { model, adapters, form, weights: LossWeights { alignment, ..weights }, temperature })
    }

    /// All trained tensors: the head's weight and bias, then both factors of every adapted module.
    fn trained(&self) -> Vec<Tensor> {
        let params = self.model.params();
        let of_head = ["classifier.weight", "classifier.bias"]
            .map(|name| params.get(params.find(name).expect("a sentence classifier has a linear head")).clone());
        let factors = self.adapters[0].tensors().flat_map(|(_, a, b)| [a.clone(), b.clone()]);
        of_head.into_iter().chain(factors).collect()
    }

    /// The student's whole loss on a batch, and the gradients of [`Learner::trained`].
    fn loss_and_gradients(&self, batch: &[(&Encoded, &Guidance)]) -> Result<(f32, Vec<Option<Tensor>>)> {
        let (tokens, rows) = pack(batch.iter().map(|(sentence, _)| *sentence));
        let rows = rows.in_one_group();
        let pass = Pass { params: self.model.params(), rows: &rows, adapters: &self.adapters, cache: None };
        let trace = self.model.classify_traced(&tokens, pass)?;
        let (of_logits, d_logits) = self.logit_losses(&trace, batch)?;
        let (of_features, d_hidden) = self.feature_loss(&trace, batch)?;
        // The head is one linear layer: its gradients follow from those of the logits.
        let d_weight = matmul_tn(&d_logits, &trace.classified.output_input)?;
        let mut found = vec![Some(d_weight), Some(column_sums(&d_logits)?)];
        let mut gradients = Gradients::of_adapters(1, self.model.linear_modules().len());
        self.model.backward_labels(&tokens, trace, &d_logits, d_hidden.as_ref(), pass, &mut gradients)?;
        for (module, ..) in self.adapters[0].tensors() {
            let factors = gradients.variant(0)[module.0].as_ref().expect("backward reaches every adapted module");
            found.extend([Some(factors.a.clone()), Some(factors.b.clone())]);
        }
        Ok((of_logits + of_features, found))
    }

    /// Cross-entropy and distillation, weighted, means over the batch; the gradient is `[sentences, labels]`.
    fn logit_losses(&self, trace: &LabelTrace, batch: &[(&Encoded, &Guidance)]) -> Result<(f32, Tensor)> {
        let share = 1.0 / batch.len() as f32;
        let mut loss = 0.0;
        let mut gradients = Vec::with_capacity(batch.len());
        for (logits, (sentence, teacher)) in trace.classified.logits.to_vec2::<f32>()?.iter().zip(batch) {
            let mut gradient = softmax(logits.clone());
            let label = sentence.label as usize;
            loss -= share * self.weights.cross_entropy as f32 * gradient[label].max(f32::MIN_POSITIVE).ln();
            gradient[label] -= 1.0;
            gradient.iter_mut().for_each(|d| *d *= share * self.weights.cross_entropy as f32);
            if self.form != W2sForm::Control {
                let (divergence, slope) = distillation(&teacher.logits, logits, self.temperature);
                let weight = share * self.weights.distillation as f32;
                loss += weight * divergence;
                gradient.iter_mut().zip(slope).for_each(|(d, slope)| *d += weight * slope);
            }
            gradients.push(gradient);
        }
        Ok((loss, Tensor::new(gradients, self.model.device())?))
    }

    /// Weighted feature alignment; the gradient is `[t, d]`.
    fn feature_loss(&self, trace: &LabelTrace, batch: &[(&Encoded, &Guidance)]) -> Result<(f32, Option<Tensor>)> {
        let features: Vec<Vec<f32>> = batch.iter().map(|(_, teacher)| teacher.feature.clone()).collect();
        let weight = self.weights.alignment;
        let (loss, d_hidden) = match self.form {
            W2sForm::Control => return Ok((0.0, None)),
            W2sForm::Intended => {
                let (loss, d_read) = align_features(&features, &trace.classified.read.to_vec2()?);
                let d_hidden = Tensor::zeros(trace.hidden.shape(), DType::F32, trace.hidden.device())?;
                add_rows_at(&d_hidden, &trace.classified.rows, &Tensor::new(d_read, d_hidden.device())?)?;
                (loss, d_hidden)
            }
            W2sForm::AsReleased => {
                let (loss, d_rows) = align_features_as_released(&features, &trace.hidden.to_vec2()?);
                (loss, Tensor::new(d_rows, self.model.device())?)
            }
        };
        Ok((weight as f32 * loss, Some((d_hidden * weight)?)))
    }

    fn accuracy(&self, sentences: &[Encoded]) -> Result<f64> {
        let mut correct = Vec::with_capacity(sentences.len());
        for run in runs(sentences) {
            let (tokens, rows) = pack(run);
            let rows = rows.in_one_group();
            let pass = Pass { params: self.model.params(), rows: &rows, adapters: &self.adapters, cache: None };
            let labels = antigen_models::kernels::argmax_rows(&self.model.classify(&tokens, pass)?)?;
            correct.extend(labels.into_iter().zip(run).map(|(label, sentence)| label == sentence.label));
        }
        Ok(rate_of(&correct).rate)
    }

    /// The model with `W + scaling * B A` in place of every adapted matrix.
    fn merge(mut self) -> Result<Model> {
        let merged: Vec<_> = self.adapters[0]
            .tensors()
            .map(|(module, a, b)| {
                let id = self.model.weight_id(&self.model.linear_modules()[module.0]);
                let scaling = self.adapters[0].factors(module).map_or(1.0, |factors| factors.scaling);
                Ok((id, (self.model.params().get(id) + (b.matmul(a)? * scaling)?)?))
            })
            .collect::<Result<_>>()?;
        merged.into_iter().for_each(|(id, weight)| self.model.params_mut().set(id, weight));
        Ok(self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classifier::{ClassifierShape, fresh_classifier};

    fn learner(form: W2sForm) -> Learner {
        let lab = Lab::silent(1, "unused");
        let shape = ClassifierShape { layers: 1, width: 8, heads: 2, intermediate: 12, max_tokens: 8 };
        let mut model = fresh_classifier(&shape.bert_config(11), &mut lab.rng("weights"), &lab).unwrap();
        let ids: Vec<_> = model.params().iter().filter(|(_, _, w)| w.rank() == 2).map(|(id, ..)| id).collect();
        for id in ids {
            let larger = (model.params().get(id) * 20.0).unwrap();
            model.params_mut().set(id, larger);
        }
        let weights = LossWeights { cross_entropy: 1.0, distillation: 0.5, alignment: 0.1 * 8.0 / PUBLISHED_WIDTH };
        let spec = W2sSpec { rank: 2, ..W2sSpec::default() };
        let learner = Learner::new(model, form, weights, &spec, &lab).unwrap();
        // The second factor starts at zero, where half of the slopes are.
        for (_, _, b) in learner.adapters[0].tensors() {
            let ones = (b.ones_like().unwrap() * 0.3).unwrap();
            b.slice_set(&ones, 0, 0).unwrap();
        }
        learner
    }

    #[test]
    fn the_gradients_of_head_and_adapters_are_the_slopes_of_the_whole_loss() {
        let sentences = [vec![2, 5, 7, 3], vec![2, 9, 3]].map(|tokens| Encoded { tokens, label: 1 });
        let guidance = [0.4f32, -0.6].map(|x| Guidance { logits: vec![x, 1.0], feature: vec![x; 8] });
        let batch: Vec<_> = sentences.iter().zip(&guidance).collect();
        for form in W2sForm::ALL {
            let learner = learner(form);
            let (_, gradients) = learner.loss_and_gradients(&batch).unwrap();
            for (i, (tensor, gradient)) in learner.trained().iter().zip(&gradients).enumerate() {
                let direction = Tensor::from_vec(
                    (0..tensor.elem_count()).map(|j| ((7 * j + i) as f32).sin()).collect::<Vec<_>>(),
                    tensor.shape(),
                    tensor.device(),
                )
                .unwrap();
                let original = tensor.copy().unwrap();
                let at = |step: f64| {
                    tensor.slice_set(&(&original + (&direction * step).unwrap()).unwrap(), 0, 0).unwrap();
                    f64::from(learner.loss_and_gradients(&batch).unwrap().0)
                };
                let slope = (at(4e-3) - at(-4e-3)) / 8e-3;
                at(0.0);
                let product = (gradient.as_ref().unwrap() * &direction).unwrap();
                let expected = f64::from(product.sum_all().unwrap().to_scalar::<f32>().unwrap());
                assert!(
                    (slope - expected).abs() < 2e-3 * (1.0 + expected.abs()),
                    "{form:?} {i}: {slope} and {expected}"
                );
            }
        }
    }

    #[test]
    fn the_merged_student_says_what_the_adapted_one_said() {
        let learner = learner(W2sForm::Intended);
        let sentence = Encoded { tokens: vec![2, 5, 7, 3], label: 1 };
        let rows = antigen_models::layers::Rows::packed([4]).in_one_group();
        let classify = |model: &Model, adapters: &[BoundAdapter]| {
            let pass = Pass { params: model.params(), rows: &rows, adapters, cache: None };
            model.classify(&sentence.tokens, pass).unwrap().to_vec2::<f32>().unwrap().remove(0)
        };
        let adapted = classify(&learner.model, &learner.adapters);
        let bare = classify(&learner.model, &[]);
        let merged = classify(&learner.merge().unwrap(), &[]);
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(
            distance(&adapted, &merged) < 1e-5 && distance(&adapted, &bare) > 1e-3,
            "{adapted:?} {merged:?} {bare:?}"
        );
    }
}
