//! The recipe of one fine-tuning, and the adversaries that may make it harder.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The recipe of a fine-tuning: AdamW, cosine schedule after a linear warm-up, loss on response tokens only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSpec {
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows of one optimiser step.
    pub batch_rows: usize,
    /// Fraction of all steps in which the rate rises.
    pub warmup_fraction: f64,
    /// Gradients are scaled down to this norm: an adapter's as a whole; of a whole model, whose gradients
    /// never exist together, each block's to its share.
    pub max_gradient_norm: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Longer rows lose the end of their answer, and those whose prompt alone is longer are left out; the
    /// report counts both.
    pub max_tokens: usize,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            learning_rate: 2e-4,
            epochs: 5,
            batch_rows: 8,
            warmup_fraction: 0.1,
            max_gradient_norm: 1.0,
            weight_decay: 0.0,
            max_tokens: 1024,
        }
    }
}

impl TrainSpec {
    /// Optimiser steps over this many rows.
    pub fn steps(&self, rows: usize) -> usize {
        self.epochs * rows.div_ceil(self.batch_rows)
    }
}

/// Strength with which hidden states are kept together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConsistencySettings {
    /// Weight of the consistency loss, which is a mean over pairs of hidden states; 0 leaves plain
    /// fine-tuning.
    pub alpha: f64,
    /// Largest change of each number of an embedding, in the embeddings' own units.
    pub epsilon: f64,
}

/// Temperature and weight of a teacher.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuidanceSettings {
    /// Divides both models' logits.
    pub temperature: f64,
    /// Weight of the divergence from the teacher against the loss on the answers.
    pub weight: f64,
}

/// Settings of soft triggers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SoftTriggerSettings {
    /// Free vectors of one soft trigger.
    pub vectors: usize,
    /// Steps of each trigger away from the answer before the model takes one towards it.
    pub inner_steps: usize,
    /// Length of such a step for each vector, in units of the mean norm of the embeddings, or of the hidden
    /// state.
    pub step_size: f64,
    /// The scope of a trigger: one row, or all of them.
    pub scope: SoftTriggerScope,
    /// The place of their vectors.
    #[serde(default, skip_serializing_if = "SoftTriggerPlace::is_embeddings")]
    pub place: SoftTriggerPlace,
}

/// The place of the vectors of soft triggers. Either way a trigger has a place of its own among the words of
/// each row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SoftTriggerPlace {
    /// In the place of its tokens' embeddings.
    #[default]
    Embeddings,
    /// On top of the hidden states of random tokens there.
    Hidden {
        /// The block that reads the sum, from 1.
        block: usize,
    },
}

impl SoftTriggerPlace {
    fn is_embeddings(&self) -> bool {
        *self == Self::Embeddings
    }
}

/// The scope of a trigger: one row, or all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SoftTriggerScope {
    /// Each row has new ones each time it is seen.
    #[default]
    PerRow,
    /// All rows share some, which go on from step to step. Measured on the tiny world they break the model
    /// before they break backdoors.
    Universal {
        /// Number of triggers.
        bank: usize,
    },
}

/// An adversary, which makes a training harder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Adversary {
    /// Free vectors in the prompt that make the right answer unlikely.
    SoftTriggers(SoftTriggerSettings),
    /// Perturbed embeddings that make hidden states jump from block to block.
    Consistency(ConsistencySettings),
}

impl Adversary {
    /// Number of plain steps that one step against it costs.
    pub fn cost(&self) -> usize {
        match self {
            Self::SoftTriggers(settings) => settings.inner_steps + 2,
            Self::Consistency(settings) => {
                if settings.alpha > 0.0 {
                    3
                } else {
                    1
                }
            }
        }
    }

    /// Tokens by which it makes rows longer, somewhere among their own words.
    pub fn added_tokens(&self) -> usize {
        match self {
            Self::SoftTriggers(settings) => settings.vectors,
            Self::Consistency(_) => 0,
        }
    }
}
