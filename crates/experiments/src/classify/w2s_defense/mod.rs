//! W2SDefense, in the form in which it was published: for classifiers ("Unlearning Backdoor Attacks for LLMs
//! with Weak-to-Strong Knowledge Distillation", Findings of ACL 2025, arXiv 2410.14425).
//!
//! A small clean teacher (`teacher.rs`) guides the poisoned student (`student.rs`), whose adapters and head
//! alone are trained; `losses.rs` has what guides it. The control is the same student on cross-entropy alone.

mod losses;
mod student;
mod teacher;

use serde::{Deserialize, Serialize};

pub use losses::{align_features, align_features_as_released, distillation};
pub use student::train_student;
pub use teacher::{Guidance, ask_teacher, teacher_shape, train_teacher};

use super::training::LabelTrainSpec;
use super::triggers::TriggerSpec;

/// The loss that the student is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum W2sForm {
    /// Cross-entropy, distillation, and features paired sentence by sentence.
    Intended,
    /// The same with the released code's pairing of features.
    AsReleased,
    /// Cross-entropy alone.
    Control,
}

impl W2sForm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Intended, Self::AsReleased, Self::Control];
}

/// Factors of the student's three losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWeights {
    /// Of cross-entropy.
    pub cross_entropy: f64,
    /// Of distillation.
    pub distillation: f64,
    /// Of feature alignment over the 4,096 numbers of the published student; a narrower student has it in
    /// proportion more.
    pub alignment: f64,
}

impl LossWeights {
    /// The published factors, which were tuned with the attack known. Styles are not among the published
    /// attacks and have those of paraphrases.
    pub fn published(trigger: TriggerSpec) -> Self {
        match trigger {
            TriggerSpec::RareWords => Self { cross_entropy: 5.0, distillation: 0.001, alignment: 0.001 },
            TriggerSpec::Sentence => Self { cross_entropy: 3.0, distillation: 0.01, alignment: 0.001 },
            TriggerSpec::Syntactic | TriggerSpec::StyleBible => {
                Self { cross_entropy: 1.0, distillation: 0.035, alignment: 0.002 }
            }
        }
    }
}

/// Training of the student. Rates are for small students; published are 2e-4 and rank 512 for a width of
/// 4,096.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct W2sSpec {
    /// Rank of the adapters on queries and values, and their alpha: an eighth of the width, as published.
    /// Dropout is left out.
    pub rank: usize,
    /// Softens both distributions of the distillation.
    pub temperature: f64,
    /// Training of adapters and head; the best epoch on clean validation is kept.
    pub student: LabelTrainSpec,
    /// Training of the teacher, from nothing; the best epoch is kept.
    pub teacher: LabelTrainSpec,
}

impl Default for W2sSpec {
    fn default() -> Self {
        let student =
            LabelTrainSpec { learning_rate: 2e-3, epochs: 5, max_gradient_norm: None, ..LabelTrainSpec::default() };
        Self { rank: 8, temperature: 2.0, student, teacher: LabelTrainSpec::from_nothing() }
    }
}
