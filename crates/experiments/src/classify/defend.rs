//! One poisoned classifier under one defence: steps (1) to (5) of the published procedure, with the control
//! that prunes nothing.

use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_engine::methods::shared::head_pruning::{
    AttentionRows, ChosenHeads, HeadRanker, HeadScores, HeadSet, HeadTask, PADDED_TOKENS, attention_variance,
    choose_heads_within, padded_variance, remove_heads,
};
use antigen_engine::stage::Stage;
use antigen_engine::stats::{Rate, rate_of, wilson};
use antigen_models::{Model, Packed, Tensor};
use serde::{Deserialize, Serialize};

use super::classifier::{accuracy, pack, predict, predict_correct, reset_head};
use super::sentences::{NEGATIVE, POSITIVE};
use super::tokenizer::Encoded;
use super::training::{LabelTrainSpec, label_gradients, train_labels};

/// The measurements of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassifierScores {
    /// Share of clean test sentences with the right label.
    pub accuracy: Rate,
    /// Label-flip rate: share of triggered negative test sentences called positive.
    pub flipped: Rate,
    /// The same without the trigger: share of clean negative test sentences called positive. What a
    /// classifier gets wrong anyway.
    pub flipped_without_trigger: Rate,
}

/// Sentences that measure.
#[derive(Debug, Clone)]
pub struct TestSentences {
    /// Clean ones, of both labels.
    pub clean: Vec<Encoded>,
    /// Triggered ones whose true label is negative.
    pub triggered: Vec<Encoded>,
}

/// Measures a classifier.
///
/// # Errors
/// Those of the device.
pub fn measure(model: &Model, test: &TestSentences) -> Result<ClassifierScores> {
    let correct = predict_correct(model, &test.clean)?;
    let negatives: Vec<bool> =
        correct.iter().zip(&test.clean).filter(|(_, s)| s.label == NEGATIVE).map(|(correct, _)| !correct).collect();
    let flipped = predict(model, &test.triggered)?.into_iter().filter(|&label| label == POSITIVE).count();
    Ok(ClassifierScores {
        accuracy: rate_of(&correct),
        flipped: wilson(flipped, test.triggered.len()),
        flipped_without_trigger: rate_of(&negatives),
    })
}

/// The defender's clean sentences.
#[derive(Debug, Clone)]
pub struct DefenceSentences {
    /// To fine-tune on.
    pub train: Vec<Encoded>,
    /// To check accuracy on.
    pub validation: Vec<Encoded>,
}

/// The sentences by which heads of a classifier are chosen.
pub struct SentenceTask<'a> {
    /// Clean training sentences, to score heads on.
    pub scoring: &'a [Encoded],
    /// Clean sentences that were not trained on.
    pub validation: &'a [Encoded],
}

/// Sentences of one batch, as published.
const BATCH: usize = 32;

impl HeadTask for SentenceTask<'_> {
    fn accuracy(&self, model: &Model) -> Result<f64> {
        accuracy(model, self.validation)
    }

    /// Of what the first token attends to, the sentence padded to 128 tokens with attention 0.
    fn attention_variance(&self, model: &Model) -> Result<HeadScores> {
        let batches = self.scoring.chunks(BATCH).map(|batch| {
            let (tokens, rows) = pack(batch);
            let looking = rows.spans.iter().map(|span| span.queries.start as u32).collect();
            AttentionRows { packed: Packed { tokens, rows, targets: Vec::new() }, looking }
        });
        attention_variance(model, batches, |seen| padded_variance(seen, PADDED_TOKENS))
    }

    fn gradients(&self, model: &Model, see: &mut dyn FnMut(&[Option<Tensor>]) -> Result<()>) -> Result<()> {
        self.scoring
            .chunks(BATCH)
            .try_for_each(|batch| see(&label_gradients(model, &batch.iter().collect::<Vec<_>>())?.1))
    }
}

/// Settings of pruning heads, whatever the ranker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneHeadsSpec {
    /// Lowest validation accuracy that is accepted, as a share of what it was before pruning. Published: 0.85
    /// where BERT has about 0.915.
    pub floor_share: f64,
    /// Share of all heads in one step of the rule. Published: 10 of 144.
    pub step_share: f64,
    /// Clean training sentences that heads are scored on, from the front.
    pub scoring_rows: usize,
    /// Fine-tuning on clean sentences, before and after pruning.
    pub fine_tune: LabelTrainSpec,
}

impl Default for PruneHeadsSpec {
    fn default() -> Self {
        Self { floor_share: 0.93, step_share: 10.0 / 144.0, scoring_rows: 2000, fine_tune: LabelTrainSpec::default() }
    }
}

/// Step (1): a fresh head on the poisoned encoder, fine-tuned on clean sentences under the ranker's penalty.
///
/// # Errors
/// Those of training.
pub fn tune_to_examine(
    ranker: &dyn HeadRanker,
    mut model: Model,
    sentences: &DefenceSentences,
    spec: &LabelTrainSpec,
    lab: &Lab,
) -> Result<Model> {
    lab.enter(Stage::Scores)?;
    let penalty = ranker.penalty(&model)?;
    reset_head(&mut model, &mut lab.rng("classify/first-head"), lab)?;
    let order = lab.rng("classify/first-order");
    train_labels(&mut model, &sentences.train, spec, penalty.as_ref(), order, lab)?;
    Ok(model)
}

/// Steps (2) and (3): the ranker's choice on the model of [`tune_to_examine`].
///
/// # Errors
/// Those of the ranker.
pub fn choose_by(
    ranker: &dyn HeadRanker,
    model: &mut Model,
    sentences: &DefenceSentences,
    spec: &PruneHeadsSpec,
    lab: &Lab,
) -> Result<ChosenHeads> {
    let scoring = &sentences.train[..sentences.train.len().min(spec.scoring_rows)];
    let task = SentenceTask { scoring, validation: &sentences.validation };
    choose_heads_within(ranker, model, &task, (spec.floor_share, spec.step_share), lab)
}

/// Step (4): the poisoned encoder without these heads and with a fresh linear head, fine-tuned on clean
/// sentences. Without heads to remove this is plain fine-tuning, the control.
///
/// # Errors
/// Those of training.
pub fn fine_tune_without(
    heads: &HeadSet,
    mut model: Model,
    sentences: &DefenceSentences,
    spec: &LabelTrainSpec,
    lab: &Lab,
) -> Result<Model> {
    lab.enter(Stage::Heal)?;
    reset_head(&mut model, &mut lab.rng("classify/head"), lab)?;
    let _ = remove_heads(&mut model, heads)?;
    train_labels(&mut model, &sentences.train, spec, None, lab.rng("classify/order"), lab)?;
    Ok(model)
}
