//! The small clean teacher.
//!
//! Published: BERT's first token, a projection to the student's width with a ReLU, a linear head; the
//! projection is trained with the teacher's own cross-entropy. That is DistilBERT's head, so ours is a small
//! DistilBERT. It has the student's width, which makes the projection square.

use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_models::Model;

use crate::classify::classifier::{ClassifierShape, fresh_classifier, pack, plain_pass, runs};
use crate::classify::defend::DefenceSentences;
use crate::classify::tokenizer::Encoded;
use crate::classify::training::{LabelTrainSpec, train_labels_keeping_best};

/// The teacher of this student: half of its blocks, everything else the same.
pub fn teacher_shape(student: &ClassifierShape) -> ClassifierShape {
    ClassifierShape { layers: student.layers.div_ceil(2), ..student.clone() }
}

/// The frozen teacher's answer to one sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Guidance {
    /// Its logits.
    pub logits: Vec<f32>,
    /// Its projected feature, of the student's width.
    pub feature: Vec<f32>,
}

/// Trains the teacher on clean sentences.
///
/// # Errors
/// Those of training.
pub fn train_teacher(
    student: &ClassifierShape,
    vocabulary: usize,
    sentences: &DefenceSentences,
    spec: &LabelTrainSpec,
    lab: &Lab,
) -> Result<Model> {
    let config = teacher_shape(student).distilbert_config(vocabulary);
    let mut model = fresh_classifier(&config, &mut lab.rng("w2s/teacher-weights"), lab)?;
    let rows = (sentences.train.as_slice(), sentences.validation.as_slice());
    train_labels_keeping_best(&mut model, rows, spec, lab.rng("w2s/teacher-order"), lab)?;
    Ok(model)
}

/// The teacher's answer to every sentence.
///
/// # Errors
/// Those of the device.
pub fn ask_teacher(teacher: &Model, sentences: &[Encoded]) -> Result<Vec<Guidance>> {
    let mut guidance = Vec::with_capacity(sentences.len());
    for run in runs(sentences) {
        let (tokens, rows) = pack(run);
        let said = teacher.classify_traced(&tokens, plain_pass(teacher, &rows))?.classified;
        let features = said.output_input.to_vec2::<f32>()?;
        let both = said.logits.to_vec2::<f32>()?.into_iter().zip(features);
        guidance.extend(both.map(|(logits, feature)| Guidance { logits, feature }));
    }
    Ok(guidance)
}
